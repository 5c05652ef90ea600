"""Several workflows of a job, one after the other."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.workflow.controller import Controller
from redflare_workers.workflow.workflows import Workflows

from tests.support.communicator.local_engine import LocalEngine


class RecordingWorkflow(Controller):
    """Records the calls of its methods."""

    def __init__(self, name: str, calls: list[str], *, resume: bool = False, ends_job: bool = False) -> None:
        super().__init__(resume=resume)
        self.title, self.calls, self.ends_job = name, calls, ends_job
        self.value = 0

    def start_controller(self, fl_ctx: FLContext) -> None:
        self.calls.append(f"{self.title} starts at {self.value}")

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.value += 1
        self.checkpoint(fl_ctx)
        self.calls.append(f"{self.title} runs")
        if self.ends_job:
            abort_signal.trigger("enough")

    def stop_controller(self, fl_ctx: FLContext) -> None:
        self.calls.append(f"{self.title} stops")

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        self.calls.append(f"{self.title} gets a late {task_name}")

    def state(self) -> dict[str, Any]:
        return {"value": self.value}

    def restore(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class RecordingCommunicator(WFCommServer):
    """Keeps checkpoints in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, Any]] = []
        #: all entries that were appended, as a server keeps them
        self.history: list[Any] = []

    def checkpoint(self, state: dict[str, Any], history: Any = lambda start: []) -> None:
        self.kept.append(state)
        self.history += history(len(self.history))


def run(workflows: Workflows) -> RecordingCommunicator:
    """Run to the end; return the communicator with its checkpoints."""
    engine, communicator = LocalEngine(), RecordingCommunicator()
    workflows.set_communicator(communicator)
    with engine.new_context() as fl_ctx:
        workflows.initialize(fl_ctx)
        workflows.control_flow(engine.abort_signal, fl_ctx)
        workflows.stop_controller(fl_ctx)
    return communicator


def test_each_workflow_begins_when_the_previous_one_has_ended() -> None:
    calls: list[str] = []
    run(Workflows({"one": RecordingWorkflow("one", calls), "two": RecordingWorkflow("two", calls)}))
    assert calls == ["one starts at 0", "one runs", "one stops", "two starts at 0", "two runs", "two stops"]


def test_an_abort_ends_all() -> None:
    calls: list[str] = []
    run(Workflows({"one": RecordingWorkflow("one", calls, ends_job=True), "two": RecordingWorkflow("two", calls)}))
    assert calls == ["one starts at 0", "one runs", "one stops"]


def test_a_successor_continues_with_the_workflow_that_ran() -> None:
    calls: list[str] = []
    communicator = run(
        Workflows({"one": RecordingWorkflow("one", []), "two": RecordingWorkflow("two", calls, resume=True)})
    )
    state = communicator.kept[-1]
    assert state == {"workflow": 1, "begun": True, "state": {"value": 1}}
    successor = Workflows({"one": RecordingWorkflow("one", calls), "two": RecordingWorkflow("two", calls, resume=True)})
    assert successor.resume
    successor.restore(state)
    calls.clear()
    run(successor)
    assert calls == ["two starts at 1", "two runs", "two stops"]


def test_a_workflow_that_cannot_resume_begins_anew_and_previous_ones_do_not() -> None:
    communicator = run(
        Workflows({"one": RecordingWorkflow("one", [], resume=True), "two": RecordingWorkflow("two", [])})
    )
    calls: list[str] = []
    successor = Workflows({"one": RecordingWorkflow("one", calls, resume=True), "two": RecordingWorkflow("two", calls)})
    successor.restore(communicator.kept[-1])
    run(successor)
    assert calls == ["two starts at 0", "two runs", "two stops"]


class AppendingWorkflow(RecordingWorkflow):
    """Appends two entries, and writes a checkpoint after each."""

    def __init__(self, title: str, *, resume: bool = True) -> None:
        super().__init__(title, [], resume=resume)
        self.entries: list[Any] = []

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        for _ in range(2):
            self.entries.append(f"{self.title}{len(self.entries)}")
            self.checkpoint(fl_ctx)

    def appended(self, start: int) -> list[Any]:
        return self.entries[start:]

    def restore_appended(self, history: list[Any]) -> None:
        self.entries = history


def appending() -> dict[str, AppendingWorkflow]:
    return {name: AppendingWorkflow(name, resume=name != "b") for name in "abc"}


def test_what_each_has_appended_is_stored_once_and_returned_to_it() -> None:
    communicator = run(Workflows(appending()))
    expected = [[0, "a0"], [0, "a1"], [2, "c0"], [2, "c1"]]
    assert communicator.history == expected
    parts = appending()
    successor = Workflows(parts)
    successor.restore_appended(expected[:3])
    successor.restore(communicator.kept[-2])
    assert {name: part.entries for name, part in parts.items()} == {"a": ["a0", "a1"], "b": [], "c": ["c0"]}
    assert [successor.appended(start) for start in range(4)] == [expected[start:3] for start in range(4)]
    again = run(successor)
    assert again.history == [[0, "a0"], [0, "a1"], [2, "c0"], [2, "c1"], [2, "c2"]]


def test_nothing_is_kept_when_none_can_resume() -> None:
    workflows = Workflows({"one": RecordingWorkflow("one", []), "two": RecordingWorkflow("two", [])})
    assert not workflows.resume
    assert run(workflows).kept == []


def test_a_late_result_goes_to_the_running_workflow() -> None:
    calls: list[str] = []
    workflows = Workflows({"one": RecordingWorkflow("one", calls)})
    workflows.process_result_of_unknown_task(Client("a", "t"), "train", "id", Shareable(), FLContext())
    assert calls == ["one gets a late train"]


def test_no_workflow_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs a workflow"):
        Workflows({})
