"""``Workflows``: several controllers of one job, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.wf_comm_spec import WFCommSpec

from .controller import Controller


class Workflows(Controller):
    """Runs each controller after the one before it has ended.

    It can be resumed if one of them can: those that were over stay so, and one that cannot be resumed begins anew.

    Args:
        workflows: by id, in their order.
    """

    def __init__(self, workflows: Mapping[str, Controller]) -> None:
        if not workflows:
            raise ValueError("a job needs a workflow, but got none")
        super().__init__(resume=any(workflow.resume for workflow in workflows.values()))
        self._workflows = dict(workflows)
        self._number = 0
        self._begun = False
        #: How many entries each of those that are over has appended.
        self._lengths: list[int] = []
        for workflow in self._workflows.values():
            if workflow.resume:
                # what it keeps is a part of what is kept of all
                workflow.checkpoint = self.checkpoint  # type: ignore[method-assign]

    @property
    def current(self) -> Controller:
        """The controller that runs, or comes next; in the end the last."""
        workflows = list(self._workflows.values())
        return workflows[min(self._number, len(workflows) - 1)]

    def set_communicator(self, communicator: WFCommSpec) -> None:
        """Make all of them schedule through this communicator."""
        super().set_communicator(communicator)
        for workflow in self._workflows.values():
            workflow.set_communicator(communicator)
        communicator.controller = self

    def state(self) -> dict[str, Any]:
        """Return which one runs, and its state."""
        goes_on = self._begun and self.current.resume
        return {"workflow": self._number, "begun": goes_on, "state": self.current.state() if goes_on else {}}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume the one that ran."""
        self._number = int(state["workflow"])
        self._lengths = [self._length_of(workflow) for workflow in list(self._workflows.values())[: self._number]]
        if state["begun"]:
            self.current.restore(state["state"])

    def appended(self, start: int) -> list[Any]:
        """Return what they have appended, one after the other, each entry with the number of its workflow."""
        found: list[Any] = []
        before = 0
        for number, workflow in enumerate(self._workflows.values()):
            first = max(start - before, 0)
            over = number < len(self._lengths)
            if workflow.resume and (not over or first < self._lengths[number]):
                found += [[number, entry] for entry in workflow.appended(first)]
            if not over:
                break
            before += self._lengths[number]
        return found

    def restore_appended(self, history: list[Any]) -> None:
        """Give each its own."""
        for number, workflow in enumerate(self._workflows.values()):
            if own := [entry for of, entry in history if of == number]:
                workflow.restore_appended(own)

    @staticmethod
    def _length_of(workflow: Controller) -> int:
        return len(workflow.appended(0)) if workflow.resume else 0

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing: each is started when its turn comes."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run one after the other."""
        while self._number < len(self._workflows) and not abort_signal.triggered:
            name = list(self._workflows)[self._number]
            self.log_info(fl_ctx, f"workflow {name} begins, {self._number + 1} of {len(self._workflows)}")
            self.current.initialize(fl_ctx)
            self._begun = True
            try:
                if not abort_signal.triggered:
                    self.current.control_flow(abort_signal, fl_ctx)
            finally:
                self.current.stop_controller(fl_ctx)
            if abort_signal.triggered:
                return
            self._begun = False
            self._lengths.append(self._length_of(self.current))
            self._number += 1
            if self._number < len(self._workflows):
                self.checkpoint(fl_ctx)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing: each was stopped at its end."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Leave it to the one that runs."""
        self.current.process_result_of_unknown_task(client, task_name, client_task_id, result, fl_ctx)
