"""``PanicListener``: ends the run when a component panics."""

from __future__ import annotations

from collections.abc import Callable

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContext


class PanicListener(FLComponent):
    """Calls ``on_panic`` with the reason of each FATAL_SYSTEM_ERROR."""

    def __init__(self, on_panic: Callable[[str], object]) -> None:
        def on_error(event_type: str, fl_ctx: FLContext) -> None:
            on_panic(str(fl_ctx.get_prop(FLContextKey.EVENT_DATA, "a component panicked")))

        self.register_event_handler(EventType.FATAL_SYSTEM_ERROR, on_error)
