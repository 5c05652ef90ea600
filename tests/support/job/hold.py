"""A component that holds a run at an event, until the test lets it go on."""

from __future__ import annotations

import threading

from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_context import FLContext


class Hold(FLComponent):
    """Holds every thread in which an event is fired, until ``go`` is set; ``inside`` is set when one has come."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.event, self.inside, self.go = event, threading.Event(), threading.Event()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == self.event:
            self.inside.set()
            self.go.wait(20)
