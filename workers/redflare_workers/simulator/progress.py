"""Progress of a simulation, counted at the server from the events of its job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.task import ClientTask
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
    #: Results of sites, in total and since the last round; one that came after the end of its task is none.
    results: int
    results_in_round: int
    seconds: float


OnProgress = Callable[[Progress], None]


class ProgressCounter(FLComponent):
    """Counts results and rounds; a component of the server's job.

    ``on_progress`` is called after each change, from several threads but never from two at once.

    No event tells that a round has ended. Results are therefore counted by the time at which their ClientTask got
    them, which is set before its task can end; the event after a submission may come later. And rounds are compared
    before a submission is handled, for it may be the first of the next round.
    """

    def __init__(self, controller: Controller, sites: int, on_progress: OnProgress | None) -> None:
        super().__init__()
        self._controller = controller
        self._sites = sites
        self._on_progress = on_progress
        self._began = time.monotonic()
        self._guard = threading.Lock()
        self._reporting = threading.Lock()
        #: ClientTasks whose results are being handled, by id.
        self._in_hand: dict[str, ClientTask] = {}
        self._round = 0
        self.results = 0  #: so far
        self._results_before = 0

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.BEFORE_PROCESS_SUBMISSION:
            if rounds_of(self._controller)[0] != self._round:
                self._report(fl_ctx)
            self._note(fl_ctx)
        elif event_type == EventType.AFTER_PROCESS_SUBMISSION:
            with self._guard:
                self._count()
                # it is still there if the result was dropped
                self._in_hand.pop(fl_ctx.get_prop(FLContextKey.TASK_ID), None)
            self._report(fl_ctx)
        elif event_type in (EventType.AFTER_PROCESS_TASK_REQUEST, EventType.END_WORKFLOW):
            self._report(fl_ctx)

    def _note(self, fl_ctx: FLContext) -> None:
        """Note the ClientTask of a submission, if its task is open."""
        task_id = fl_ctx.get_prop(FLContextKey.TASK_ID)
        communicator = self._controller.communicator
        client_task = None if communicator is None else communicator.process_task_check(task_id, fl_ctx)
        if client_task is not None and client_task.result_received_time is None:
            with self._guard:
                self._in_hand[task_id] = client_task

    def _count(self) -> None:
        """Count the results that are in. Needs the guard."""
        for task_id in [one.id for one in self._in_hand.values() if one.result_received_time is not None]:
            del self._in_hand[task_id]
            self.results += 1

    def _report(self, fl_ctx: FLContext) -> None:
        if self._on_progress is not None:
            with self._reporting:
                self._on_progress(self._progress(fl_ctx.get_engine()))

    def _progress(self, engine: Any) -> Progress:
        done, rounds = rounds_of(self._controller)
        with self._guard:
            self._count()
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
