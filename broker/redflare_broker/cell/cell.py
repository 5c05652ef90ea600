"""``Cell``: one process's address in the federation, at which it sends and receives requests.

This file has its identity and what users call. A message is an entry of the inbox that its target has for the sender,
and stays there until it was handled, so it survives the crash of either side; the receiver handles it once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ConfigError, DecodeError, Fenced, RedflareError, Unavailable, WrongSender
from redflare_broker.fqcn import FQCN
from redflare_broker.keys import Keys
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.scripts.cell_scripts import BEAT, BURY, BYE, HELLO, SETTLE, entries_of
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import FENCED, LOST, common_values, parse_reply
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.util.fault_log import FaultLog
from redflare_broker.util.patience import Patience
from redflare_broker.util.thread_pool import ElasticThreadPool
from redflare_broker.wire.message_entry import Envelope, pack_meta

from .blocked_calls import BlockedCall, BlockedCalls
from .cell_heartbeat import CellHeartbeat, read_heartbeat
from .direction import CellParts
from .doorbell import Doorbell, Subscribe
from .inbox import Inbox
from .incoming import Handler, IncomingRequests
from .multicast import Multicast
from .outbox import Outbox
from .outgoing import OutgoingRequests
from .pending import Pending
from .request import EARLY, LATER, HandlerResult, Reply, ReplyCode, Request
from .unnamed_payloads import UnnamedPayloads

__all__ = ["EARLY", "LATER", "Cell", "HandlerResult", "Pending", "Reply", "ReplyCode", "Request"]

logger = logging.getLogger(__name__)

#: Seconds that ``stop`` waits for handlers that run and messages that are to be written.
_STOP_WITHIN: Final = 5.0


class Cell:
    """The cell called ``fqcn``; a context manager, and thread-safe.

    Register handlers, then ``start``. Of two cells of one name the one that started last owns it, the other is fenced.

    Args:
        server: the federation's Redis; stays open when the cell stops.
        fqcn: its name.
        settings: namespace, limits, heartbeats, retention.
        heartbeats: a thread shared with others; None: the cell starts one.
        subscribe: a subscriber shared with others, as ``SharedConnection.subscribe``; None: the cell starts one.
        peers: owners of cells whose messages are read from the start; further ones are known when they ring.
    """

    def __init__(
        self,
        server: Server,
        fqcn: str,
        settings: LinkSettings,
        *,
        heartbeats: Heartbeats | None = None,
        subscribe: Subscribe | None = None,
        peers: Iterable[str] = (),
    ) -> None:
        self.server = server
        self.settings = settings
        self.federation_keys = Keys(settings.namespace)
        self.keys = self.federation_keys.cell(fqcn)
        self.fqcn = fqcn
        #: Seconds between two heartbeats.
        self.interval = settings.heartbeat_interval
        self.fenced = False
        #: Called once, from a thread of the pool, when a newer instance has taken over.
        self.on_fenced: Callable[[], object] = lambda: None
        #: Called, from a thread of the pool, when Redis had lost this cell and waiting requests were posted again.
        self.on_loss: Callable[[], object] = lambda: None
        #: Called, from a thread of the pool, when a heartbeat has reached Redis after one that had not: a failover may
        #: have rolled back what others wrote.
        self.on_reconnect: Callable[[], object] = lambda: None
        #: Called once Redis is reachable, before the cell is taken over; ``start`` raises its exceptions.
        self.preflight: Callable[[], object] = lambda: None
        #: Seconds after which a request that waits is checked to be still in its target's inbox.
        self.check_after = 30.0
        #: How often Redis had lost this cell.
        self.losses = 0
        self._lease = Lease.of_this_process()
        self._values = common_values(self.keys, settings.policy)
        self._shared_beats = heartbeats
        self._beats = heartbeats or Heartbeats(server, name=f"redflare-heartbeat-{fqcn}")
        #: What others send that cannot be dealt with.
        self.faults = FaultLog(logger, fqcn)
        self._pool = ElasticThreadPool(f"redflare-cell-{fqcn}")
        self._outbox = Outbox(server, self.keys, self._settle_command, self._pool)
        #: Chunks that wait for the message which names them.
        self.payloads = UnnamedPayloads(server, settings)
        parts = CellParts(server, self.keys, settings, self._outbox, self._pool, self.payloads, self.faults)
        self._incoming, self._outgoing = IncomingRequests(parts), OutgoingRequests(parts)
        self._inbox = Inbox(server, self.keys, self, self._incoming.load, (FQCN.owner(fqcn), *peers))
        self._doorbell = Doorbell(server, self.keys, subscribe, self._inbox.ring, lambda: self._beats.beat_now(self))
        self._blocked = BlockedCalls()
        self._hello_guard, self._pid = threading.RLock(), os.getpid()
        self._stopped = self._silent = False

    @property
    def epoch(self) -> int:
        """When it started, by Redis's clock in ms; 0 before that."""
        return self._lease.epoch

    @property
    def instance(self) -> str:
        """``<host>:<pid>:<8 hex digits>``, new for each start."""
        return self._lease.instance

    def _settle_command(self, entries: Sequence[tuple[str, str]]) -> list[Arg]:
        inboxes, arguments = entries_of(entries)
        return SETTLE.command(self._values, arguments, inboxes, **self._lease.args)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the cell over, as soon as Redis is reachable, and begin to read.

        Raises:
            PreflightError: Redis fails the preflight.
            ServerError: Redis refuses a command.
            Unavailable: ``stop`` was called before Redis was reachable.
            ConfigError: the cell was started before.
        """
        if self._lease.epoch or self._stopped:
            raise ConfigError(f"{self!r} was started before: make a new Cell")
        self.server.run(self.keys.cell, lambda connection: self._hello(connection, 0), stop=lambda: self._stopped)
        if self._stopped:
            raise Unavailable(f"{self!r}: stop() was called")
        self._outgoing.begin(self.epoch)
        self._doorbell.open()
        self._inbox.start(min(self.settings.block, self.check_after))
        self._beats.add(self)

    def stop(self, timeout: float = _STOP_WITHIN) -> None:
        """Stop: calls that wait get ABORTED, requests without a reply stay for a successor. May be called again.

        Args:
            timeout: seconds for handlers that run, and for messages that are still to be written.
        """
        if self._stopped or self._pid != os.getpid():
            return
        self._stopped = True
        deadline = time.monotonic() + timeout
        # first stop reading, then write what is in hand, and only then stop the heartbeat
        self._doorbell.close()
        self._inbox.stop()
        self._incoming.stop()
        self._outgoing.abandon(f"cell {self.fqcn} was stopped")
        self._outbox.finish(deadline)
        if stuck := self._pool.close(max(deadline - time.monotonic(), 0.1)):
            logger.warning("%s: handlers are still busy: %s", self.fqcn, ", ".join(stuck))
        self.faults.flush(final=True)
        if left := self._outbox.close():
            logger.warning("%s: %d messages could not be written, Redis is unreachable", self.fqcn, left)
        self._beats.remove(self)
        if self._shared_beats is None:
            self._beats.stop()
        if self._lease.epoch and not self.fenced:
            try:
                with closing(self.server.connection(self.keys.cell)) as connection:
                    BYE.run(connection, self._values, (), self._inbox.streams, **self._lease.args)
            except RedflareError as exc:
                logger.warning("%s: could not say bye, its keys will expire: %s", self.fqcn, exc)

    def __enter__(self) -> Cell:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    # -- what users call -----------------------------------------------------------------------------------------------

    def register_request_cb(self, channel: str, topic: str, handler: Handler) -> None:
        """Let ``handler`` handle requests and events of this channel and topic ("*": any topic without a handler).

        It runs in a thread of the cell's, may block, and returns rc, meta and data; None for ("OK", None, None); or
        ``LATER``, and ``Request.reply`` is called later; or ``EARLY``, and ``Request.reply_from`` is. The reply to an
        exception is HANDLER_EXCEPTION.

        Raises:
            ValueError: another handler is registered already.
            ConfigError: channel or topic is not a legal word.
        """
        self._incoming.register(channel, topic, handler)

    def send_request(
        self,
        channel: str,
        topic: str,
        target: str,
        meta: dict[str, Any] | None = None,
        data: object = None,
        *,
        timeout: float | None,
        give_up: Callable[[], str] | None = None,
        request_id: str | None = None,
    ) -> Reply:
        """Send a request to the cell ``target``, and wait for its reply, for ``timeout`` seconds (None: endlessly).

        Args:
            meta: a tree that JSON can hold, without arrays.
            data: any tree; large ones are stored in chunks, which the target deletes. An ``EncodedPayload`` is passed
                on verbatim, its chunks are the target's from then on.
            give_up: called at each ``nudge``; a reason ends the wait with rc ABORTED.
            request_id: names the request across restarts of this cell; a request sent again is handled again.

        Returns:
            the reply. When none came its rc is TIMEOUT, ABORTED or COMM_ERROR, and ``error`` has the reason.

        Raises:
            EncodeError: meta or data cannot be sent.
            ConfigError: the cell does not run, or a name is not legal.
        """
        call = BlockedCall()
        pending = self.ask(channel, topic, target, meta, data, on_reply=call.settle, request_id=request_id)
        try:
            with self._blocked.registered(call):
                return call.wait(Patience(timeout), give_up)
        finally:
            pending.cancel()

    def ask(
        self,
        channel: str,
        topic: str,
        target: str,
        meta: dict[str, Any] | None = None,
        data: object = None,
        *,
        on_reply: Callable[[Reply], object],
        request_id: str | None = None,
    ) -> Pending:
        """Send a request without waiting: ``on_reply`` is called once, from a thread of the cell's; it must be quick.

        It is also called when the cell stops (ABORTED) or Redis refuses the message (COMM_ERROR). Arrays of a large
        ``data`` must not change until then. Arguments and errors are those of ``send_request``.
        """
        self._check_running()
        packed, source = pack_meta(meta), self._outgoing.encode(data)
        return self._outgoing.ask(channel, topic, target, packed, source, on_reply=on_reply, request_id=request_id)

    def broadcast_request(
        self,
        channel: str,
        topic: str,
        targets: Sequence[str],
        meta: dict[str, Any] | None = None,
        data: object = None,
        *,
        timeout: float | None,
    ) -> dict[str, Reply]:
        """Send a request to many cells, store its payload once, wait for all, and return the replies by FQCN."""
        calls = {target: BlockedCall() for target in targets}
        patience = Patience(timeout)
        each = {target: (target, meta) for target in calls}
        asked = self.ask_many(channel, topic, each, data, on_reply=lambda target, reply: calls[target].settle(reply))
        try:
            with self._blocked.registered(*calls.values()):
                return {target: call.wait(patience, None) for target, call in calls.items()}
        finally:
            asked.cancel()

    def ask_many(
        self,
        channel: str,
        topic: str,
        targets: Mapping[str, tuple[str, dict[str, Any] | None]],
        data: object = None,
        *,
        on_reply: Callable[[str, Reply], object],
    ) -> Multicast:
        """Send a request to several cells, without waiting for replies; the payload is stored once, before that.

        Args:
            targets: FQCN and meta of each request, by a key that ``on_reply`` gets back; a cell may occur twice.
            on_reply: as that of ``ask``, called with the key and the reply of each.

        Raises:
            EncodeError: a meta or the data cannot be sent.
            ConfigError: the cell does not run, or a name is not legal.
            Unavailable: the cell was stopped while Redis was unreachable.
            ServerError: Redis refuses the payload.
        """
        self._check_running()
        asked = Multicast(self._outgoing, self._pool, on_reply)
        asked.ask(channel, topic, targets, self._outgoing.encode(data))
        return asked

    def fire_and_forget(
        self,
        channel: str,
        topic: str,
        targets: str | Sequence[str],
        meta: dict[str, Any] | None = None,
        data: object = None,
    ) -> None:
        """Send an event to other cells: it stays in their inboxes until they have handled it; they do not reply.

        Raises:
            EncodeError: meta or data cannot be sent.
            ConfigError: the cell does not run, or a name is not legal.
        """
        self._check_running()
        names = [targets] if isinstance(targets, str) else list(dict.fromkeys(targets))
        self._outgoing.tell(channel, topic, names, pack_meta(meta), self._outgoing.encode(data))

    def abort(self, reason: str) -> None:
        """End every ``send_request`` and ``broadcast_request`` that waits now, with rc ABORTED and this reason."""
        self._blocked.abort(reason)

    def nudge(self) -> None:
        """Let every ``send_request`` that waits call its ``give_up`` now."""
        self._blocked.nudge()

    @property
    def in_touch(self) -> bool:
        """Whether its last heartbeat reached Redis."""
        return not self._silent

    def heartbeat_of(self, fqcn: str) -> CellHeartbeat | None:
        """Read the last heartbeat of a cell; None: the cell was stopped, or its heartbeat has expired.

        Raises:
            Unavailable: Redis is unreachable.
        """
        keys = self.federation_keys.cell(fqcn)
        with self.server.borrow(keys.cell) as connection:
            return read_heartbeat(connection, keys)

    def resync(self) -> None:
        """Post every request that waits again, since its target may have lost it; one that did not handles it once."""
        self._outgoing.post_again()

    # -- from the inbox's thread ---------------------------------------------------------------------------------------

    def on_entry(self, inbox: str, owner: str, entry_id: str, fields: list[bytes]) -> str:
        """Handle an entry; return the id of one of this inbox that may be deleted now, or ""."""
        try:
            envelope = Envelope.parse(inbox, entry_id, fields, self.keys.namespace)
            if FQCN.owner(envelope.origin) != owner:
                raise WrongSender(f"{inbox} entry {entry_id}: {owner} has written it, in the name of {envelope.origin}")
            if envelope.is_reply:
                return self._outgoing.on_reply(entry_id, envelope)
            return self._incoming.receive(inbox, entry_id, envelope)
        except Exception as exc:
            if isinstance(exc, RedflareError) and not isinstance(exc, DecodeError):
                raise
            # it would be read again and again, and nothing behind it
            reason = str(exc) if isinstance(exc, DecodeError) else f"program error: {type(exc).__name__}: {exc}"
            command = BURY.command(self._values, inbox=inbox, entry=entry_id, reason=reason, **self._lease.args)
            self._incoming.bury(entry_id, owner, exc, reason, command)
        return ""

    def on_holder(self, instance: bytes | None, epoch: bytes | None) -> bool:
        """Check the cell's owner; False: Redis had lost the cell, so the entries that were read may be old.

        Raises:
            Fenced: another instance owns it.
        """
        lease = self._lease
        if instance == lease.instance.encode() and epoch == b"%d" % lease.epoch:
            return True
        if epoch is not None and epoch.isdigit() and int(epoch) > lease.epoch:
            self._fence()
        self._resume(lease.epoch)
        return False

    def before_read(self) -> bool:
        """Check posted requests; True: some are missing, so the next read must not block."""
        return self._outgoing.check_posted(self.check_after)

    def on_quiet(self) -> None:
        """Post lost requests again, once the inboxes have been read to their ends."""
        self._outgoing.on_quiet()

    # -- from the heartbeat's thread -----------------------------------------------------------------------------------

    @property
    def route(self) -> str:
        return self.keys.cell

    def beat(self) -> list[Arg]:
        """Return the heartbeat as a command."""
        ttl_ms = round(max(self.settings.heartbeat_ttl, 2 * self.interval) * 1000)
        beat = self._lease.heartbeat(self.interval, ttl_ms)
        return BEAT.command(self._values, (), self._inbox.streams, **self._lease.args, beat=beat, beat_ttl_ms=ttl_ms)

    def on_beat(self, reply: RedisReply) -> None:
        """Handle the reply to a heartbeat."""
        epoch = self._lease.epoch
        answer = parse_reply("cell/beat", reply)
        self.faults.flush()
        if self.payloads:
            self._pool.submit(self.payloads.renew)
        try:
            if answer.status == FENCED:
                self._fence()
            if answer.status == LOST:
                self._resume(epoch)
            else:
                self._inbox.on_names(answer.number())
        except Fenced as exc:
            logger.debug("%s", exc)
        if self._silent:
            # the connection of the blocked read may be broken too, without an error
            self._silent = False
            self._inbox.begin_again()
            self._pool.submit(self.on_reconnect)

    def on_silence(self, error: RedflareError) -> None:
        """Note that a heartbeat could not be sent."""
        self._silent = True
        logger.debug("%s: no heartbeat: %s", self.fqcn, error)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _hello(self, connection: Connection, seen: int) -> bool:
        """Take the cell over, or resume it; ``seen``: the epoch that Redis did not know. False: done already."""
        with self._hello_guard:
            if self._lease.epoch != seen:
                return False
            if not seen:
                self.preflight()
            reply = self._lease.claim(lambda lease: HELLO.run(connection, self._values, **lease.identity))
            if reply.status == FENCED:
                self._fence()
            self._lease = replace(self._lease, epoch=reply.number())
            return True

    def _resume(self, seen: int) -> None:
        """Take the cell over again, because Redis had lost it.

        Raises:
            Fenced: another instance owns it now.
            Unavailable: try again.
        """
        with self._hello_guard, self.server.borrow(self.keys.cell) as connection:
            held = connection.call("HMGET", self.keys.cell, "instance", "epoch")
            if held == [self._lease.instance.encode(), b"%d" % self._lease.epoch]:
                return  # another thread was faster
            self._hello(connection, seen)
            self.losses += 1
        logger.warning("%s: Redis had lost this cell; resumed with epoch %d", self.fqcn, self.epoch)
        self._inbox.begin_again()
        self._pool.submit(self._recover)

    def _recover(self) -> None:
        self.resync()
        self.on_loss()

    def _fence(self) -> None:
        """Stop, because a newer instance has taken over.

        Raises:
            Fenced: always.
        """
        text = f"{self.fqcn}: a newer instance has taken over this cell; {self._lease.instance} must stop"
        with self._hello_guard:
            first, self.fenced = not self.fenced, True
        if first:
            logger.error("%s", text)
            self._beats.remove(self)
            self._inbox.stop(wait=False)
            self._outbox.close()
            self._outgoing.abandon(text)
            self._pool.submit(self.on_fenced)
        raise Fenced(text)

    def _check_running(self) -> None:
        if self._pid != os.getpid():
            raise ConfigError(f"{self!r} was made in process {self._pid}, before a fork: make a new Cell in this one")
        if self.fenced:
            raise Fenced(f"{self.fqcn}: a newer instance has taken over this cell; {self._lease.instance} must stop")
        if self._stopped or not self._lease.epoch:
            raise ConfigError(f"{self!r} does not run: call start() first, and nothing after stop()")

    def __repr__(self) -> str:
        state = "fenced" if self.fenced else "stopped" if self._stopped else f"epoch {self.epoch}"
        return f"<Cell {self.fqcn} {state}, {len(self._outgoing)} waiting, {len(self._incoming)} in hand>"
