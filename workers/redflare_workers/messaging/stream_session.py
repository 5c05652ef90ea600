"""One stream at its receiver: the order of its objects, and the consumer that takes them.

Objects are requests, handled by any thread of the cell's; the thread that finds the session idle takes them in order,
the others leave theirs to it. An object that is not the next, or in the window behind it, ends the stream.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from redflare_broker.cell.request import ReplyCode, Request
from redflare_broker.errors import BlobMissing, DecodeError, RedflareError

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.streaming import (
    ConsumedCallback,
    ConsumerFactory,
    ObjectConsumer,
    StreamContext,
    StreamContextKey,
    StreamDoneCallback,
)
from redflare_workers.protocol.shareable_codec import from_message, to_message

from .aux_runner import ContextMaker, context_with
from .wire import MESSAGE

logger = logging.getLogger(__name__)

#: Header of the first object: the stream context.
CONTEXT: Final = "ObjectStreamer.CTX"
#: Header of the last reply: the result of ``stream_done_cb``.
END_RESULT: Final = "ObjectStreamer.END_RESULT"
#: Header of the first reply: how many objects may be in flight.
GRANTED: Final = "ObjectStreamer.WINDOW"

#: Header of the reply of a consumer that goes on: the instance of its process.
TAKEN_BY: Final = "ObjectStreamer.TAKEN_BY"
#: Header of a refusal: the instance of the process that refuses, because it does not know the stream.
UNKNOWN_STREAM: Final = "ObjectStreamer.UNKNOWN"

#: Replies by the number of their object: id of the request, meta and data of the message.
Answers: TypeAlias = dict[int, tuple[str, dict[str, Any], object]]


@dataclass(frozen=True, slots=True)
class Processing:
    """The consumers of the streams of a channel and topic."""

    factory: ConsumerFactory
    stream_done_cb: StreamDoneCallback | None
    consumed_cb: ConsumedCallback | None
    cb_kwargs: dict[str, Any]


@dataclass(slots=True, eq=False)
class StreamSession:
    """One stream that comes in. Thread-safe."""

    engine: ContextMaker
    stream_id: str
    #: FQCN of the sender's cell
    origin: str
    processing: Processing
    #: objects that may be in flight, once the first one was consumed
    window: int
    #: returns why the sender's props cannot be those of the cell that it writes from; "": they can
    impostor: Callable[[str, object], str]
    #: called when the stream is over, before the consumer is finalized
    on_over: Callable[[StreamSession], object]
    #: instance of this process's cell
    taken_by: str
    #: when it last received or consumed an object
    touched: float = field(default_factory=time.monotonic, init=False)
    #: instance of the sender's cell, once its heartbeat was read
    instance: str = field(default="", init=False)
    #: looks for that heartbeat, one after the other, that found none
    missed: int = field(default=0, init=False)
    #: whether its consumer is at work
    busy: bool = field(default=False, init=False)
    #: the last replies, in case one must be sent again
    answers: Answers = field(default_factory=dict, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _waiting: dict[int, Request] = field(default_factory=dict, init=False)
    _next: int = field(default=0, init=False)
    #: the return code at its end
    _rc: str = field(default="", init=False)
    _closed: bool = field(default=False, init=False)
    _consumer: ObjectConsumer | None = field(default=None, init=False)
    _context: StreamContext = field(default_factory=dict, init=False)
    _peer: dict[str, Any] = field(default_factory=dict, init=False)

    def take(self, seq: int, request: Request) -> None:
        """Consume an object, and those behind it that have come; or leave it to the thread that is consuming."""
        if answer_again(self.answers, seq, request):
            return
        with self._guard:
            self.touched = time.monotonic()
            refused = self._refusal(seq)
            if refused:
                # ended before the reply is sent, or the next object could be taken behind a refused one
                finish = self._end(ReturnCode.BAD_REQUEST_DATA)
            else:
                self._waiting[seq] = request
                if self.busy:
                    return
                self.busy = True
        if not refused:
            self._work()
            return
        text = f"stream {self.stream_id} from {self.origin}: {refused}"
        request.note_fault("refused object of a stream", text, logging.ERROR)
        _refuse(request, ReturnCode.BAD_REQUEST_DATA, refused)
        if finish:
            self._finish(None)

    def end(self, rc: str, fl_ctx: FLContext | None = None) -> None:
        """End the stream, from any thread; a busy consumer finishes its object first. Again has no effect."""
        with self._guard:
            finish = self._end(rc)
        if finish:
            self._finish(fl_ctx)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _end(self, rc: str) -> bool:
        """Set the return code at its end, under the guard; return whether the caller finishes the stream."""
        if self._rc:
            return False
        self._rc = rc
        idle, self.busy = not self.busy, True
        return idle

    def _refusal(self, seq: int) -> str:
        """Why an object cannot be taken; "" if it can."""
        if self._rc:
            return f"object {seq} came after the end of the stream ({self._rc})"
        if seq < self._next or seq in self._waiting:
            return f"object {seq} came twice"
        # the window opens with the first object
        if seq >= self._next + (self.window if self._next else 1):
            return f"object {seq} came out of order: object {self._next} is due"
        return ""

    def _work(self) -> None:
        while True:
            with self._guard:
                request = None if self._rc else self._waiting.pop(self._next, None)
                if request is None:
                    if not self._rc:
                        self.busy = False
                        return
                else:
                    self._next += 1
            if request is None:
                self._finish(None)
                return
            self._consume(request)
            self.touched = time.monotonic()

    def _consume(self, request: Request) -> None:
        with self.engine.new_context() as fl_ctx:
            try:
                message = self._read(request)
            except BlobMissing as error:
                # Redis has lost it: its sender sends it again
                with self._guard:
                    self._next -= 1
                request.reply(ReplyCode.BLOB_MISSING, {"error": str(error)})
                return
            except RedflareError as error:
                text = f"stream {self.stream_id}: cannot take an object from {self.origin}: {error}"
                request.note_fault("unreadable object of a stream", text, logging.ERROR)
                go_on, reply = False, _failed(ReturnCode.BAD_REQUEST_DATA, str(error))
            else:
                fl_ctx.set_peer_context(context_with(self._peer))
                go_on, reply = self._hand_over(message, fl_ctx)
            signal = fl_ctx.get_run_abort_signal()
            if isinstance(signal, Signal) and signal.triggered:
                go_on, reply = False, make_reply(ReturnCode.TASK_ABORTED)
            seq = self._next - 1
            if not go_on:
                with self._guard:
                    self._rc = self._rc or str(reply.get_return_code())
                result = self._close(fl_ctx)
                if result:
                    reply.set_header(END_RESULT, result)
            else:
                reply.set_header(TAKEN_BY, self.taken_by)
        if seq == 0:
            reply.set_header(GRANTED, self.window)
        self._answer(seq, request, reply)

    def _read(self, request: Request) -> Shareable:
        carried = request.meta.get(MESSAGE)
        message = from_message(carried if isinstance(carried, dict) else {}, request.data)
        props = message.get_peer_props()
        if isinstance(props, dict) and not self._peer:
            if impostor := self.impostor(self.origin, props):
                raise DecodeError(impostor)
            self._peer = props
        message.set_peer_props(self._peer)
        return message

    def _hand_over(self, message: Shareable, fl_ctx: FLContext) -> tuple[bool, Shareable]:
        try:
            if self._consumer is None:
                self._consumer = self._new_consumer(message, fl_ctx)
            go_on, reply = self._consumer.consume(message, self._context, fl_ctx)
            reply = make_reply(ReturnCode.OK) if reply is None or not reply else reply
            if self.processing.consumed_cb is not None:
                self.processing.consumed_cb((go_on, reply), self._context, fl_ctx, **self.processing.cb_kwargs)
        except (Exception, SystemExit) as error:
            logger.exception("stream %s from %s: its consumer failed", self.stream_id, self.origin)
            return False, _failed(ReturnCode.EXECUTION_EXCEPTION, f"{type(error).__name__}: {error}")
        if not isinstance(reply, Shareable):
            text = f"{type(self._consumer).__name__} must reply with a Shareable, but gave a {type(reply).__name__}"
            return False, _failed(ReturnCode.EXECUTION_EXCEPTION, text)
        return bool(go_on), reply

    def _new_consumer(self, message: Shareable, fl_ctx: FLContext) -> ObjectConsumer:
        context = message.get_header(CONTEXT)
        if not isinstance(context, dict):
            raise TypeError(f"the first object must have the stream context, a dict, but has {context!r:.200}")
        context[StreamContextKey.END_STREAM] = self.end
        self._context = context
        consumer = self.processing.factory.get_consumer(context, fl_ctx)
        if not isinstance(consumer, ObjectConsumer):
            factory = type(self.processing.factory).__name__
            raise TypeError(f"{factory} must make an ObjectConsumer, but made a {type(consumer).__name__}")
        return consumer

    def _answer(self, seq: int, request: Request, reply: Shareable) -> None:
        try:
            self._send(seq, request, reply)
        except RedflareError as error:
            logger.error("stream %s: cannot send the reply to %s: %s", self.stream_id, self.origin, error)
            self._send(seq, request, _failed(ReturnCode.EXECUTION_RESULT_ERROR, str(error)))

    def _send(self, seq: int, request: Request, reply: Shareable) -> None:
        meta, data = to_message(reply)
        # recorded first: it may be asked for again as soon as it is sent
        self.answers[seq] = (request.id, meta, data)
        self.answers.pop(seq - self.window, None)
        request.reply(ReplyCode.OK, {MESSAGE: meta}, data)

    def _finish(self, fl_ctx: FLContext | None) -> None:
        """Refuse the objects that still wait, and close."""
        with self._guard:
            waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            _refuse(request, self._rc, "the stream is over")
        if fl_ctx is not None:
            self._close(fl_ctx)
            return
        with self.engine.new_context() as own:
            own.set_peer_context(context_with(self._peer))
            self._close(own)

    def _close(self, fl_ctx: FLContext) -> Any:
        """Finalize the consumer, call ``stream_done_cb``, and return the consumer; the result is the callback's."""
        with self._guard:
            first, self._closed = not self._closed, True
        if not first:
            return None
        self.on_over(self)
        consumer, processing = self._consumer, self.processing
        if consumer is None:
            return None
        result = None
        self._context[StreamContextKey.RC] = self._rc
        try:
            consumer.finalize(self._context, fl_ctx)
        except (Exception, SystemExit):
            logger.exception("stream %s from %s: its consumer could not be finalized", self.stream_id, self.origin)
            self._context[StreamContextKey.RC] = ReturnCode.EXECUTION_EXCEPTION
        if processing.stream_done_cb is not None:
            try:
                result = processing.stream_done_cb(self._context, fl_ctx, **processing.cb_kwargs)
            except (Exception, SystemExit):
                logger.exception("stream %s from %s: its stream_done_cb failed", self.stream_id, self.origin)
        try:
            processing.factory.return_consumer(consumer, self._context, fl_ctx)
        except (Exception, SystemExit):
            logger.exception("stream %s from %s: its consumer could not be returned", self.stream_id, self.origin)
        return result

    def __repr__(self) -> str:
        return f"<StreamSession {self.stream_id} from {self.origin}: {self._next} taken{', over' if self._rc else ''}>"


def answer_again(answers: Answers, seq: int, request: Request) -> bool:
    """Send the reply to a request again if it was answered before; False: it was not.

    The sender has not read the reply, because Redis lost it, and has posted the same request again. A request with
    another id is another object.
    """
    request_id, meta, data = answers.get(seq, ("", {}, None))
    if request_id != request.id:
        return False
    request.reply(ReplyCode.OK, {MESSAGE: meta}, data)
    return True


def _failed(rc: str, text: str) -> Shareable:
    return make_reply(rc, {ReservedHeaderKey.ERROR: text})


def _refuse(request: Request, rc: str, text: str) -> None:
    meta, data = to_message(_failed(rc, text))
    request.reply(ReplyCode.OK, {MESSAGE: meta}, data)
