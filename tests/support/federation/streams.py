"""A producer and a consumer of object streams."""

from __future__ import annotations

from typing import Any

from redflare_workers.apis import FLContext, Shareable
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.shareable import make_reply
from redflare_workers.apis.streaming import ConsumerFactory, ObjectConsumer, ObjectProducer, StreamContext


class Counting(ObjectProducer):
    """Produces so many objects."""

    def __init__(self, count: int) -> None:
        self.left = count

    def produce(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> tuple[Shareable | None, float]:
        self.left -= 1
        return (Shareable({"left": self.left}), 10.0) if self.left >= 0 else (None, 10.0)

    def process_replies(self, replies: dict[str, Shareable], stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
        return None


class Taking(ConsumerFactory, ObjectConsumer):
    """Notes what it gets of ``Counting``."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def get_consumer(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> ObjectConsumer:
        return self

    def return_consumer(self, consumer: ObjectConsumer, stream_ctx: StreamContext, fl_ctx: FLContext) -> None:
        pass

    def consume(
        self, shareable: Shareable, stream_ctx: StreamContext, fl_ctx: FLContext
    ) -> tuple[bool, Shareable | None]:
        self.taken.append(shareable["left"])
        return True, make_reply(ReturnCode.OK)

    def finalize(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> None:
        pass
