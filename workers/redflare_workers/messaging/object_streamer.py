"""``ObjectStreamer``: sequences of Shareables from a producer here to consumers at the targets. After NVFlare's.

Each object is a request, answered when it was consumed. A producer with a ``window`` may have more in flight, but
never more than its receiver grants: a slow consumer holds the sender back, and Redis holds a window at most.
``outgoing_stream.py`` is the sender's part of one stream, with ``stream_flow.py`` for what is on its way and
``kept_objects.py`` for a receiver that is started again; ``stream_session.py`` is the receiver's.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from redflare_broker.cell.request import HandlerResult, Request
from redflare_broker.util.plain_function import why_not_plain

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.streaming import (
    ConsumerFactory,
    ObjectProducer,
    ProgressCallback,
    StreamContext,
    StreamContextKey,
)

from .aux_runner import ContextMaker
from .outgoing_stream import OutgoingStream
from .peer_sender import PeerSender, check_word, checked_targets
from .stream_receiver import StreamReceiver
from .stream_session import END_RESULT, Processing
from .wire import OBJECT

logger = logging.getLogger(__name__)


class ObjectStreamer:
    """The object streams of one engine, both ways; any number at once."""

    #: Header of the last reply: what the receiver's ``stream_done_cb`` returned.
    END_RESULT: Final = END_RESULT

    def __init__(self, engine: ContextMaker, sender: PeerSender) -> None:
        self._sender = sender
        self._receiver = StreamReceiver(engine, sender)
        self._guard = threading.Lock()
        self._outgoing: set[OutgoingStream] = set()
        self._closed = False

    def register(self, channel: str, topic: str, processing: Processing) -> None:
        """Register consumers, in place of earlier ones; as ``JobMessaging.register_stream_processing``."""
        check_word(channel, "channel")
        check_word(topic, "topic")
        factory = processing.factory
        if not isinstance(factory, ConsumerFactory):
            raise TypeError(f"factory must be a ConsumerFactory, but got {type(factory).__name__}")
        for name in ("stream_done_cb", "consumed_cb"):
            callback = getattr(processing, name)
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} must be callable, but got {type(callback).__name__}")
            if why := why_not_plain(callback):
                raise TypeError(f"{name} is {why}")
        self._receiver.register(channel, topic, processing)

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
        """Stream a producer's objects to the targets, in this thread, to the end.

        An object that a target does not answer within its timeout gets the reply TIMEOUT. The timeout counts from the
        target's last answer, and not while this process or the target is cut off from Redis: objects that were in
        flight then arrive when the connection is back.

        Args:
            stream_ctx: goes to the consumers with the first object.
            optional: log failures at DEBUG only.
            secure: without effect; what protects streams is TLS between each process and Redis.
            progress_cb: called after each object that all targets have answered.

        Returns:
            return code and result: (OK, None) when the producer came to its end; its result, with OK, or with ERROR
            when it is empty or false; (TASK_ABORTED, None) when the run was aborted.

        Raises:
            TypeError: an argument, or a product of the producer, is of the wrong type.
            ValueError: a name is empty or unknown, a timeout is not > 0, ``keep_bytes`` of the producer is not >= 0, or
                (EncodeError) an object cannot be sent.
        """
        names = checked_targets(targets)
        check_word(channel, "channel")
        check_word(topic, "topic")
        context = {} if stream_ctx is None else stream_ctx
        _check_kind("stream_ctx", context, dict)
        _check_kind("producer", producer, ObjectProducer)
        _check_bound(producer)
        _check_kind("fl_ctx", fl_ctx, FLContext)
        fqcns = self._sender.fqcns(names)
        if not names or (unknown := [name for name in names if name not in fqcns]):
            raise ValueError(f"a stream needs known targets, but no peer is named {unknown} of {names}")
        context[StreamContextKey.CHANNEL] = channel
        context[StreamContextKey.TOPIC] = topic
        stream = OutgoingStream(
            sender=self._sender,
            id=uuid.uuid4().hex,
            fqcns=fqcns,
            producer=producer,
            context=context,
            fl_ctx=fl_ctx,
            optional=optional,
            progress_cb=progress_cb,
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
        """End all streams, with return code TASK_ABORTED, and begin no more. May be called again."""
        with self._guard:
            self._closed = True
            outgoing = list(self._outgoing)
        for stream in outgoing:
            stream.stop()
        self._receiver.close()

    def on_request(self, request: Request) -> HandlerResult:
        """Handle a message that came to the cell."""
        handle: Callable[[Request], HandlerResult] = (
            self._receiver.on_object if request.topic == OBJECT else self._receiver.on_end
        )
        return handle(request)

    def __repr__(self) -> str:
        counts = f"{len(self._outgoing)} outgoing, {len(self._receiver)} incoming"
        return f"<ObjectStreamer of {self._sender.name}: {counts}>"


def _check_kind(what: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{what} must be a {kind.__name__}, but got {type(value).__name__}")


def _check_bound(producer: ObjectProducer) -> None:
    bound: object = producer.keep_bytes
    if isinstance(bound, bool) or not isinstance(bound, int) or bound < 0:
        raise ValueError(f"keep_bytes of {type(producer).__name__} must be an int >= 0 (bytes), but is {bound!r}")
