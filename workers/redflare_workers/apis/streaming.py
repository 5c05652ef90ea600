"""The interfaces of object streams: producer, consumer, and the engine in between.

After ``nvflare.apis.streaming``. A stream is a sequence of Shareables from one producer to one consumer at each target;
each object is answered before the next is produced, unless the producer's ``window`` lets it run ahead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from redflare_broker.util.plain_function import check_overrides

from .fl_context import FLContext
from .shareable import Shareable

#: Properties of a stream; those of the sender are sent to the receivers with the first object.
StreamContext: TypeAlias = dict[str, Any]

#: Bytes of a stream that are kept at its sender until it is over, at most, where its producer says nothing else.
KEEP_BYTES: Final = 256 << 20

#: Called at the receiver when a stream is over: ``cb(stream_ctx, fl_ctx, **cb_kwargs)``. Its return value is sent
#: to the producer, in the header ``ObjectStreamer.END_RESULT`` of the last reply.
StreamDoneCallback: TypeAlias = Callable[..., Any]
#: Called at the receiver after each object: ``cb((whether to continue, reply), stream_ctx, fl_ctx, **cb_kwargs)``.
ConsumedCallback: TypeAlias = Callable[..., object]


class StreamContextKey:
    """Keys of a stream context that the system sets."""

    CHANNEL: Final = "__channel__"
    TOPIC: Final = "__topic__"
    #: At the receiver, once the stream is over: how it ended, one of ``ReturnCode``.
    RC: Final = "__RC__"
    #: At the receiver: ``end(rc, fl_ctx)`` ends this stream from any thread.
    END_STREAM: Final = "__end_stream__"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamProgress:
    """Progress of a stream at its sender."""

    #: Objects that all targets have answered.
    objects: int
    #: Bytes of these.
    nbytes: int
    #: Seconds since the stream began.
    seconds: float


#: Called at the sender, in the thread that streams, after each object that all targets have answered.
ProgressCallback: TypeAlias = Callable[[StreamProgress], object]


class _StreamPart:
    """Checks the methods of what a stream calls."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_overrides(cls)


class ObjectProducer(_StreamPart, ABC):
    """Makes the objects of one stream, and handles the replies."""

    #: Number of objects that may be sent and not yet answered. With more than 1, ``produce`` runs ahead of
    #: ``process_replies``, which is still called once for each object and in their order.
    window: int = 1
    #: Bytes of a stream that its sender keeps, at most, to send all of it again to a receiver whose process is started
    #: again. A longer stream is not kept, and ends with that receiver; 0: none is.
    keep_bytes: int = KEEP_BYTES

    @abstractmethod
    def produce(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> tuple[Shareable | None, float]:
        """Return the next object, and seconds (> 0, a float) that each target has to answer it; None ends the stream.

        An implementation that takes long checks ``fl_ctx.get_run_abort_signal()`` in between.
        """

    @abstractmethod
    def process_replies(self, replies: dict[str, Shareable], stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
        """Handle the replies of the targets, by name, to one object. None: continue; else the result of the stream."""


class ObjectConsumer(_StreamPart, ABC):
    """Takes the objects of one stream at a target; called by one thread at a time, in the order of the objects."""

    @abstractmethod
    def consume(
        self, shareable: Shareable, stream_ctx: StreamContext, fl_ctx: FLContext
    ) -> tuple[bool, Shareable | None]:
        """Handle one object; return whether to continue, and the reply (None: OK). The sender waits meanwhile."""

    # not abstract: most have nothing to do
    def finalize(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> None:
        """Clean up when the stream has ended as ``stream_ctx["__RC__"]`` says; called once, in any case."""


class ConsumerFactory(_StreamPart, ABC):
    """Makes a consumer for each stream of a channel and topic."""

    @abstractmethod
    def get_consumer(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> ObjectConsumer:
        """Return a consumer for a new stream; it is used for this stream only."""

    def return_consumer(self, consumer: ObjectConsumer, stream_ctx: StreamContext, fl_ctx: FLContext) -> None:
        """Take back a consumer whose stream has ended; it is not called any more."""


class StreamableEngine(ABC):
    """An engine through which components stream objects."""

    @abstractmethod
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
        """Stream the objects of ``producer`` to the targets; return the return code and the result at the end."""

    @abstractmethod
    def register_stream_processing(
        self,
        channel: str,
        topic: str,
        factory: ConsumerFactory,
        stream_done_cb: StreamDoneCallback | None = None,
        consumed_cb: ConsumedCallback | None = None,
        **cb_kwargs: Any,
    ) -> None:
        """Have consumers of the factory handle the streams of a channel and topic."""

    @abstractmethod
    def shutdown_streamer(self) -> None:
        """End all streams, and start no more."""
