"""The requests that came to a cell: who handles them, which are in hand, and which were answered.

A request may come twice: its sender could not know whether it was written, or posted it again after a loss. It is known
by its id while it is in hand, and for the next 10,000 answers; then only a higher attempt is handled again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import BlobMissing, DecodeError, EncodeError, RedflareError
from redflare_broker.keys import Keys
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload, store_payload
from redflare_broker.scripts.cell_scripts import CellScripts
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.util.thread_pool import ElasticThreadPool
from redflare_broker.wire.message_entry import EVENT, REPLY, Envelope, check_word, pack_meta, unpack_meta

from .outbox import OutboundMessage, Outbox
from .request import EMPTY, LATER, HandlerResult, Payload, ReplyCode, Request

logger = logging.getLogger(__name__)

Handler = Callable[[Request], HandlerResult]

#: Answered requests that are remembered.
_REMEMBERED: Final = 10_000
_ANY: Final = "*"


class IncomingRequests:
    """Hands requests to their handlers, and posts the answers; thread-safe."""

    def __init__(
        self,
        server: Server,
        federation: Keys,
        scripts: CellScripts,
        settings: LinkSettings,
        outbox: Outbox,
        pool: ElasticThreadPool,
    ) -> None:
        self._server = server
        self._federation = federation
        self._scripts = scripts
        self._settings = settings
        self._outbox = outbox
        self._pool = pool
        self._fqcn = scripts.keys.fqcn
        self._stopped = False
        self._guard = threading.Lock()
        self._registered: dict[tuple[str, str], Handler] = {}
        self._in_hand: dict[str, Request] = {}
        #: by id: answers that are not written yet
        self._unwritten: dict[str, OutboundMessage] = {}
        #: by id: the attempt that was answered; the oldest first
        self._answered: dict[str, int] = {}

    def register(self, channel: str, topic: str, handler: Handler) -> None:
        """As ``Cell.register_request_cb``."""
        key = check_word(channel, "channel"), check_word(topic, "topic")
        if not callable(handler):
            raise TypeError(f"handler must be callable, but is a {type(handler).__name__}")
        if self._registered.setdefault(key, handler) is not handler:
            raise ValueError(f"channel {channel!r} has a handler for topic {topic!r} already")

    def receive(self, entry_id: str, envelope: Envelope) -> str:
        """Have a request handled; id of an entry that is of no use any more, or "".

        Raises:
            DecodeError: its meta cannot be read; its sender is told so.
        """
        with self._guard:
            held = self._in_hand.get(envelope.id)
            if held is not None:
                # the newer entry stands for it from now on: the older may have been lost
                older, held.entry_id = held.entry_id, entry_id
                held.attempt = max(held.attempt, envelope.attempt)
                return older if older != entry_id else ""
            if envelope.attempt <= self._answered.get(envelope.id, -1):
                letter = self._unwritten.get(envelope.id)
                if letter is None:
                    return entry_id
                # it must stand until its answer does
                if entry_id not in letter.deletes:
                    letter.deletes.append(entry_id)
                return ""
            try:
                request = self._request(entry_id, envelope)
            except DecodeError as exc:
                self._outbox.send(self._refusal(envelope, str(exc)), here=False)
                raise
            self._in_hand[envelope.id] = request
        self._pool.submit(partial(self._handle, request))
        return ""

    def answer(
        self,
        request: Request,
        rc: str,
        meta: dict[str, Any] | None,
        data: object,
        *,
        keep: bool,
        with_commands: Sequence[list[Arg]],
        route: str | None,
    ) -> None:
        """As ``Request.reply``."""
        letter = OutboundMessage(before=with_commands, before_route=route or self._scripts.keys.inbox)
        if not request.event:
            if not isinstance(rc, str) or not 1 <= len(rc) <= 200:
                raise EncodeError(f"rc must be a str of 1 to 200 characters, but is {rc!r:.300}")
            text = pack_meta(meta)
            sealed, stored = self._stored(data)
            inbox = self._federation.cell(request.origin).inbox
            envelope = Envelope(
                kind=REPLY,
                id=request.id,
                attempt=request.attempt,
                channel=request.channel,
                topic=request.topic,
                origin=self._fqcn,
                rc=rc,
                meta=text,
                data=sealed.data,
                buffers=sealed.buffers,
                blob=sealed.blob,
                # chunks that the caller has no name for are nobody's to keep
                keep=keep and not stored,
            )
            letter.route = inbox
            letter.post = self._scripts.post_command(inbox, envelope.fields())
        self._finish(request, letter)

    def close(self, request: Request) -> None:
        """As ``Request.drop``."""
        self._finish(request, OutboundMessage())

    def __len__(self) -> int:
        return len(self._in_hand)

    def stop(self) -> None:
        """Wait no longer for a server that is away."""
        self._stopped = True

    def _refusal(self, envelope: Envelope, reason: str) -> OutboundMessage:
        inbox = self._federation.cell(envelope.origin).inbox
        reply = replace(
            envelope,
            kind=REPLY,
            origin=self._fqcn,
            rc=ReplyCode.BAD_REQUEST_DATA,
            meta=pack_meta({"error": reason}),
            data=b"null",
            buffers=(),
            blob=None,
        )
        return OutboundMessage(route=inbox, post=self._scripts.post_command(inbox, reply.fields()))

    def _request(self, entry_id: str, envelope: Envelope) -> Request:
        sealed = EncodedPayload(envelope.data, envelope.buffers, envelope.blob)
        return Request(
            id=envelope.id,
            attempt=envelope.attempt,
            channel=envelope.channel,
            topic=envelope.topic,
            origin=envelope.origin,
            meta=unpack_meta(envelope.meta),
            payload=Payload(sealed, not envelope.keep, self._server, self._settings.limits, stop=lambda: self._stopped),
            event=envelope.kind is EVENT,
            entry_id=entry_id,
            desk=self,
        )

    def _handle(self, request: Request) -> None:
        handler = self._registered.get((request.channel, request.topic))
        handler = handler or self._registered.get((request.channel, _ANY))
        if handler is None:
            text = f"cell {self._fqcn} has no handler for topic {request.topic!r} of channel {request.channel!r}"
            logger.warning("%s; %s asked", text, request.origin)
            request.reply(ReplyCode.TOPIC_UNKNOWN, {"error": text})
            return
        try:
            said = handler(request)
            if said is not LATER:
                request.reply(*(said or ()))
        except BlobMissing as exc:
            logger.warning("%s: payload of %r is gone: %s", self._fqcn, request, exc)
            request.reply(ReplyCode.BLOB_MISSING, {"error": str(exc)})
        except Exception as exc:
            logger.exception("%s: the handler of %r failed", self._fqcn, request)
            request.reply(ReplyCode.HANDLER_EXCEPTION, {"error": f"{type(exc).__name__}: {exc}"[:2000]})

    def _stored(self, data: object) -> tuple[EncodedPayload, bool]:
        """The data of a reply as it is sent; whether chunks were made for it."""
        if data is None:
            return EMPTY, False
        sealed = encode_payload(data, self._settings.limits)
        if sealed.fits_entry(self._settings.limits):
            return EncodedPayload(sealed.data, tuple(map(bytes, sealed.buffers)), sealed.blob), False
        prefix = self._scripts.keys.blob(os.urandom(16).hex())
        ttl_ms = self._settings.policy.retention_ms
        limits = self._settings.limits
        return store_payload(self._server, sealed, prefix, limits, ttl_ms=ttl_ms, stop=lambda: self._stopped), True

    def _finish(self, request: Request, letter: OutboundMessage) -> None:
        """It is in hand no longer: send its answer, and delete its entry then."""
        letter.done = partial(self._written, request, letter)
        with self._guard:
            self._in_hand.pop(request.id, None)
            self._answered.pop(request.id, None)
            self._answered[request.id] = request.attempt
            if len(self._answered) > _REMEMBERED:
                del self._answered[next(iter(self._answered))]
            letter.deletes.append(request.entry_id)
            self._unwritten[request.id] = letter
        self._outbox.send(letter)

    def _written(self, request: Request, letter: OutboundMessage, what: RedisReply | RedflareError) -> None:
        # or the two would hold each other, and the payload, until the garbage collector comes
        letter.done = None
        with self._guard:
            if self._unwritten.get(request.id) is letter:
                del self._unwritten[request.id]
            if isinstance(what, RedflareError):
                # who asks again shall be answered
                self._answered.pop(request.id, None)
        if isinstance(what, RedflareError):
            logger.error("%s: the reply to %r was refused: %s", self._fqcn, request, what)
