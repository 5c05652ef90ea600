"""The requests that a cell has sent: posted, posted again when they may be lost, and settled by their replies."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from redflare_broker.errors import RedflareError
from redflare_broker.keys import CellKeys
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload
from redflare_broker.scripts.cell_scripts import STILL_POSTED
from redflare_broker.scripts.script import run_pipeline
from redflare_broker.transport.replies import RedisReply, require
from redflare_broker.wire.message_entry import EVENT, REQUEST, Envelope, check_word, unpack_meta
from redflare_broker.wire.task_entry import BlobRef, check_id

from .direction import CellParts, Direction
from .outbox import OutboundMessage
from .pending import Pending, PendingRequests
from .request import EMPTY, Reply, ReplyCode

logger = logging.getLogger(__name__)

#: Ids of settled requests that are remembered, for second copies of their replies.
_REMEMBERED: Final = 10_000
#: Times that a payload is stored anew because the target found it gone.
_STORES: Final = 3


class OutgoingRequests(Direction):
    """All requests of one cell that wait for a reply; thread-safe."""

    def __init__(self, parts: CellParts) -> None:
        super().__init__(parts)
        self._pending = PendingRequests()
        self._settled: dict[str, None] = {}
        #: The cell's epoch, with which attempts begin, so that a request of its successor counts as a later one.
        self._epoch = 0
        self._attempts = itertools.count(1)
        self._checked = time.monotonic()
        self._missed: list[Pending] = []

    def begin(self, epoch: int) -> None:
        """Allow requests from now on."""
        self._epoch = epoch
        self._attempts = itertools.count(epoch + 1)

    def encode(self, data: object) -> EncodedPayload:
        """Encode data; buffers of small data are copied, so that their owner may change them at once."""
        if data is None:
            return EMPTY
        payload = encode_payload(data, self._settings.limits)
        if payload.buffers and payload.fits_entry(self._settings.limits):
            return EncodedPayload(payload.data, tuple(map(bytes, payload.buffers)))
        return payload

    def ask(
        self,
        channel: str,
        topic: str,
        target: str,
        meta: bytes,
        source: EncodedPayload,
        *,
        on_reply: Callable[[Reply], object],
        request_id: str | None = None,
        stored: EncodedPayload | None = None,
    ) -> Pending:
        """Post a request; ``stored``: its payload in chunks that the caller deletes."""
        keys = self._federation.cell(target)
        pending = Pending(
            id=os.urandom(16).hex() if request_id is None else check_id(request_id, "request_id"),
            attempt=self._epoch if request_id is None else next(self._attempts),
            channel=check_word(channel, "channel"),
            topic=check_word(topic, "topic"),
            keys=keys,
            inbox=keys.inbox(self._owner),
            meta=meta,
            source=source,
            payload=stored or source,
            keep=stored is not None,
            on_reply=on_reply,
            on_cancel=self._cancel,
        )
        self._pending.add(pending)
        if self._closed:
            self._settle(pending, Reply(ReplyCode.ABORTED, {"error": self._closed}))
        else:
            self._post(pending)
        return pending

    def tell(self, channel: str, topic: str, targets: Sequence[str], meta: bytes, source: EncodedPayload) -> None:
        """Post an event to each target, which deletes its chunks."""
        check_word(channel, "channel"), check_word(topic, "topic")
        for keys in [self._federation.cell(target) for target in targets]:
            payload = self.store(source)
            envelope = Envelope(
                kind=EVENT,
                id=os.urandom(16).hex(),
                attempt=self._epoch,
                channel=channel,
                topic=topic,
                origin=self.fqcn,
                meta=meta,
                data=payload.data,
                buffers=payload.buffers,
                blob=payload.blob,
            )
            message = OutboundMessage(route=keys.cell, post=self._post_command(keys, envelope))
            message.before = self._payloads.naming(payload.blob)
            message.done = partial(self._told, keys.fqcn, payload)
            self._outbox.send(message)

    def discard(self, stored: EncodedPayload) -> None:
        """Delete chunks that ``store`` has made; if Redis is unreachable, with a later heartbeat."""
        if stored.blob is not None:
            self._payloads.discard(stored.blob)

    def post_again(self, some: Sequence[Pending] | None = None) -> None:
        """Post requests that wait again, as a further attempt; None: all of them."""
        for pending in self._pending.all() if some is None else some:
            pending.attempt = next(self._attempts)
            pending.posts += 1
            pending.entry_id = ""
            if pending.source.blob is None and pending.payload.blob is not None:
                # the chunks may be lost as well; new ones get new names, since the old ones may still be in use
                pending.payload, pending.keep = pending.source, False
            self._post(pending, here=False)

    def on_reply(self, entry_id: str, envelope: Envelope) -> str:
        """Settle the request of a reply; return the id of the entry that may be deleted."""
        meta = unpack_meta(envelope.meta)
        payload = self._payload(envelope)
        pending = self._pending.get(envelope.id)
        if pending is not None and pending.target != envelope.origin:
            text = f"a reply to {pending!r} came from {envelope.origin}: it is not taken"
            self.faults.note(envelope.origin, "reply in the name of another", text)
            return entry_id
        lost = pending is not None and envelope.rc == ReplyCode.BLOB_MISSING
        # an earlier attempt's payload is gone, and a later one is on its way with its own; or it is sent anew
        if pending is not None and lost and (envelope.attempt < pending.attempt or self._store_anew(pending)):
            return entry_id
        if pending is None or self._pending.remove(envelope.id) is None:
            # the request does not wait any more; a second copy's chunks belong to the receiver of the first
            if envelope.id not in self._settled and payload.ours:
                self._pool.submit(payload.release)
            return entry_id
        if pending.posts > 1:
            # if this is the reply to an earlier attempt, the later request is still in the target's inbox
            self._take_back(pending)
        self._settled[envelope.id] = None
        if len(self._settled) > _REMEMBERED:
            del self._settled[next(iter(self._settled))]
        self._pending.settle(pending, Reply(envelope.rc, meta, envelope.origin, payload))
        return entry_id

    def abandon(self, reason: str) -> None:
        """End all requests that wait with ABORTED, and refuse further ones."""
        self._closed = reason
        for pending in self._pending.take_all():
            self._pending.settle(pending, Reply(ReplyCode.ABORTED, {"error": reason}))

    def __len__(self) -> int:
        return len(self._pending)

    # -- from the inbox's thread: requests that Redis has lost ---------------------------------------------------------

    def check_posted(self, every: float) -> bool:
        """Check, every so many seconds, whether requests are still in the inboxes, and announce this cell's owner there
        again; True when some are not.

        An entry that is gone was answered, or lost. The target posts the reply before it deletes the entry, so the
        reply, if any, is in this cell's inbox by now; once that is read to its end, ``on_quiet`` posts lost requests
        again.
        """
        now = time.monotonic()
        if now - self._checked >= every:
            self._checked = now
            old = [it for it in self._pending.all() if it.entry_id and now - it.posted >= every]
            by_target: dict[CellKeys, list[Pending]] = {}
            for pending in old:
                by_target.setdefault(pending.keys, []).append(pending)
            for target, some in by_target.items():
                self._check_inbox(target, some)
        return bool(self._missed)

    def on_quiet(self) -> None:
        """Post lost requests again, once the inbox has been read to its end."""
        if not self._missed:
            return
        missed, self._missed = self._missed, []
        lost = [pending for pending in missed if self._pending.waits(pending)]
        if lost:
            logger.warning("%s: Redis lost %d requests; posting them again: %r", self.fqcn, len(lost), lost[:5])
            self.post_again(lost)

    def _check_inbox(self, target: CellKeys, some: list[Pending]) -> None:
        entries = [pending.entry_id for pending in some]
        command = STILL_POSTED.command(self._at(target), entries)
        try:
            with self._server.borrow(target.cell) as connection:
                stand = require(run_pipeline(connection, [command])[0], connection.node)
        except RedflareError as exc:
            logger.debug("%s: cannot check requests to %s: %s", self.fqcn, target.fqcn, exc)
            return
        if isinstance(stand, list):
            for pending, entry, stands in zip(some, entries, stand, strict=True):
                if not stands and pending.entry_id == entry:
                    self._missed.append(pending)

    def _store_anew(self, pending: Pending) -> bool:
        """Send a request again whose payload the target did not find; False: the payload cannot be stored again."""
        if pending.source.blob is not None or pending.payload.blob is None or pending.stores >= _STORES:
            return False
        pending.stores += 1
        logger.warning("%s: Redis lost the payload of %r; sending it again", self.fqcn, pending)
        self.post_again([pending])
        return True

    # -- inside --------------------------------------------------------------------------------------------------------

    def _post(self, pending: Pending, *, here: bool = True) -> None:
        if pending.payload.fits_entry(self._settings.limits):
            self._send(pending, here=here)
        elif not self._pool.submit(partial(self._store_and_send, pending)):
            self._settle(pending, Reply(ReplyCode.ABORTED, {"error": f"cell {self.fqcn} was stopped"}))

    def _store_and_send(self, pending: Pending) -> None:
        try:
            stored = self.store(pending.source, stop=lambda: not self._pending.waits(pending))
        except RedflareError as exc:
            self._settle(pending, Reply(ReplyCode.COMM_ERROR, {"error": str(exc)}))
            return
        pending.payload = stored
        if self._pending.waits(pending):
            self._send(pending, here=True)
        else:
            self.discard(stored)

    def _send(self, pending: Pending, *, here: bool) -> None:
        attempt = pending.attempt
        envelope = Envelope(
            kind=REQUEST,
            id=pending.id,
            attempt=attempt,
            channel=pending.channel,
            topic=pending.topic,
            origin=self.fqcn,
            meta=pending.meta,
            data=pending.payload.data,
            buffers=pending.payload.buffers,
            blob=pending.payload.blob,
            keep=pending.keep,
        )
        pending.posted = time.monotonic()
        self._outbox.send(
            OutboundMessage(
                route=pending.inbox,
                post=self._post_command(pending.keys, envelope),
                before=self._payloads.naming(envelope.blob),
                done=partial(self._written, pending, attempt, envelope.blob),
            ),
            here=here,
        )

    def _told(self, target: str, payload: EncodedPayload, result: RedisReply | RedflareError) -> None:
        self._payloads.named(payload.blob)
        if isinstance(result, RedflareError):
            logger.error("%s: Redis refused a message to %s: %s", self.fqcn, target, result)

    def _written(
        self, pending: Pending, attempt: int, blob: BlobRef | None, result: RedisReply | RedflareError
    ) -> None:
        self._payloads.named(blob)
        if isinstance(result, RedflareError):
            self._settle(pending, Reply(ReplyCode.COMM_ERROR, {"error": str(result)}))
        elif isinstance(result, bytes) and pending.attempt == attempt:
            pending.entry_id = result.decode()
            if pending.cancelled or (pending.posts > 1 and not self._pending.waits(pending)):
                self._take_back(pending)

    def _settle(self, pending: Pending, reply: Reply) -> None:
        """Settle a request with a reply of this cell, if none has come."""
        if self._pending.remove(pending.id) is pending:
            self._pending.settle(pending, reply)

    def _cancel(self, pending: Pending) -> None:
        if self._pending.remove(pending.id) is None:
            return
        pending.cancelled = True
        self._take_back(pending)

    def _take_back(self, pending: Pending) -> None:
        """Delete the entry of a request whose reply is not wanted any more.

        One with chunks stays: the target may have taken them over already, and deletes them if it has not.
        """
        if pending.entry_id and (pending.payload.blob is None or pending.keep):
            self._outbox.send(
                OutboundMessage(route=pending.inbox, post=["XDEL", pending.inbox, pending.entry_id]), here=False
            )
