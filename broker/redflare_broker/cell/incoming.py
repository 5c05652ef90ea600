"""The requests that came to a cell: their handlers, those in hand, and those that were answered.

A request may come twice: its sender could not know whether it was written, or posted it again after a loss. It is known
by its sender and id while it is in hand, and for the next 10,000 replies; then only a higher attempt is handled again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

from redflare_broker.errors import DecodeError, EncodeError, RedflareError, WrongSender
from redflare_broker.fqcn import FQCN
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload
from redflare_broker.payload.payload_store import discard
from redflare_broker.scripts.cell_scripts import REPLY as POST_REPLY
from redflare_broker.scripts.script import BURIED, parse_reply
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.util.plain_function import why_not_plain
from redflare_broker.wire.message_entry import EVENT, REPLY, Envelope, check_word, pack_meta, unpack_meta

from .direction import CellParts, Direction
from .outbox import OutboundMessage
from .request import EARLY, EMPTY, HandlerResult, OutboundReply, ReplyCode, Request
from .sender_load import SenderLoad

Handler = Callable[[Request], HandlerResult]
#: By what a request is known: the cell that has sent it, and the id that it has there.
_Known: TypeAlias = tuple[str, str]

#: Requests that are remembered after their reply.
_REMEMBERED: Final = 10_000
_ANY: Final = "*"
#: Requests of a sender that are begun and not dealt with, which are worth a line in the log.
_MANY: Final = 100
#: Messages in an inbox behind which no reply is written: of a cell with a heartbeat, of one without, and where there is
#: no such cell, which Redis may have lost.
_MOST_UNREAD: Final = 100_000
_MOST_UNREAD_OF_THE_DEAD: Final = 1000
_MOST_UNREAD_OF_STRANGERS: Final = 100


class IncomingRequests(Direction):
    """Hands requests to their handlers, and posts the replies; thread-safe."""

    def __init__(self, parts: CellParts) -> None:
        super().__init__(parts)
        self._load = SenderLoad()
        self._guard = threading.Lock()
        self._registered: dict[tuple[str, str], Handler] = {}
        self._in_hand: dict[_Known, Request] = {}
        #: replies that are not written yet
        self._unwritten: dict[_Known, OutboundMessage] = {}
        #: entries of requests that came again meanwhile; they stay until the reply is written
        self._copies: dict[_Known, list[str]] = {}
        #: the attempt that was answered; the oldest first
        self._answered: dict[_Known, int] = {}

    def register(self, channel: str, topic: str, handler: Handler) -> None:
        """Register a handler; as ``Cell.register_request_cb``."""
        key = check_word(channel, "channel"), check_word(topic, "topic")
        if not callable(handler):
            raise TypeError(f"handler must be callable, but is a {type(handler).__name__}")
        if why := why_not_plain(handler):
            raise TypeError(f"handler must be a function that replies, but is {why}")
        if self._registered.setdefault(key, handler) is not handler:
            raise ValueError(f"channel {channel!r} has a handler for topic {topic!r} already")

    def receive(self, inbox: str, entry_id: str, envelope: Envelope) -> str:
        """Have a request handled; return the id of an entry of this inbox that may be deleted, or "".

        Raises:
            DecodeError: its meta cannot be read; its sender gets BAD_REQUEST_DATA.
        """
        known = envelope.origin, envelope.id
        with self._guard:
            held = self._in_hand.get(known)
            if held is not None:
                # the newer entry is the one to delete from now on: the older may have been lost
                older, held.entry_id = held.entry_id, entry_id
                held.attempt = max(held.attempt, envelope.attempt)
                return older if older != entry_id else ""
            if envelope.attempt <= self._answered.get(known, -1):
                message = self._unwritten.get(known)
                if message is None:
                    return entry_id
                # not one of its ``deletes``: the outbox may have read them, and is writing
                copies = self._copies.setdefault(known, [])
                if (inbox, entry_id) not in message.deletes and entry_id not in copies:
                    copies.append(entry_id)
                return ""
            handler = self._handler_of(envelope)
            if handler is None:
                self._refuse_topic(inbox, entry_id, envelope)
                return ""
            try:
                request = self._request(inbox, entry_id, envelope)
            except DecodeError as exc:
                self._outbox.send(self._refusal(envelope, ReplyCode.BAD_REQUEST_DATA, str(exc)), here=False)
                raise
            self._in_hand[known] = request
            self._load.add(request.owner, envelope.nbytes)
            request.load = envelope.nbytes
        self._pool.submit(partial(request.reply_from, handler), request.owner)
        return ""

    def bury(self, entry_id: str, owner: str, fault: Exception, reason: str, command: list[Arg]) -> None:
        """Move an entry that cannot be read, or that its sender may not send, to the dead letters by this command."""
        if not isinstance(fault, DecodeError):
            self.faults.note(owner, "program error", f"entry {entry_id}: {reason}", logging.ERROR, exc_info=fault)
        kind = "sent in the name of another" if isinstance(fault, WrongSender) else "entry that cannot be read"
        self._load.add(owner, 0)
        done = partial(self._buried, entry_id, owner, kind, reason)
        self._outbox.send(OutboundMessage(route=self._keys.cell, post=command, done=done), here=False)

    def load(self, owner: str) -> float:
        """Return how much of the room for requests of an owner's cells is taken; 1 and more: all of it."""
        return self._load.of(owner)

    def reply(self, request: Request, reply: OutboundReply) -> None:
        """Encode a reply, and post it; as ``Request.reply``."""
        message = OutboundMessage(before=reply.with_commands, before_route=reply.route or self._keys.cell)
        if not request.event:
            if not isinstance(reply.rc, str) or not 1 <= len(reply.rc) <= 200:
                raise EncodeError(f"rc must be a str of 1 to 200 characters, but is {reply.rc!r:.300}")
            meta = pack_meta(reply.meta)
            data, stored = self._encode(reply.data)
            envelope = Envelope(
                kind=REPLY,
                id=request.id,
                attempt=request.attempt,
                channel=request.channel,
                topic=request.topic,
                origin=self.fqcn,
                rc=reply.rc,
                meta=meta,
                data=data.data,
                buffers=data.buffers,
                blob=data.blob,
                # chunks that the caller has no name for are nobody's to keep
                keep=reply.keep and not stored,
            )
            message.before = [*reply.with_commands, *self._payloads.naming(data.blob)]
            self._address(message, request.origin, envelope)
        self._finish(request, message)

    def drop(self, request: Request) -> None:
        """Forget a request, and delete its entry; as ``Request.drop``."""
        self._finish(request, OutboundMessage())

    def begin(self, request: Request) -> None:
        """Note that a handler begins with a request, for the first time or because it came too early then."""
        sender = request.owner
        with self._guard:
            request.runs += 1
            if not request.begun and request.load is not None:
                request.begun = True
                self._load.begin(sender)
        if self._load.of(sender) >= 1 and (begun := self._load.begun(sender)) >= _MANY:
            text = (
                f"{begun} requests of {sender} are with handlers that do not return, or came before the run has begun"
            )
            self.faults.note(sender, "many requests in hand", f"{text}: those that it still sends wait in Redis")

    def end(self, request: Request, result: HandlerResult) -> None:
        """Note what a handler has returned: a request that came too early counts until it is handled, or answered."""
        with self._guard:
            request.runs -= 1
            if not request.runs and result is not EARLY:
                self._unload(request)

    def __len__(self) -> int:
        return len(self._in_hand)

    def stop(self) -> None:
        """Stop waiting for a Redis that is away."""
        self._closed = "the cell was stopped"

    def _handler_of(self, envelope: Envelope) -> Handler | None:
        handler = self._registered.get((envelope.channel, envelope.topic))
        return handler or self._registered.get((envelope.channel, _ANY))

    def _refuse_topic(self, inbox: str, entry_id: str, envelope: Envelope) -> None:
        """Answer a request that nobody handles, at no more cost than that of the answer."""
        origin = envelope.origin
        text = f"cell {self.fqcn} has no handler for topic {envelope.topic!r} of channel {envelope.channel!r}"
        self.faults.note(origin, "unknown topic", f"{text}; the request is from {origin}")
        is_event = envelope.kind is EVENT
        message = OutboundMessage() if is_event else self._refusal(envelope, ReplyCode.TOPIC_UNKNOWN, text)
        message.deletes.append((inbox, entry_id))
        owner = FQCN.owner(origin)
        message.done = lambda result: self._load.remove(owner, 0)
        self._load.add(owner, 0)
        self._outbox.send(message, here=False)
        payload = self._payload(envelope)
        if payload.ours:
            self._pool.submit(payload.release, owner)

    def _buried(self, entry_id: str, owner: str, kind: str, reason: str, result: RedisReply | RedflareError) -> None:
        self._load.remove(owner, 0)
        if isinstance(result, RedflareError):
            where = f"stays there, Redis refuses to move it ({result})"
        elif parse_reply("cell/bury", result).status == BURIED:
            where = f"is now in {self._keys.dead} (`redflare dead list`)"
        else:
            where = "is gone by now"
        text = f"entry {entry_id} of the inbox for {owner} is not taken and {where}: {reason}"
        self.faults.note(owner, kind, text, logging.ERROR)

    def _refusal(self, envelope: Envelope, rc: str, reason: str) -> OutboundMessage:
        message = OutboundMessage()
        reply = replace(
            envelope,
            kind=REPLY,
            origin=self.fqcn,
            rc=rc,
            meta=pack_meta({"error": reason}),
            data=b"null",
            buffers=(),
            blob=None,
        )
        self._address(message, envelope.origin, reply)
        return message

    def _address(self, message: OutboundMessage, origin: str, reply: Envelope) -> None:
        """Have a message post a reply to the cell that has asked, unless nobody would read it."""
        keys = self._federation.cell(origin)
        message.route = keys.cell
        message.post = POST_REPLY.command(
            self._at(keys),
            reply.fields(),
            cell=keys.cell,
            heartbeat=keys.heartbeat,
            most=_MOST_UNREAD,
            most_dead=_MOST_UNREAD_OF_THE_DEAD,
            most_unknown=_MOST_UNREAD_OF_STRANGERS,
            beat_ttl_ms=round(self._settings.heartbeat_ttl * 1000),
            settled_ms=self._settings.policy.settled_ms,
        )
        message.unread = None if reply.keep else reply.blob

    def _request(self, inbox: str, entry_id: str, envelope: Envelope) -> Request:
        return Request(
            id=envelope.id,
            attempt=envelope.attempt,
            channel=envelope.channel,
            topic=envelope.topic,
            origin=envelope.origin,
            meta=unpack_meta(envelope.meta),
            payload=self._payload(envelope),
            event=envelope.kind is EVENT,
            inbox=inbox,
            entry_id=entry_id,
            replier=self,
        )

    def _unload(self, request: Request) -> None:
        """Count a request no more, under the guard."""
        nbytes, request.load = request.load, None
        if nbytes is not None:
            self._load.end(request.owner, nbytes)

    def _encode(self, data: object) -> tuple[EncodedPayload, bool]:
        """Encode the data of a reply; True: its chunks were stored here."""
        if data is None:
            return EMPTY, False
        payload = encode_payload(data, self._settings.limits)
        if payload.fits_entry(self._settings.limits):
            return EncodedPayload(payload.data, tuple(map(bytes, payload.buffers)), payload.blob), False
        return self.store(payload), True

    def _finish(self, request: Request, message: OutboundMessage) -> None:
        """Take a request out of hand: send its reply, and delete its entry once that is written."""
        message.done = partial(self._written, request, message)
        known = request.origin, request.id
        with self._guard:
            self._in_hand.pop(known, None)
            self._unload(request)
            self._answered.pop(known, None)
            self._answered[known] = request.attempt
            if len(self._answered) > _REMEMBERED:
                del self._answered[next(iter(self._answered))]
            message.deletes.append((request.inbox, request.entry_id))
            self._unwritten[known] = message
        self._outbox.send(message)

    def _written(self, request: Request, message: OutboundMessage, result: RedisReply | RedflareError) -> None:
        # or the two would hold each other, and the payload, until the garbage collector comes
        message.done = None
        self._payloads.named(message.unread)
        known = request.origin, request.id
        with self._guard:
            copies: list[str] = []
            if self._unwritten.get(known) is message:
                del self._unwritten[known]
                copies = self._copies.pop(known, [])
            if isinstance(result, RedflareError):
                # when it is asked again, it must be answered
                self._answered.pop(known, None)
        if isinstance(result, RedflareError):
            request.note_fault("Redis refuses the reply", f"Redis refused the reply to {request!r}: {result}")
        elif message.post is not None and result is None:
            text = f"the reply to {request!r} is not written: many are there, and nobody reads them"
            request.note_fault("reply to nobody", text)
            if message.unread is not None:
                self._pool.submit(partial(discard, self._server, message.unread), request.owner)
        if copies:
            self._outbox.send(OutboundMessage(deletes=[(request.inbox, entry_id) for entry_id in copies]))
