"""``JobMessaging``: the methods of an engine by which components of a job talk to those of other processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.streaming import (
    ConsumedCallback,
    ConsumerFactory,
    ObjectProducer,
    ProgressCallback,
    StreamableEngine,
    StreamContext,
    StreamDoneCallback,
)

from .aux_runner import AuxMessageHandler
from .messenger import Messenger
from .stream_session import Processing


class JobMessaging(StreamableEngine):
    """Part of a job's engine."""

    messenger: Messenger

    def usual_targets(self) -> list[str]:
        """Return the peers that are meant when no targets are named."""
        raise NotImplementedError

    def targets_of(self, targets: str | Sequence[str] | None) -> str | Sequence[str]:
        """Return the peers that are meant by the targets of a call."""
        return targets or self.usual_targets()

    def register_aux_message_handler(self, topic: str, message_handle_func: AuxMessageHandler) -> None:
        """As ``AuxRunner.register_aux_message_handler``."""
        self.messenger.aux.register_aux_message_handler(topic, message_handle_func)

    def dispatch(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        """As ``AuxRunner.dispatch``."""
        return self.messenger.aux.dispatch(topic, request, fl_ctx)

    def send_aux_request(
        self,
        targets: str | Sequence[str] | None,
        topic: str,
        request: Shareable,
        timeout: float,
        fl_ctx: FLContext,
        optional: bool = False,
        secure: bool = False,
    ) -> dict[str, Shareable]:
        """As ``AuxRunner.send_aux_request``; without targets, from the server to all sites, and from a site to it."""
        names = self.targets_of(targets)
        return self.messenger.aux.send_aux_request(names, topic, request, timeout, fl_ctx, optional, secure)

    def fire_and_forget_aux_request(
        self,
        topic: str,
        request: Shareable,
        fl_ctx: FLContext,
        optional: bool = False,
        secure: bool = False,
        *,
        targets: str | Sequence[str] | None = None,
    ) -> dict[str, Shareable]:
        """Send to peers without waiting for replies; as ``send_aux_request``."""
        return self.send_aux_request(targets, topic, request, 0.0, fl_ctx, optional, secure)

    def stream_objects(
        self,
        channel: str,
        topic: str,
        stream_ctx: StreamContext | None,
        targets: str | Sequence[str] | None,
        producer: ObjectProducer,
        fl_ctx: FLContext,
        optional: bool = False,
        secure: bool = False,
        *,
        progress_cb: ProgressCallback | None = None,
    ) -> tuple[str, Any]:
        """As ``ObjectStreamer.stream_objects``; targets as in ``send_aux_request``."""
        return self.messenger.streamer.stream_objects(
            channel,
            topic,
            stream_ctx,
            self.targets_of(targets),
            producer,
            fl_ctx,
            optional,
            secure,
            progress_cb=progress_cb,
        )

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
            channel: ``"*"``, with topic ``"*"``: all streams without a registration.
            topic: ``"*"``: all streams of the channel without a registration.
            stream_done_cb: called when a stream is over.
            consumed_cb: called after each object.
            cb_kwargs: passed to both.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: channel or topic is empty.
        """
        self.messenger.streamer.register(channel, topic, Processing(factory, stream_done_cb, consumed_cb, cb_kwargs))

    def shutdown_streamer(self) -> None:
        """As ``ObjectStreamer.shutdown``."""
        self.messenger.streamer.shutdown()
