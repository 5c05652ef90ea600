"""``AuditEntry``: one line of an audit log, chained to the one before it by that one's hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Self

import orjson
from redflare_broker.errors import DecodeError

#: Prop of a site, by which it tells the head of its log when it connects.
AUDIT_HEAD: Final = "audit"
#: ``previous`` of the first entry.
NO_HASH: Final = "0" * 64
#: Bytes of a line, at most; facts that do not fit are left out.
_LONGEST: Final = 1 << 20

_HEAD: Final = re.compile(r"([1-9][0-9]{0,17}) ([0-9a-f]{64})")


class Action(StrEnum):
    """What an entry tells."""

    #: A process begins to write, after ``subject``, its name.
    OPEN = "open"
    CLOSE = "close"
    #: The line that the last process was writing when it died was kept aside.
    RECOVER = "recover"
    #: Entries could not be written for so long that some were given up.
    GAP = "gap"
    #: The server has found a job in its store.
    SUBMIT = "submit"
    APPROVE = "approve"
    #: The server, or a site, does not take a job.
    REFUSE = "refuse"
    #: The server gives a job to sites.
    DISPATCH = "dispatch"
    #: A site has unpacked and checked its app.
    DEPLOY = "deploy"
    START = "start"
    #: Somebody wants a job to end.
    ABORT = "abort"
    END = "end"
    #: A job was deleted, or at a site its folder.
    DELETE = "delete"
    #: Redis had lost the record of a job, or taken it back, and the server has written it again.
    RESTORE = "restore"
    #: Redis has lost a job that waited.
    LOSE = "lose"
    #: A message was refused, or could not be dealt with.
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The last entry of a log at some moment."""

    sequence: int
    hash: str

    def __str__(self) -> str:
        return f"{self.sequence} {self.hash}"

    @classmethod
    def parse(cls, text: object) -> AuditHead | None:
        """Read what ``str`` has made; None: it is something else."""
        found = _HEAD.fullmatch(text) if isinstance(text, str) else None
        return cls(sequence=int(found[1]), hash=found[2]) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One entry; its fields are the keys of the JSON object on its line."""

    #: 1 for the first of a log, and one more for each that follows
    sequence: int
    #: by the clock of the machine: 2026-11-30T10:15:02.123Z
    time: str
    action: str
    #: what it is about: ``{"job": "monday", "submission": "5be1..."}``, ``{"site": "site-1"}``
    subject: Mapping[str, str]
    #: who has asked for it, or decided it
    by: str
    #: ``by`` is what a message or a record says, and is not proven
    claimed: bool
    reason: str
    facts: Mapping[str, Any]
    #: hash of the entry before
    previous: str
    #: SHA-256 of this entry without ``hash``, as JSON with sorted keys and without spaces, in hex
    hash: str

    @classmethod
    def make(cls, **content: Any) -> Self:
        """Make an entry of all fields but the hash; facts that are too large are left out."""
        if (size := len(_canonical(content))) > _LONGEST:
            content["facts"] = {"left_out": f"{size} bytes"}
        return cls(**content, hash=_hash(content))

    @property
    def head(self) -> AuditHead:
        return AuditHead(sequence=self.sequence, hash=self.hash)

    @property
    def is_genuine(self) -> bool:
        """Whether its hash is that of its content."""
        content = self.to_json()
        del content["hash"]
        return _hash(content) == self.hash

    @property
    def at(self) -> int:
        """Its time, in ms since 1970."""
        return round(datetime.fromisoformat(self.time).timestamp() * 1000)

    def is_about(self, kind: str, name: str) -> bool:
        """Whether a ``job`` or a ``site`` is its subject, or one of those that its facts name."""
        if self.subject.get(kind) == name:
            return True
        others = self.facts.get(f"{kind}s")
        return isinstance(others, dict | list) and name in others

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _KINDS}

    def to_line(self) -> bytes:
        return _canonical(self.to_json()) + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Read a line, without its end; whether it is genuine is another question.

        Raises:
            DecodeError: it is none, or not written as ``to_line`` does.
        """
        try:
            document = orjson.loads(line)
            entry = cls(**document)
            datetime.fromisoformat(entry.time)
        except (orjson.JSONDecodeError, TypeError, ValueError) as error:
            raise DecodeError(f"it is no entry: {error}") from None
        for name, kind in _KINDS.items():
            if type(document[name]) is not kind:
                raise DecodeError(f"its {name} is {document[name]!r:.100}")
        if _canonical(document) != line:
            raise DecodeError("it is not written as an entry is: keys sorted, without spaces")
        return entry


_KINDS: Final = {each.name: str for each in fields(AuditEntry)} | {
    "sequence": int,
    "claimed": bool,
    "subject": dict,
    "facts": dict,
}


def timestamp(seconds: float) -> str:
    """Write a time, in seconds since 1970, as entries have it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _canonical(document: Mapping[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()
