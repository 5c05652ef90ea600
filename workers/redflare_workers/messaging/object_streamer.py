"""``ObjectStreamer``: sequences of Shareables from a producer here to consumers at the targets. After NVFlare's.

Each object is a request, answered when it was consumed. A producer with a ``window`` may have some more on their way,
but never more than its receiver grants: a slow consumer holds the sender back, and Redis holds a window at most.
``outgoing_stream.py`` is the sender's part of one stream, ``stream_session.py`` the receiver's.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from redflare_broker.cell.request import HandlerResult, Request

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.streaming import (
    ConsumedCallback,
    ConsumerFactory,
    ObjectProducer,
    ProgressCallback,
    StreamContext,
    StreamContextKey,
    StreamDoneCallback,
)

from .aux_runner import ContextMaker
from .outgoing_stream import OutgoingStream
from .post import Post, checked_targets
from .stream_receiver import StreamReceiver
from .stream_session import END_RESULT, Processing
from .wire import OBJECT

logger = logging.getLogger(__name__)


class ObjectStreamer:
    """The object streams of one engine, both ways; any number at once.

    Args:
        engine: makes the contexts in which consumers run.
        post: sends.
    """

    #: Header of the last reply: what the receiver's ``stream_done_cb`` returned.
    END_RESULT: Final = END_RESULT

    def __init__(self, engine: ContextMaker, post: Post) -> None:
        self._post = post
        self._desk = StreamReceiver(engine, post)
        self._guard = threading.Lock()
        self._outgoing: set[OutgoingStream] = set()
        self._closed = False

    def register_stream_processing(
        self,
        channel: str,
        topic: str,
        factory: ConsumerFactory,
        stream_done_cb: StreamDoneCallback | None = None,
        consumed_cb: ConsumedCallback | None = None,
        **cb_kwargs: Any,
    ) -> None:
        """Let the factory's consumers take the streams of a channel and topic.

        Args:
            channel: ``"*"``, and the topic too: those that nobody else takes.
            topic: ``"*"``: those of the channel that nobody else takes.
            stream_done_cb: called when a stream is over.
            consumed_cb: called after each object.
            cb_kwargs: passed to both.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: channel or topic is empty.
        """
        _check_word(channel, "channel")
        _check_word(topic, "topic")
        if not isinstance(factory, ConsumerFactory):
            raise TypeError(f"factory must be a ConsumerFactory, but got {type(factory).__name__}")
        for name, callback in (("stream_done_cb", stream_done_cb), ("consumed_cb", consumed_cb)):
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} is a {type(callback).__name__}: not callable")
        self._desk.register(channel, topic, Processing(factory, stream_done_cb, consumed_cb, cb_kwargs))

    def stream_objects(
        self,
        channel: str,
        topic: str,
        stream_ctx: StreamContext | None,
        targets: str | Sequence[str],
        producer: ObjectProducer,
        fl_ctx: FLContext,
        optional: bool = False,
        secure: bool = False,
        *,
        progress_cb: ProgressCallback | None = None,
    ) -> tuple[str, Any]:
        """Stream what a producer makes to the targets, in this thread, to the end.

        An object that a target does not answer within its timeout gets the reply TIMEOUT. The timeout counts from the
        target's last answer, and not while this process or the target is cut off from Redis: what was on its way then
        arrives when the connection is back.

        Args:
            stream_ctx: goes to the consumers with the first object.
            optional: failures are logged at DEBUG only.
            secure: without effect; what protects streams is TLS between each process and Redis.
            progress_cb: called after each object that all targets have answered.

        Returns:
            Return code and result: (OK, None) when the producer came to its end; its result, with OK, or with ERROR
            when it is empty or false; (TASK_ABORTED, None) when the run was aborted.

        Raises:
            TypeError: an argument, or what the producer made, is of the wrong type.
            ValueError: a name is empty or nobody's, a timeout is not > 0, or (EncodeError) an object cannot be sent.
        """
        names = checked_targets(targets)
        _check_word(channel, "channel")
        _check_word(topic, "topic")
        context = {} if stream_ctx is None else stream_ctx
        _check_kind("stream_ctx", context, dict)
        _check_kind("producer", producer, ObjectProducer)
        _check_kind("fl_ctx", fl_ctx, FLContext)
        fqcns = self._post.fqcns(names)
        if not names or (unknown := [name for name in names if name not in fqcns]):
            raise ValueError(f"a stream needs targets that are there, but got {names}, of which nobody is {unknown}")
        context[StreamContextKey.CHANNEL] = channel
        context[StreamContextKey.TOPIC] = topic
        stream = OutgoingStream(
            self._post, uuid.uuid4().hex, fqcns, producer, context, fl_ctx, optional=optional, progress_cb=progress_cb
        )
        with self._guard:
            if self._closed:
                return ReturnCode.TASK_ABORTED, None
            self._outgoing.add(stream)
        try:
            return stream.run()
        finally:
            with self._guard:
                self._outgoing.discard(stream)

    def shutdown(self) -> None:
        """End all streams, with return code TASK_ABORTED, and begin no more. Again is allowed."""
        with self._guard:
            self._closed = True
            outgoing = list(self._outgoing)
        for stream in outgoing:
            stream.stop()
        self._desk.close()

    def on_request(self, request: Request) -> HandlerResult:
        """Deal with what came to the cell."""
        handle: Callable[[Request], HandlerResult] = (
            self._desk.on_object if request.topic == OBJECT else self._desk.on_end
        )
        return handle(request)

    def __repr__(self) -> str:
        return f"<ObjectStreamer of {self._post.name}: {len(self._outgoing)} going out, {len(self._desk)} coming in>"


def _check_word(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, but got {type(value).__name__}")
    if not value:
        raise ValueError(f"{what} must not be empty")


def _check_kind(what: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{what} must be a {kind.__name__}, but got {type(value).__name__}")
