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
        super().__init__()
        self._on_panic = on_panic
        self.register_event_handler(EventType.FATAL_SYSTEM_ERROR, self._on_error)

    def _on_error(self, event_type: str, fl_ctx: FLContext) -> None:
        self._on_panic(str(fl_ctx.get_prop(FLContextKey.EVENT_DATA, "a component panicked")))
