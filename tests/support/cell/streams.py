"""Producers and consumers for tests of object streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable, make_reply
from redflare_workers.apis.streaming import ConsumerFactory, ObjectConsumer, ObjectProducer, StreamContext


class Numbers(ObjectProducer):
    """Produces the given values; records the replies; a failed reply ends the stream.

    Args:
        values: one for each object.
    """

    def __init__(self, values: Iterable[Any], *, window: int = 1, timeout: float = 5.0) -> None:
        self.window = window
        self.replies: list[dict[str, Shareable]] = []
        self.made = 0
        self._values: Iterator[Any] = iter(values)
        self._timeout = timeout

    def produce(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> tuple[Shareable | None, float]:
        try:
            value = next(self._values)
        except StopIteration:
            return None, 0.0
        self.made += 1
        return Shareable({"value": value}), self._timeout

    def process_replies(self, replies: dict[str, Shareable], stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
        self.replies.append(replies)
        failed = any(reply.get_return_code() != ReturnCode.OK for reply in replies.values())
        return False if failed else None

    def codes(self) -> list[str]:
        """Return codes of all replies, in the order in which they were processed."""
        return [reply.get_return_code() for replies in self.replies for reply in replies.values()]


class Sink(ConsumerFactory):
    """Makes consumers that record values; ``calls`` lists the calls of their methods, in order.

    Args:
        take: called with each value; a tuple is returned by ``consume``.
    """

    def __init__(self, take: Callable[[Any], Any] = lambda value: None) -> None:
        self.take = take
        self.values: list[Any] = []
        self.calls: list[Any] = []
        self.contexts: list[StreamContext] = []
        self.peers: list[Any] = []

    def get_consumer(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> ObjectConsumer:
        self.contexts.append(stream_ctx)
        self.calls.append("get")
        return _Consumer(self)

    def return_consumer(self, consumer: ObjectConsumer, stream_ctx: StreamContext, fl_ctx: FLContext) -> None:
        self.calls.append("return")

    def done(self, stream_ctx: StreamContext, fl_ctx: FLContext, **kwargs: Any) -> Any:
        """A ``stream_done_cb``."""
        self.calls.append(("done", stream_ctx["__RC__"], kwargs))
        return "the end result"


class _Consumer(ObjectConsumer):
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()

    def consume(
        self, shareable: Shareable, stream_ctx: StreamContext, fl_ctx: FLContext
    ) -> tuple[bool, Shareable | None]:
        assert self._lock.acquire(blocking=False), "two threads in one consumer"
        try:
            peer = fl_ctx.get_peer_context()
            self._sink.peers.append(peer.get_identity_name() if peer else None)
            result = self._sink.take(shareable["value"])
            self._sink.values.append(shareable["value"])
            return result if isinstance(result, tuple) else (True, make_reply(ReturnCode.OK))
        finally:
            self._lock.release()

    def finalize(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> None:
        self._sink.calls.append(("finalize", stream_ctx["__RC__"]))
