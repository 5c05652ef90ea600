"""``Inbox``: the thread of a cell that reads its inboxes, one for each sender, in one blocking read.

Each read fetches, in the same round trip, the owner of the cell: an instance that was replaced handles no entry. After
an error it reads from the beginning; entries that are in hand, or were answered, are known by their ids. Who has sent
is in a set, which is read at the start, after each error, when a sender rings, and when a heartbeat finds that it has
grown (``sender_inboxes``: what is done with them).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from redflare_broker.errors import ConfigError, Fenced, RedflareError, Unavailable
from redflare_broker.keys import CellKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply, ReplyError, entries_in, require
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff
from redflare_broker.util.fault_log import FaultLog
from redflare_broker.util.wakeup import WakeupEvent

from .sender_inboxes import MOST_SENDERS, SenderInboxes

logger = logging.getLogger(__name__)

#: Entries read at once, of all senders together; more of them, up to a limit, as long as there are more and they are
#: small.
_READ_COUNT: Final = 128
_MOST_COUNT: Final = 2048
_READ_BYTES: Final = 2 << 20
#: Seconds beyond BLOCK after which a silent Redis counts as away.
_MARGIN: Final = 5.0
#: Seconds after which it is checked whether there is room for requests that wait in their inboxes.
_LOOK_AGAIN: Final = 0.02
#: First word of Redis's refusal to read something else as a stream.
_WRONG_TYPE: Final = "WRONGTYPE"


class InboxOwner(Protocol):
    """What the inbox needs of its cell."""

    #: What others do that cannot be dealt with.
    faults: FaultLog

    def before_read(self) -> bool:
        """Maintain what waits; True: the next read must not block."""

    def on_holder(self, instance: bytes | None, epoch: bytes | None) -> bool:
        """Check the cell's owner; False: discard the entries that were read. Raises Fenced if it is another one."""

    def on_entry(self, inbox: str, owner: str, entry_id: str, fields: list[bytes]) -> str:
        """Handle an entry, which a cell of ``owner`` has written; return the id of one of this inbox that may be
        deleted, or "".
        """

    def on_quiet(self) -> None:
        """Handle that all inboxes have been read to their ends."""


class Inbox:
    """Reads the inboxes of a cell in a thread, between ``start`` and ``stop``.

    Args:
        load: returns how much of the room for a sender's requests is taken; 1 and more: all of it.
        known: senders that are read from the start.
    """

    def __init__(
        self,
        server: Server,
        keys: CellKeys,
        owner: InboxOwner,
        load: Callable[[str], float],
        known: Iterable[str] = (),
    ) -> None:
        self._server = server
        self._keys = keys
        self._block = 0.0
        self._owner = owner
        self._senders = SenderInboxes(keys, load, known)
        #: how many names the set of senders had when it was read; -1: it was not
        self._names = -1
        #: entries that were handled, to be deleted with the next read, by inbox
        self._deletes: dict[str, list[str]] = {}
        self._stopped = False
        self._again = False
        #: the set of senders is to be read before the next read
        self._rung = True
        #: a read is on its way that a ring must end
        self._blocked = False
        #: entries to read at once
        self._count = _READ_COUNT
        self._guard = threading.Lock()
        self._wakeup = WakeupEvent()
        self._connection: Connection | None = None
        #: where it has read last
        self._node = ""
        self._thread = threading.Thread(target=self._run, name=f"redflare-inbox-{keys.fqcn}", daemon=True)

    @property
    def streams(self) -> tuple[str, ...]:
        """The keys of the inboxes."""
        return self._senders.keys

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
            self._again = self._rung = True
            self._wakeup.set()
            if self._connection is not None:
                self._connection.interrupt()

    def ring(self, sender: str = "") -> None:
        """Look for new senders, unless this one is known; from any thread. A blocked read ends, and goes on after."""
        if sender and self._senders.knows(sender):
            return
        with self._guard:
            self._rung = True
            if self._blocked and self._connection is not None:
                self._connection.interrupt()

    def on_names(self, number: int) -> None:
        """Look for new senders if the set has another number of names than when it was read."""
        if self._names not in (-1, number):
            self.ring()

    def _run(self) -> None:
        backoff = Backoff(first=0.1)
        name = self._keys.fqcn
        while not self._stopped:
            try:
                self._read()
                backoff.reset()
                continue
            except Unavailable as exc:
                if self._was_rung():
                    continue
                logger.log(backoff.level(exc, logging.DEBUG), "%s: reading waits: %s", name, exc)
            except Fenced as exc:
                logger.debug("stopped reading the inboxes of %s: %s", name, exc)
                break
            except ConfigError as exc:
                logger.error("stopped reading the inboxes of %s: %s", name, exc)
                break
            except RedflareError as exc:
                logger.log(backoff.level(exc, logging.ERROR), "cannot read the inboxes of %s, retrying: %s", name, exc)
            except Exception:
                logger.exception("reading the inboxes of %s failed, retrying", name)
            self._drop_connection()
            self._node = ""
            if self._was_restarted():
                continue
            self._wakeup.wait(backoff.next_delay())
        self._drop_connection()

    def _read(self) -> None:
        connection = self._open_connection()
        hurry = self._owner.before_read()
        if self._rung or hurry:
            # a reply that seems to be missing may be from somebody who is not known yet
            self._look_for_senders(connection)
        count, streams = self._senders.next_read(self._count)
        some_wait = self._senders.some_wait
        block = 1 if hurry else max(1, round((_LOOK_AGAIN if some_wait else self._block) * 1000))
        deletes = self._deletes
        commands: list[list[Arg]] = [["XDEL", inbox, *ids] for inbox, ids in deletes.items()]
        commands.append(["XREAD", "COUNT", count, "BLOCK", block, "STREAMS", *streams])
        commands.append(["HMGET", self._keys.cell, "instance", "epoch"])
        with self._guard:
            if self._rung:
                return
            self._blocked = True
        connection.send(commands)
        for _ in range(len(deletes)):
            require(connection.receive(), connection.node)
        self._deletes = {}
        found = connection.receive(block / 1000 + _MARGIN)
        held = require(connection.receive(), connection.node)
        with self._guard:
            self._blocked = False
        instance, epoch = held if isinstance(held, list) and len(held) == 2 else (None, None)
        if not self._owner.on_holder(
            instance if isinstance(instance, bytes) else None, epoch if isinstance(epoch, bytes) else None
        ):
            self._senders.begin_anew()
            return
        if isinstance(found, ReplyError) and found.code == _WRONG_TYPE:
            self._remove_other_types(connection)
        else:
            self._deal_with(require(found, connection.node), count)

    def _remove_other_types(self, connection: Connection) -> None:
        """Delete what somebody has put in the place of its inbox: all others could not be read beside it."""
        inboxes = self.streams
        for inbox, length in zip(inboxes, connection.pipeline([["XLEN", each] for each in inboxes]), strict=True):
            if isinstance(length, ReplyError) and length.code == _WRONG_TYPE:
                connection.call("DEL", inbox)
                text = f"{inbox} was no stream, so nothing could be read: it is deleted, with what its owner had sent"
                self._owner.faults.note(self._senders.owner_of(inbox), "inbox that is no stream", text, logging.ERROR)

    def _look_for_senders(self, connection: Connection) -> None:
        """Read who has sent, at most so many as are read; all of them are in the set."""
        self._rung = False
        number, names = (
            require(reply, connection.node)
            for reply in connection.pipeline(
                [["SCARD", self._keys.senders], ["SRANDMEMBER", self._keys.senders, MOST_SENDERS + 1]]
            )
        )
        if isinstance(number, int) and isinstance(names, list):
            self._names = number
            self._senders.add(name.decode("ascii", "replace") for name in names if isinstance(name, bytes))

    def _deal_with(self, found: RedisReply, count: int) -> None:
        if not isinstance(found, list) or not found:
            self._owner.on_quiet()
            return
        full: list[tuple[str, list[bytes]]] = []
        for stream in found:
            if not isinstance(stream, list) or not isinstance(stream[0], bytes) or not isinstance(stream[1], list):
                continue
            entries = entries_in(stream[1])
            if len(entries) >= count:
                full += entries
            self._handle_all(stream[0].decode(), entries)
            if self._stopped:
                return
        self._count = _next_count(self._count, full)

    def _handle_all(self, inbox: str, entries: list[tuple[str, list[bytes]]]) -> None:
        """Handle entries of an inbox, and of requests as many as there is room for."""
        owner = self._senders.owner_of(inbox)
        for entry_id, fields in entries:
            if self._stopped:
                return
            if self._senders.takes(inbox, entry_id, fields) and (
                done := self._owner.on_entry(inbox, owner, entry_id, fields)
            ):
                self._deletes.setdefault(inbox, []).append(done)

    def _open_connection(self) -> Connection:
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._server.connection(self._keys.cell)
            with self._guard:
                self._connection = connection
                if self._again or connection.node != self._node:
                    # after an error; when a ring has ended a read, what was not handled is read again in any case
                    self._senders.begin_anew()
                    self._rung = True
                self._node = connection.node
                self._again = False
                if self._stopped:
                    connection.interrupt()
        return connection

    def _drop_connection(self) -> None:
        with self._guard:
            connection, self._connection = self._connection, None
            self._blocked = False
        if connection is not None:
            connection.close()

    def _was_rung(self) -> bool:
        """Whether a read has failed only because a ring has ended it."""
        with self._guard:
            rung = self._rung and self._blocked and not self._again and not self._stopped
            connection = self._connection
        if not rung or connection is None or not connection.interrupted:
            return False
        self._drop_connection()
        return True

    def _was_restarted(self) -> bool:
        with self._guard:
            again, self._again = self._again, False
            if again:
                self._wakeup.clear()
            return again or self._stopped

    def __repr__(self) -> str:
        return f"<Inbox of {self._keys.fqcn} from {len(self._senders)} senders{', stopped' if self._stopped else ''}>"


def _next_count(count: int, full: list[tuple[str, list[bytes]]]) -> int:
    """Return how many entries to read next, after a read; ``full``: entries of senders who may have more."""
    if not full or count * sum(map(len, full[-1][1])) > _READ_BYTES / 2:
        return _READ_COUNT
    return min(2 * count, _MOST_COUNT)
