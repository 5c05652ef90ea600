"""The vocabulary of object streams: who produces objects, who consumes them, and the engine in between.

After ``nvflare.apis.streaming``. A stream is a sequence of Shareables from one producer to one consumer at each target;
each object is answered before the next is produced, unless the producer's ``window`` lets it run ahead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from .fl_context import FLContext
from .shareable import Shareable

#: What both sides know of a stream; the sender's goes to the receivers with the first object.
StreamContext: TypeAlias = dict[str, Any]

#: Called at the receiver when a stream is over: ``cb(stream_ctx, fl_ctx, **cb_kwargs)``. What it returns goes back to
#: the producer, in the header ``ObjectStreamer.END_RESULT`` of the last reply.
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
    """How far a stream has come, as its sender knows."""

    #: Objects that all targets have answered.
    objects: int
    #: Bytes of these.
    nbytes: int
    #: Seconds since the stream began.
    seconds: float


#: Called at the sender, in the thread that streams, after each object that all targets have answered.
ProgressCallback: TypeAlias = Callable[[StreamProgress], object]


class ObjectProducer(ABC):
    """Makes the objects of one stream, and reads what the targets answer."""

    #: How many objects may be on their way at once. With more than 1, ``produce`` runs ahead of ``process_replies``,
    #: which is still called once for each object and in their order.
    window: int = 1

    @abstractmethod
    def produce(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> tuple[Shareable | None, float]:
        """The next object, and the seconds (> 0, a float) that each target has to answer it; None ends the stream.

        One that takes long looks at ``fl_ctx.get_run_abort_signal()`` in between.
        """

    @abstractmethod
    def process_replies(self, replies: dict[str, Shareable], stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
        """What the targets, by name, answered to one object. None: go on; all else ends the stream with that result."""


class ObjectConsumer(ABC):
    """Takes the objects of one stream at a target; called by one thread at a time, in the order of the objects."""

    @abstractmethod
    def consume(
        self, shareable: Shareable, stream_ctx: StreamContext, fl_ctx: FLContext
    ) -> tuple[bool, Shareable | None]:
        """Take one object; whether to go on, and the reply (None: OK). As long as it takes, the sender waits."""

    # not abstract: most have nothing to do
    def finalize(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> None:  # noqa: B027
        """The stream is over, ``stream_ctx["__RC__"]`` says how; called in any case, and once."""


class ConsumerFactory(ABC):
    """Makes a consumer for each stream of a channel and topic."""

    @abstractmethod
    def get_consumer(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> ObjectConsumer:
        """A consumer for a new stream, and for no other."""

    def return_consumer(  # noqa: B027
        self, consumer: ObjectConsumer, stream_ctx: StreamContext, fl_ctx: FLContext
    ) -> None:
        """Take back a consumer whose stream is over; the last thing that happens to it."""


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
        """Stream what ``producer`` makes to the targets; returns at the end, with return code and result."""

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
        """Let the factory's consumers take the streams of a channel and topic."""

    @abstractmethod
    def shutdown_streamer(self) -> None:
        """End all streams, and begin no more."""
