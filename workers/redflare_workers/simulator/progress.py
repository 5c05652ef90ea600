"""Progress of a simulation, counted at the server from the events of its job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.workflow.controller import Controller


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a simulation."""

    #: Sites that have joined, of all sites.
    joined: int
    sites: int
    #: Completed rounds (for FedBuff: versions), of all rounds; 0 of 0 if the controller counts none.
    rounds_done: int
    rounds: int
    #: Results of sites, in total and since the last round.
    results: int
    results_in_round: int
    seconds: float


OnProgress = Callable[[Progress], None]


class ProgressCounter(FLComponent):
    """Counts results and rounds; a component of the server's job.

    ``on_progress`` is called after each change, from several threads but never from two at once.
    """

    def __init__(self, controller: Controller, sites: int, on_progress: OnProgress | None) -> None:
        super().__init__()
        self._controller = controller
        self._sites = sites
        self._on_progress = on_progress
        self._began = time.monotonic()
        self._guard = threading.Lock()
        self._reporting = threading.Lock()
        self._round = 0
        self.results = 0  #: so far
        self._results_before = 0

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.AFTER_PROCESS_SUBMISSION:
            with self._guard:
                self.results += 1
        elif event_type not in (EventType.AFTER_PROCESS_TASK_REQUEST, EventType.END_WORKFLOW):
            return
        if self._on_progress is not None:
            with self._reporting:
                self._on_progress(self._progress(fl_ctx.get_engine()))

    def _progress(self, engine: Any) -> Progress:
        done, rounds = rounds_of(self._controller)
        with self._guard:
            if done != self._round:
                self._round, self._results_before = done, self.results
            return Progress(
                joined=len(engine.get_clients()),
                sites=self._sites,
                rounds_done=done,
                rounds=rounds,
                results=self.results,
                results_in_round=self.results - self._results_before,
                seconds=time.monotonic() - self._began,
            )


def rounds_of(controller: Controller) -> tuple[int, int]:
    """Return the completed rounds of a controller, and all rounds, by the attribute names of those that ship."""
    for done, rounds in (("current_round", "num_rounds"), ("version", "num_updates")):
        if hasattr(controller, done) and hasattr(controller, rounds):
            return int(getattr(controller, done)), int(getattr(controller, rounds))
    return 0, 0
