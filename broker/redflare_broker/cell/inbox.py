"""``Inbox``: the thread of a cell that reads its inbox stream.

Each read fetches, in the same round trip, the owner of the cell: an instance that was replaced handles no entry. After
an error it reads from the beginning; entries that are in hand, or were answered, are known by their ids. Requests of a
sender who has many in hand are passed over, and read when there is room for them (``backlog``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from redflare_broker.errors import ConfigError, Fenced, RedflareError, Unavailable
from redflare_broker.keys import CellKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply, entries_in, require
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff
from redflare_broker.util.wakeup import WakeupEvent

from .backlog import Backlog

logger = logging.getLogger(__name__)

#: Entries read at once; more of them, up to a limit, as long as there are more and they are small.
_READ_COUNT: Final = 128
_MOST_COUNT: Final = 2048
_READ_BYTES: Final = 2 << 20
#: Seconds beyond BLOCK after which a silent Redis counts as away.
_MARGIN: Final = 5.0
#: Reads of what is unread, while there is more of it, for one of what was passed over.
_ROUNDS: Final = 8
#: Seconds after which it is checked whether there is room for what was passed over.
_LOOK_AGAIN: Final = 0.02


class InboxOwner(Protocol):
    """What the inbox needs of its cell."""

    def before_read(self) -> bool:
        """Maintain what waits; True: the next read must not block."""

    def on_holder(self, instance: bytes | None, epoch: bytes | None) -> bool:
        """Check the cell's owner; False: discard the entries that were read. Raises Fenced if it is another one."""

    def on_entry(self, entry_id: str, fields: list[bytes]) -> str:
        """Handle an entry; return the id of one that may be deleted, or ""."""

    def on_quiet(self) -> None:
        """Handle that the inbox has been read to its end."""


class Inbox:
    """Reads the inbox of a cell in a thread, between ``start`` and ``stop``.

    Args:
        load: returns how much of the room for a sender's requests is taken; 1 and more: all of it.
    """

    def __init__(self, server: Server, keys: CellKeys, owner: InboxOwner, load: Callable[[str], float]) -> None:
        self._server = server
        self._keys = keys
        self._key = keys.inbox
        self._block = 0.0
        self._owner = owner
        self._after = "0"
        self._backlog = Backlog(load)
        #: rounds since the backlog was read
        self._rounds = 0
        #: entries that were handled, to be deleted with the next read
        self._deletes: list[str] = []
        self._stopped = False
        self._again = False
        #: entries to read at once
        self._count = _READ_COUNT
        #: there may be entries that were not read yet
        self._more = False
        self._guard = threading.Lock()
        self._wakeup = WakeupEvent()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name=f"redflare-inbox-{keys.fqcn}", daemon=True)

    def start(self, block: float) -> None:
        """Begin to read; ``block``: seconds of one read, and the longest time between calls of ``before_read``."""
        self._block = block
        self._thread.start()

    def stop(self, *, wait: bool = True) -> None:
        """End the thread at once, even when it is blocked."""
        with self._guard:
            self._stopped = True
            self._wakeup.set()
            if self._connection is not None:
                self._connection.interrupt()
        if wait and self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(10.0)

    def begin_again(self) -> None:
        """Read from the beginning, through a new connection; from any thread."""
        with self._guard:
            self._again = True
            self._wakeup.set()
            if self._connection is not None:
                self._connection.interrupt()

    def _run(self) -> None:
        backoff = Backoff(first=0.1)
        while not self._stopped:
            try:
                self._read()
                backoff.reset()
                continue
            except Unavailable as exc:
                logger.log(backoff.level(exc, logging.DEBUG), "%s: reading waits: %s", self._key, exc)
            except Fenced as exc:
                logger.debug("stopped reading %s: %s", self._key, exc)
                break
            except ConfigError as exc:
                logger.error("stopped reading %s: %s", self._key, exc)
                break
            except RedflareError as exc:
                logger.log(backoff.level(exc, logging.ERROR), "cannot read %s, retrying: %s", self._key, exc)
            except Exception:
                logger.exception("reading %s failed, retrying", self._key)
            self._drop_connection()
            if self._was_restarted():
                continue
            self._wakeup.wait(backoff.next_delay())
        self._drop_connection()

    def _read(self) -> None:
        connection = self._open_connection()
        hurry = self._owner.before_read()
        start = self._backlog_start()
        block = 1 if hurry or start else max(1, round((_LOOK_AGAIN if self._backlog else self._block) * 1000))
        deletes = self._deletes
        commands: list[list[Arg]] = [["XDEL", self._key, *deletes]] if deletes else []
        if start:
            commands.append(["XRANGE", self._key, f"({start}", self._after, "COUNT", _READ_COUNT])
        commands.append(["XREAD", "COUNT", self._count, "BLOCK", block, "STREAMS", self._key, self._after])
        commands.append(["HMGET", self._keys.cell, "instance", "epoch"])
        connection.send(commands)
        if deletes:
            require(connection.receive(), connection.node)
            self._deletes = []
        passed_over = require(connection.receive(), connection.node) if start else None
        found = require(connection.receive(block / 1000 + _MARGIN), connection.node)
        held = require(connection.receive(), connection.node)
        instance, epoch = held if isinstance(held, list) and len(held) == 2 else (None, None)
        if not self._owner.on_holder(
            instance if isinstance(instance, bytes) else None, epoch if isinstance(epoch, bytes) else None
        ):
            self._begin_anew()
            return
        if isinstance(passed_over, list):
            entries = entries_in(passed_over)
            for entry_id, fields in self._backlog.admit(start, entries, all_read=len(entries) < _READ_COUNT):
                self._handle(entry_id, fields)
        self._deal_with(found)

    def _backlog_start(self) -> str:
        """Return from where to read the backlog in this round; "": not now, the unread entries come first."""
        self._rounds += 1
        if not self._backlog or (self._more and self._rounds < _ROUNDS):
            return ""
        self._rounds = 0
        return self._backlog.start()

    def _deal_with(self, found: RedisReply) -> None:
        self._more = False
        if not isinstance(found, list) or not found:
            self._backlog.at_end()
            self._owner.on_quiet()
            return
        stream = found[0]
        entries = entries_in(stream[1]) if isinstance(stream, list) and isinstance(stream[1], list) else []
        self._more = len(entries) >= self._count
        if not self._more:
            self._backlog.at_end()
        self._count = _next_count(self._count, entries)
        for entry_id, fields in entries:
            if not self._backlog.passes_over(self._after, fields):
                self._handle(entry_id, fields)
            if self._stopped:
                return
            self._after = entry_id

    def _handle(self, entry_id: str, fields: list[bytes]) -> None:
        if not self._stopped and (done := self._owner.on_entry(entry_id, fields)):
            self._deletes.append(done)

    def _begin_anew(self) -> None:
        """Read from the beginning, with the next read."""
        self._after = "0"
        self._backlog.clear()

    def _open_connection(self) -> Connection:
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._server.connection(self._key)
            with self._guard:
                self._connection = connection
                self._begin_anew()
                self._again = False
                if self._stopped:
                    connection.interrupt()
        return connection

    def _drop_connection(self) -> None:
        with self._guard:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _was_restarted(self) -> bool:
        with self._guard:
            again, self._again = self._again, False
            if again:
                self._wakeup.clear()
            return again or self._stopped

    def __repr__(self) -> str:
        return f"<Inbox {self._key} read to {self._after}{', stopped' if self._stopped else ''}>"


def _next_count(count: int, entries: list[tuple[str, list[bytes]]]) -> int:
    """Return how many entries to read next, after a read of so many at most."""
    if len(entries) < count or count * sum(map(len, entries[-1][1])) > _READ_BYTES / 2:
        return _READ_COUNT
    return min(2 * count, _MOST_COUNT)
