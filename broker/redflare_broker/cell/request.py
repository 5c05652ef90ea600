"""What cells say to each other, as their users see it: requests, the answers of handlers, and replies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, Literal, Protocol, TypeAlias

from redflare_broker.errors import RedflareError
from redflare_broker.payload import redis_store
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.scripts import script
from redflare_broker.transport.replies import Arg
from redflare_broker.transport.server import Server
from redflare_broker.wire.codec import CodecLimits

__all__ = ["LATER", "HandlerResult", "Payload", "Reply", "ReplyCode", "ReplyLater", "Request"]

logger = logging.getLogger(__name__)


class ReplyCode:
    """Return codes that cells give by themselves; a handler may give any other word."""

    OK: Final = "OK"
    #: No reply came in time.
    TIMEOUT: Final = "TIMEOUT"
    #: The asking side gave up: ``abort``, ``give_up``, or its cell was stopped or fenced.
    ABORTED: Final = "ABORTED"
    #: The target cannot read the request.
    BAD_REQUEST_DATA: Final = "BAD_REQUEST_DATA"
    #: The target has no handler for this channel and topic.
    TOPIC_UNKNOWN: Final = "TOPIC_UNKNOWN"
    #: The handler raised an exception.
    HANDLER_EXCEPTION: Final = "HANDLER_EXCEPTION"
    #: The payload's chunks are gone: send the request again with its payload.
    BLOB_MISSING: Final = script.BLOB_MISSING
    #: Redis refused the message (no memory, no permission).
    COMM_ERROR: Final = "COMM_ERROR"


class ReplyLater(Enum):
    """What a handler returns that answers by ``Request.reply`` later."""

    LATER = "LATER"


LATER: Final = ReplyLater.LATER

#: What a handler returns: rc, meta and data; None for ("OK", None, None); or ``LATER``.
HandlerResult: TypeAlias = tuple[str, dict[str, Any] | None, object] | Literal[ReplyLater.LATER] | None


class Payload:
    """The data of a message, and who deletes its chunks.

    Args:
        sealed: the data as it came.
        ours: the receiver deletes the chunks, as soon as they are of no use to it.
        stop: ends the attempts to read them from a server that is away.
    """

    __slots__ = ("_limits", "_opened", "_server", "_stop", "_tree", "ours", "sealed")

    def __init__(
        self,
        sealed: EncodedPayload,
        ours: bool,
        server: Server,
        limits: CodecLimits,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.sealed = sealed
        self.ours = ours and sealed.blob is not None
        self._server = server
        self._stop = stop
        self._limits = limits
        self._opened = False
        self._tree: Any = None

    def open(self) -> Any:
        """Decode it, once.

        Raises:
            DecodeError: it is not a payload of this protocol.
            BlobMissing: its chunks are gone.
            Unavailable: the server is away, and the cell was stopped.
        """
        if not self._opened:
            self._tree = self.sealed.open(self._server, self._limits, stop=self._stop)
            self._opened = True
        return self._tree

    def take(self) -> EncodedPayload:
        """The data undecoded; from now on the caller deletes the chunks, if the receiver has to."""
        self.ours = False
        return self.sealed

    def release(self) -> None:
        """Delete the chunks if they are ours; those that cannot be reached now expire."""
        if not self.ours or self.sealed.blob is None:
            return
        self.ours = False
        try:
            redis_store.remove(self._server, self.sealed.blob, deadline=time.monotonic())
        except RedflareError as exc:
            logger.warning("payload %s is left to expire: %s", self.sealed.blob.prefix, exc)


class Reply:
    """What came back to a request, or why nothing did."""

    __slots__ = ("_payload", "meta", "origin", "rc")

    def __init__(self, rc: str, meta: dict[str, Any], origin: str = "", payload: Payload | None = None) -> None:
        #: "OK", another word of the handler's, or one of ``ReplyCode``
        self.rc = rc
        self.meta = meta
        #: FQCN of the cell that answered; "" when none did
        self.origin = origin
        self._payload = payload

    @property
    def ok(self) -> bool:
        return self.rc == ReplyCode.OK

    @property
    def error(self) -> str:
        """Why it is not OK, when the cell knows."""
        text = self.meta.get("error", "")
        return text if isinstance(text, str) else ""

    @property
    def keep(self) -> bool:
        """Whether the sender deletes the chunks of the payload; else the receiver does."""
        return self._payload is None or not self._payload.ours

    @property
    def sealed(self) -> EncodedPayload:
        """The data undecoded; the caller deletes its chunks from now on, unless ``keep`` was True."""
        return self._payload.take() if self._payload else EMPTY

    @property
    def data(self) -> Any:
        """The data decoded, once; chunks that are the receiver's to delete are deleted then.

        Raises:
            DecodeError: it is not a payload of this protocol.
            BlobMissing: its chunks are gone.
        """
        if self._payload is None:
            return None
        tree = self._payload.open()
        self._payload.release()
        return tree

    def release(self) -> None:
        """Nobody needs the data: delete chunks that are the receiver's to delete."""
        if self._payload is not None:
            self._payload.release()

    def __repr__(self) -> str:
        return f"<Reply {self.rc} from {self.origin or 'nobody'}, meta={sorted(self.meta)}>"


class Replier(Protocol):
    """What a request needs of the cell that received it."""

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
    ) -> None: ...

    def close(self, request: Request) -> None: ...


class Request:
    """A request or an event, in the hands of its handler.

    Its entry stays in the cell's inbox until it is answered, so that a cell that restarts reads it again.
    """

    __slots__ = ("_answered", "_desk", "_guard", "_payload", "attempt", "channel", "entry_id", "event", "id", "meta",
                 "origin", "topic")  # fmt: skip

    def __init__(
        self,
        *,
        id: str,
        attempt: int,
        channel: str,
        topic: str,
        origin: str,
        meta: dict[str, Any],
        payload: Payload,
        event: bool,
        entry_id: str,
        desk: Replier,
    ) -> None:
        self.id = id
        self.attempt = attempt
        self.channel = channel
        self.topic = topic
        #: FQCN of the cell that asks
        self.origin = origin
        self.meta = meta
        #: nobody waits for an answer
        self.event = event
        #: its entry in the inbox
        self.entry_id = entry_id
        self._payload = payload
        self._desk = desk
        self._answered = False
        self._guard = threading.Lock()

    @property
    def keep(self) -> bool:
        """Whether the sender deletes the chunks of the payload; else the receiver does."""
        return not self._payload.ours

    @property
    def sealed(self) -> EncodedPayload:
        """The data undecoded; its chunks are the caller's to delete from now on, unless ``keep`` was True.

        Not touched, the chunks that are the receiver's to delete are deleted with the reply.
        """
        return self._payload.take()

    @property
    def data(self) -> Any:
        """The data decoded, once.

        Raises:
            DecodeError: it is not a payload of this protocol.
            BlobMissing: its chunks are gone; a handler that lets this pass answers BLOB_MISSING.
        """
        return self._payload.open()

    @property
    def answered(self) -> bool:
        return self._answered

    def reply(
        self,
        rc: str = ReplyCode.OK,
        meta: dict[str, Any] | None = None,
        data: object = None,
        *,
        keep: bool = False,
        with_commands: Sequence[list[Arg]] = (),
        route: str | None = None,
    ) -> None:
        """Answer; from any thread, once: later calls have no effect. Does not wait for Redis, except to store chunks.

        Args:
            data: a tree, or a ``EncodedPayload`` that is passed on verbatim.
            keep: the chunks of ``data`` are deleted by the caller; else by who asked.
            with_commands: run before the reply is posted, in the same round trip and in order; scripts as
                ``scripts.command`` makes them, safe to run twice.
            route: a key on the node that they are for; None: this cell's.

        Raises:
            EncodeError: meta or data cannot be sent; nothing was, and the request can still be answered.
        """
        if self._claim():
            try:
                self._desk.answer(self, rc, meta, data, keep=keep, with_commands=with_commands, route=route)
            except BaseException:
                self._answered = False
                raise
            self._payload.release()

    def drop(self) -> None:
        """Forget it without an answer."""
        if self._claim():
            self._desk.close(self)
            self._payload.release()

    def _claim(self) -> bool:
        with self._guard:
            claimed, self._answered = not self._answered, True
        return claimed

    def __repr__(self) -> str:
        state = "answered" if self._answered else "open"
        return f"<Request {self.channel}/{self.topic} {self.id} from {self.origin}, {state}>"


#: The data of a message that has none.
EMPTY: Final = EncodedPayload(b"null")
