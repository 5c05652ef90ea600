"""The dead letters of a link: entries that a reader could not use, kept with the reason, for operators to inspect.

A replayed dead letter goes back into the stream it came from and is read again. That helps when the reader was at
fault (an older version that did not know the format) and its task is still open. The reader checks the ledger before
it works: an entry whose task is settled or unknown is buried again, as is one that is still not readable. A task's own
result that cannot be read is also rejected, which ends the task: see ``cj_link``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.errors import ConfigError
from redflare_broker.keys import LinkKeys
from redflare_broker.scripts.link_scripts import REPLAY
from redflare_broker.transport.server import Server
from redflare_broker.util import humanize

_RAW: Final = b"raw."
_ID: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")

#: How a replay ended; the dead letter stays where it is with all but the first.
ReplayOutcome = Literal["REPLAYED", "TRUNCATED", "FOREIGN", "GONE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One entry of ``ns:{F}:dead``."""

    fqcn: str
    #: its id in the dead-letter stream
    id: str
    #: when it was buried, in ms of Redis's clock
    time_ms: int
    reason: str
    #: key of the stream it came from, and its id there
    stream: str
    entry: str
    #: some of it was cut when it was buried; such a one cannot be replayed
    truncated: bool
    #: the entry's own fields in their order
    fields: tuple[tuple[bytes, bytes], ...]

    @property
    def task_id(self) -> str:
        """The task it claims to be about; "" when it names none."""
        return next((text(value) for name, value in self.fields if name == b"task_id"), "")

    @property
    def nbytes(self) -> int:
        return sum(len(name) + len(value) for name, value in self.fields)

    def to_json(self) -> dict[str, object]:
        """Return the dead letter as JSON; bytes that are not UTF-8 become ``\\xNN``."""
        return {
            "fqcn": self.fqcn,
            "id": self.id,
            "time": humanize.iso(self.time_ms),
            "time_ms": self.time_ms,
            "reason": self.reason,
            "stream": self.stream,
            "entry": self.entry,
            "task_id": self.task_id,
            "truncated": self.truncated,
            "nbytes": self.nbytes,
            "fields": [[text(name), text(value)] for name, value in self.fields],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a replay ended."""

    outcome: ReplayOutcome
    stream: str = ""
    #: id of the new entry
    entry: str = ""

    def to_json(self) -> dict[str, object]:
        return {"outcome": self.outcome, "stream": self.stream, "entry": self.entry}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters:
    """Reads, replays and drops the dead letters of one link. Nothing is retried: call again."""

    server: Server
    keys: LinkKeys

    def all(self) -> list[DeadLetter]:
        """Read all dead letters, the oldest first."""
        return self._read("-", "+")

    def get(self, letter_id: str) -> DeadLetter | None:
        """Read one dead letter; None when it is not there.

        Raises:
            ConfigError: the id is not a stream id; so do ``replay`` and ``drop``.
        """
        found = self._read(_check_id(letter_id), letter_id)
        return found[0] if found else None

    def replay(self, letter_id: str, policy: RetentionPolicy | None = None) -> Replay:
        """Move a dead letter back into its stream, in one step."""
        k, retention_ms = self.keys, (policy or RetentionPolicy()).retention_ms
        with self.server.borrow(k.dead) as connection:
            reply = REPLAY.run(
                connection,
                {},
                dead=k.dead,
                tasks=k.tasks,
                results=k.results,
                letter=_check_id(letter_id),
                retention_ms=retention_ms,
            )
        return Replay(outcome=cast("ReplayOutcome", reply.status), stream=reply.text(0), entry=reply.text(1))

    def drop(self, letter_ids: Sequence[str]) -> int:
        """Delete dead letters for good; return how many were found."""
        if not letter_ids:
            return 0
        with self.server.borrow(self.keys.dead) as connection:
            return cast("int", connection.call("XDEL", self.keys.dead, *map(_check_id, letter_ids)))

    def drop_all(self) -> int:
        """Delete all dead letters; return how many were found."""
        return self.drop([letter.id for letter in self.all()])

    def _read(self, first: str, last: str) -> list[DeadLetter]:
        with self.server.borrow(self.keys.dead) as connection:
            rows = cast("list[tuple[bytes, list[bytes]]]", connection.call("XRANGE", self.keys.dead, first, last))
        return [_letter(self.keys.fqcn, letter_id, flat) for letter_id, flat in rows]


def text(value: bytes) -> str:
    """Decode for display; bytes that are not UTF-8 become ``\\xNN``."""
    return value.decode("utf-8", "backslashreplace")


def _check_id(letter_id: str) -> str:
    if not _ID.fullmatch(letter_id):
        raise ConfigError(
            f"dead letter id {letter_id!r} is not legal: ids look like 1763806515432-0; `redflare dead list` shows them"
        )
    return letter_id


def _letter(fqcn: str, letter_id: bytes, flat: Sequence[bytes]) -> DeadLetter:
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    head = {text(name): text(value) for name, value in pairs if not name.startswith(_RAW)}
    return DeadLetter(
        fqcn=fqcn,
        id=letter_id.decode(),
        time_ms=int(letter_id.partition(b"-")[0]),
        reason=head.get("reason", ""),
        stream=head.get("stream", ""),
        entry=head.get("entry", ""),
        truncated=head.get("truncated") != "0",
        fields=tuple((name.removeprefix(_RAW), value) for name, value in pairs if name.startswith(_RAW)),
    )
