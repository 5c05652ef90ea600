"""The files of an audit log: ``<workspace>/audit/000001.jsonl`` and so on, the oldest first; read here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redflare_broker.errors import ConfigError, DecodeError

from .entry import Action, AuditEntry

AUDIT_FOLDER: Final = "audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """A line of a log."""

    file: Path
    #: in its file, from 1
    number: int
    #: without its end
    content: bytes
    #: It has no end: its writer is writing it, or has died meanwhile.
    torn: bool = False

    @property
    def place(self) -> str:
        return f"{self.file} line {self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEnd:
    """Where a log ends."""

    #: the last entry; None: there is none
    last: AuditEntry | None
    #: the last file; None: there is none
    file: Path | None
    #: its bytes up to the end of the last whole line
    size: int
    #: what follows them, of a line that was not written to its end
    torn: bytes


def audit_folder(workspace: str | Path) -> Path:
    """Return the folder of a workspace's audit log, which need not exist."""
    return Path(workspace).resolve() / AUDIT_FOLDER


def file_of(folder: Path, number: int) -> Path:
    """Return the path of a file, the first of which has the number 1."""
    return folder / f"{number:06d}.jsonl"


def audit_files(folder: Path) -> list[Path]:
    """List the files, the oldest first."""
    return sorted(folder.glob("[0-9]*.jsonl"), key=lambda path: (number_of(path), path.name))


def number_of(path: Path) -> int:
    """Return the number of a file; 0: its name has none."""
    return int(path.stem) if path.stem.isdigit() else 0


def read_lines(folder: Path) -> Iterator[AuditLine]:
    """Read all lines, the oldest first.

    Raises:
        OSError: a file cannot be read.
    """
    for path in audit_files(folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                torn = not line.endswith(b"\n")
                yield AuditLine(file=path, number=number, content=line if torn else line[:-1], torn=torn)


def read_entries(folder: Path) -> Iterator[AuditEntry]:
    """Read all entries, the oldest first; what is none is left out, and whether they are genuine is not checked.

    Raises:
        OSError: a file cannot be read.
    """
    for line in read_lines(folder):
        try:
            yield AuditEntry.parse(line.content)
        except DecodeError:
            continue


def submissions(folder: Path, action: Action) -> set[str]:
    """Return the submissions of jobs that entries of an action are about.

    Raises:
        OSError: a file cannot be read.
    """
    # the rest of a long log need not be parsed
    mark = b'"action":"%b"' % action.encode()
    found = set[str]()
    for line in read_lines(folder):
        if mark in line.content:
            with suppress(DecodeError):
                entry = AuditEntry.parse(line.content)
                found |= {entry.subject.get("submission", "")} if entry.action == action else set()
    return found - {""}


def find_end(folder: Path) -> AuditEnd:
    """Find where the chain goes on.

    Raises:
        ConfigError: the last line is no entry as it was written; it says where.
        OSError: a file cannot be read.
    """
    files = audit_files(folder)
    size, torn = 0, b""
    for path in reversed(files):
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if path is files[-1]:
            size, torn = whole, content[whole:]
        if whole:
            lines = content[: whole - 1].split(b"\n")
            last = _last(lines[-1], f"{path} line {len(lines)}")
            return AuditEnd(last=last, file=files[-1], size=size, torn=torn)
    return AuditEnd(last=None, file=files[-1] if files else None, size=size, torn=torn)


def _last(line: bytes, place: str) -> AuditEntry:
    try:
        entry = AuditEntry.parse(line)
        if entry.is_genuine:
            return entry
        wrong = "its hash is not that of its content"
    except DecodeError as error:
        wrong = str(error)
    raise ConfigError(
        f"the audit log cannot go on: {place} is not as it was written: {wrong}. Look at it with `redflare audit "
        "verify`, and move the folder elsewhere to begin a new log"
    )
