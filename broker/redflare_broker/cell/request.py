"""The messages of cells, as their users see them: requests, results of handlers, and replies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias

from redflare_broker.errors import BlobMissing
from redflare_broker.fqcn import FQCN
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.payload.payload_store import discard
from redflare_broker.scripts import script
from redflare_broker.transport.replies import Arg
from redflare_broker.transport.server import Server
from redflare_broker.util.fault_log import FaultLog
from redflare_broker.wire.codec import CodecLimits


class ReplyCode:
    """Return codes of the cells themselves; a handler may return any other word."""

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
    #: Redis refused the message (no permission).
    COMM_ERROR: Final = "COMM_ERROR"


class ReplyLater(Enum):
    """The result of a handler that has no reply yet."""

    LATER = "LATER"
    EARLY = "EARLY"


#: ``Request.reply`` is called later.
LATER: Final = ReplyLater.LATER
#: Nobody can handle it yet: ``Request.reply_from`` is called when somebody can. Until then it counts as one that waits
#: for its handler, of which a sender may have a bound number here.
EARLY: Final = ReplyLater.EARLY

#: The result of a handler: rc, meta and data; None for ("OK", None, None); ``LATER`` or ``EARLY``.
HandlerResult: TypeAlias = tuple[str, dict[str, Any] | None, object] | ReplyLater | None


@dataclass(slots=True, eq=False)
class Payload:
    """The data of a message, and whether this process deletes its chunks."""

    #: The data as it came.
    encoded: EncodedPayload
    #: This process deletes the chunks, as soon as it does not need them.
    ours: bool
    server: Server
    limits: CodecLimits
    #: Ends the attempts to read them while Redis is unreachable.
    stop: Callable[[], bool] | None = None
    _opened: bool = field(default=False, init=False)
    _tree: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.ours = self.ours and self.encoded.blob is not None

    def open(self) -> Any:
        """Decode the data, once.

        Raises:
            DecodeError: it is not a payload of this protocol.
            BlobMissing: its chunks are gone.
            Unavailable: Redis is away, and the cell was stopped.
        """
        if not self._opened:
            self._tree = self.encoded.decode(self.server, self.limits, stop=self.stop)
            self._opened = True
        return self._tree

    def take(self) -> EncodedPayload:
        """Return the data undecoded; from now on the caller deletes the chunks, if they are ours."""
        self.ours = False
        return self.encoded

    def release(self) -> None:
        """Delete the chunks if they are ours; if Redis is unreachable, with a later heartbeat."""
        if self.ours and self.encoded.blob is not None:
            self.ours = False
            discard(self.server, self.encoded.blob)


@dataclass(slots=True, eq=False)
class Reply:
    """The reply to a request, or why none came."""

    #: "OK", another return code of the handler's, or one of ``ReplyCode``
    rc: str
    meta: dict[str, Any]
    #: FQCN of the cell that replied; "" when none did
    origin: str = ""
    payload: Payload | None = None

    @property
    def ok(self) -> bool:
        return self.rc == ReplyCode.OK

    @property
    def error(self) -> str:
        """The reason why the rc is not OK, if it is known."""
        text = self.meta.get("error", "")
        return text if isinstance(text, str) else ""

    @property
    def keep(self) -> bool:
        """Whether the sender deletes the chunks of the payload; else the receiver does."""
        return self.payload is None or not self.payload.ours

    @property
    def encoded(self) -> EncodedPayload:
        """The data undecoded; the caller deletes its chunks from now on, unless ``keep`` was True."""
        return self.payload.take() if self.payload else EMPTY

    @property
    def data(self) -> Any:
        """The data decoded, once; chunks that are the receiver's to delete are deleted then.

        Raises:
            DecodeError: it is not a payload of this protocol.
            BlobMissing: its chunks are gone.
        """
        if self.payload is None:
            return None
        tree = self.payload.open()
        self.payload.release()
        return tree

    def release(self) -> None:
        """Delete chunks that are the receiver's to delete, because the data is not needed."""
        if self.payload is not None:
            self.payload.release()

    def __repr__(self) -> str:
        return f"<Reply {self.rc} from {self.origin or 'no cell'}, meta={sorted(self.meta)}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundReply:
    """A reply to be posted; the fields are the arguments of ``Request.reply``."""

    rc: str
    meta: dict[str, Any] | bytes | None
    data: object
    keep: bool
    with_commands: Sequence[list[Arg]]
    route: str | None


class Replier(Protocol):
    """What a request needs of the cell that received it."""

    #: of the cell
    fqcn: str
    #: of the cell, too
    faults: FaultLog

    def reply(self, request: Request, reply: OutboundReply) -> None:
        """Post the reply to a request, which is done with."""

    def drop(self, request: Request) -> None:
        """Forget a request, which gets no reply."""

    def begin(self, request: Request) -> None:
        """Note that a handler begins with a request."""

    def end(self, request: Request, result: HandlerResult) -> None:
        """Note that it has returned this, or raised: None."""


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """A request or an event, as its handler gets it.

    Its entry stays in an inbox of the cell until it is answered, so that a cell that restarts reads it again.
    """

    id: str
    attempt: int
    channel: str
    topic: str
    #: FQCN of the cell that sent it
    origin: str
    meta: dict[str, Any]
    payload: Payload
    #: no reply is expected
    event: bool
    #: its entry, and the inbox in which it stands
    inbox: str
    entry_id: str
    replier: Replier
    answered: bool = False
    #: the party that its cell belongs to
    owner: str = field(init=False)
    #: Of the replier: its bytes while it counts as its sender's, whether a handler has begun with it, and how many run.
    load: int | None = field(default=None, init=False)
    begun: bool = field(default=False, init=False)
    runs: int = field(default=0, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.owner = FQCN.owner(self.origin)

    @property
    def keep(self) -> bool:
        """Whether the sender deletes the chunks of the payload; else the receiver does."""
        return not self.payload.ours

    @property
    def encoded(self) -> EncodedPayload:
        """The data undecoded; its chunks are the caller's to delete from now on, unless ``keep`` was True.

        When it is not read, chunks that are the receiver's to delete are deleted with the reply.
        """
        return self.payload.take()

    @property
    def data(self) -> Any:
        """The data decoded, once.

        Raises:
            DecodeError: it is not a payload of this protocol.
            BlobMissing: its chunks are gone; from a handler that does not catch it, the reply is BLOB_MISSING.
        """
        return self.payload.open()

    def reply(
        self,
        rc: str = ReplyCode.OK,
        meta: dict[str, Any] | bytes | None = None,
        data: object = None,
        *,
        keep: bool = False,
        with_commands: Sequence[list[Arg]] = (),
        route: str | None = None,
    ) -> None:
        """Post the reply, from any thread; later calls have no effect. Waits for Redis only to store chunks.

        Args:
            meta: a dict, or what ``pack_meta`` has made of it.
            data: a tree, or a ``EncodedPayload`` that is passed on verbatim.
            keep: the caller deletes the chunks of ``data``; else the cell that asked does.
            with_commands: run before the reply is posted, in the same round trip and in order; scripts as
                ``scripts.command`` makes them, safe to run twice.
            route: a key on the node for these commands; None: this cell's.

        Raises:
            EncodeError: meta or data cannot be sent; nothing was, and the request can still be answered.
        """
        if self._claim():
            reply = OutboundReply(rc=rc, meta=meta, data=data, keep=keep, with_commands=with_commands, route=route)
            try:
                self.replier.reply(self, reply)
            except BaseException:
                self.answered = False
                raise
            self.payload.release()

    def reply_from(self, handler: Callable[[Request], HandlerResult]) -> None:
        """Run a handler, and reply with what it returns or, when it raises, with why it failed."""
        result: HandlerResult = None
        self.replier.begin(self)
        try:
            result = handler(self)
            if not isinstance(result, ReplyLater):
                self.reply(*(result or ()))
        except BlobMissing as exc:
            self.note_fault("its payload is gone", f"the payload of {self!r} is gone: {exc}")
            self.reply(ReplyCode.BLOB_MISSING, {"error": str(exc)})
        except Exception as exc:
            text = f"the handler of {self!r} failed: {type(exc).__name__}: {exc}"
            self.note_fault(f"the handler of {self.channel} failed", text, logging.ERROR, exc_info=exc)
            self.reply(ReplyCode.HANDLER_EXCEPTION, {"error": f"{type(exc).__name__}: {exc}"[:2000]})
        finally:
            self.replier.end(self, result)

    def note_fault(
        self, kind: str, text: str, level: int = logging.WARNING, *, exc_info: BaseException | None = None
    ) -> None:
        """Log what is wrong with the request; when its sender has sent many of the kind, count it. See ``FaultLog``."""
        self.replier.faults.note(self.origin, kind, text, level, exc_info=exc_info)

    def drop(self) -> None:
        """Forget the request without a reply."""
        if self._claim():
            self.replier.drop(self)
            self.payload.release()

    def _claim(self) -> bool:
        with self._guard:
            claimed, self.answered = not self.answered, True
        return claimed

    def __repr__(self) -> str:
        state = "answered" if self.answered else "open"
        return f"<Request {self.channel}/{self.topic} {self.id} from {self.origin}, {state}>"


#: The data of a message that has none.
EMPTY: Final = EncodedPayload(b"null")
