"""``verify`` finds the first entry of an audit log that is not as it was written; ``compare``, what was cut at the end.

It needs the files alone, no Redis and no running process. What the files cannot show, that the last entries are gone,
or that somebody has written the log anew with new hashes, is found by the heads that another log has noted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from redflare_broker.errors import DecodeError

from .audit_files import AuditLine, audit_files, read_entries, read_lines
from .entry import NO_HASH, Action, AuditEntry, AuditHead


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFault:
    """The first thing that is wrong in a log."""

    #: of the entry
    sequence: int
    #: file and line; "": there is none
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """What ``verify`` has found."""

    #: entries up to the first fault
    entries: int
    #: the last of them
    last: AuditEntry | None
    fault: ChainFault | None
    #: the last line has no end: its place
    torn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedHead:
    """The head of a log, as another log has it."""

    head: AuditHead
    #: when it was noted, by the clock of that writer
    time: str
    #: of the entry that notes it
    noted_in: int


def verify(folder: Path) -> ChainReport:
    """Check all entries, from the first to the last.

    Raises:
        OSError: a file cannot be read.
    """
    last: AuditEntry | None = None
    torn = ""
    newest = audit_files(folder)[-1:]
    for line in read_lines(folder):
        if line.torn and [line.file] == newest:
            torn = line.place
            break
        entry, wrong = _check(line, last)
        if entry is None:
            expected = last.sequence + 1 if last else 1
            fault = ChainFault(sequence=expected, place=line.place, text=wrong)
            return ChainReport(entries=expected - 1, last=last, fault=fault)
        last = entry
    return ChainReport(entries=last.sequence if last else 0, last=last, fault=None, torn=torn)


def _check(line: AuditLine, before: AuditEntry | None) -> tuple[AuditEntry | None, str]:
    """Return the entry of a line, or what is wrong with it."""
    expected = before.sequence + 1 if before else 1
    try:
        entry = AuditEntry.parse(line.content)
    except DecodeError as error:
        return None, f"entry {expected} was altered: {error}"
    if not entry.is_genuine:
        return None, f"entry {expected} was altered: its hash is not that of its content"
    if entry.sequence > expected:
        missing = f"entry {expected} was"
        if entry.sequence > expected + 1:
            missing = f"entries {expected} to {entry.sequence - 1} were"
        return None, f"{missing} removed or put elsewhere: entry {entry.sequence} stands in its place"
    if entry.sequence < expected:
        return None, f"entry {entry.sequence} was inserted where entry {expected} belongs"
    if entry.previous != (before.hash if before else NO_HASH):
        return None, f"entry {expected} does not follow the one before it: one of the two was written anew"
    return entry, ""


def writer_of(folder: Path) -> str:
    """Return the name of the server or the site whose log it is, by its first entry that tells; "": none does."""
    opened = (entry for entry in read_entries(folder) if entry.action == Action.OPEN)
    return next((name for entry in opened for name in entry.subject.values()), "")


def noted_heads(folder: Path, writer: str) -> Iterator[NotedHead]:
    """Return the heads of another writer's log that this one has noted, in the order of its entries."""
    for entry in read_entries(folder):
        heads = entry.facts.get("heads")
        head = AuditHead.parse(heads.get(writer)) if isinstance(heads, dict) else None
        if head is not None:
            yield NotedHead(head=head, time=entry.time, noted_in=entry.sequence)


def compare(folder: Path, heads: Iterable[NotedHead]) -> ChainFault | None:
    """Check that a log, whose chain is whole, still has the entries of which another log has noted the hash."""
    noted = sorted(heads, key=lambda each: each.head.sequence)
    wanted = {each.head.sequence for each in noted}
    found: dict[int, str] = {}
    count = 0
    for entry in read_entries(folder):
        count = entry.sequence
        if count in wanted:
            found[count] = entry.hash
    for each in noted:
        sequence = each.head.sequence
        said = f"at {each.time} it had entry {sequence}, says entry {each.noted_in} of the other log"
        if sequence > count:
            return ChainFault(
                sequence=count + 1, place="", text=f"entry {count + 1} and those behind it were cut: {said}"
            )
        if found.get(sequence) != each.head.hash:
            text = f"entry {sequence}, or one before it, was written anew: {said}, with another hash"
            return ChainFault(sequence=sequence, place="", text=text)
    return None
