"""``RoomWait``: who waits until a payload fits into Redis, since when, for how much; a note in Redis that people read.

A writer that was refused frees what it has written, so that Redis looks as if it had room: nobody but the writer knows.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

import orjson

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.keys import room_note
from redflare_broker.transport.connection import Command, Connection
from redflare_broker.util import humanize
from redflare_broker.wire.task_entry import BlobRef

#: The cause of ``Unavailable`` when the memory of Redis is full.
NO_ROOM: Final = "OOM"
#: Milliseconds that a note lives; the next attempt writes it anew.
TTL_MS: Final = 15_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomWait:
    """A payload that does not fit, as its writer saw it at its last attempt."""

    #: of the payload's chunks; names its writer's cell or agent, unless it is a task's
    prefix: str
    host: str
    pid: int
    #: of the payload
    nbytes: int
    #: since the first attempt
    seconds: float
    #: memory of Redis in bytes, in use and at most; 0: the writer may not ask
    used: int = 0
    most: int = 0

    @property
    def fqcn(self) -> str:
        """The cell or the link whose payload waits."""
        return self.prefix.partition(":{")[2].partition("}:")[0]

    @property
    def problem(self) -> str:
        return f"{humanize.size(self.nbytes)} do not fit into Redis"

    @property
    def memory(self) -> str:
        """``240 MB of at most 250 MB are in use``; "" when the writer may not ask."""
        return f"{humanize.size(self.used)} of at most {humanize.size(self.most)} are in use" if self.most else ""

    @classmethod
    def read(cls, prefix: str, note: bytes, age: float = 0.0) -> Self | None:
        """Read a note that is ``age`` seconds old; None when it is none of ours."""
        try:
            known: dict[str, Any] = orjson.loads(note)
            numbers = {name: int(known[name]) for name in ("pid", "nbytes", "used", "most")}
            return cls(prefix=prefix, host=str(known["host"]), seconds=float(known["seconds"]) + age, **numbers)
        except (KeyError, ValueError, TypeError):
            return None

    def to_note(self) -> bytes:
        fields = asdict(self)
        del fields["prefix"]
        return orjson.dumps(fields)


@dataclass(slots=True, eq=False)
class RoomNote:
    """The note about one payload; its writer's alone."""

    ref: BlobRef
    _since: float | None = field(default=None, init=False)
    _written: float = field(default=0.0, init=False)

    @property
    def is_over(self) -> bool:
        """Whether its TTL is over in Redis: there was no further attempt."""
        return time.monotonic() - self._written > TTL_MS / 1000

    def write(self, connection: Connection, refusal: Unavailable, free: Sequence[Command]) -> Unavailable:
        """Note that the payload does not fit; return the refusal with figures.

        Args:
            free: commands that free what has been written of it. After them the note may fit, or not either.
        """
        now = self._written = time.monotonic()
        self._since = now if self._since is None else self._since
        used, most = _memory(connection)
        wait = RoomWait(
            prefix=self.ref.prefix,
            host=socket.gethostname(),
            pid=os.getpid(),
            nbytes=self.ref.nbytes,
            seconds=now - self._since,
            used=used,
            most=most,
        )
        connection.pipeline([*free, ("SET", room_note(self.ref.prefix), wait.to_note(), "PX", TTL_MS)])
        figures = f", {wait.memory}" if wait.memory else ""
        what = f"a payload of {humanize.size(wait.nbytes)} does not fit{figures} ({self.ref.prefix})"
        return Unavailable(f"{what}: {refusal}", cause=refusal.cause)

    def remove(self, connection: Connection) -> None:
        """Remove the note, if one was written: the payload fits now, or nobody waits any more."""
        if self._since is not None:
            self._since = None
            connection.pipeline([("UNLINK", room_note(self.ref.prefix))])


def _memory(connection: Connection) -> tuple[int, int]:
    """Read the bytes in use, and the most that are allowed; (0, 0) when this user may not."""
    with suppress(RedflareError, ValueError):
        reply = connection.pipeline([("INFO", "memory")])[0]
        if isinstance(reply, bytes):
            lines = dict(line.split(":", 1) for line in reply.decode("ascii", "replace").split() if ":" in line)
            return int(lines["used_memory"]), int(lines.get("maxmemory", "0"))
    return 0, 0
