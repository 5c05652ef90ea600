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


class Step(Controller):
    """Notes what happens to it."""

    def __init__(self, name: str, story: list[str], *, resume: bool = False, ends_job: bool = False) -> None:
        super().__init__(resume=resume)
        self.step, self.story, self.ends_job = name, story, ends_job
        self.value = 0

    def start_controller(self, fl_ctx: FLContext) -> None:
        self.story.append(f"{self.step} starts at {self.value}")

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.value += 1
        self.checkpoint(fl_ctx)
        self.story.append(f"{self.step} runs")
        if self.ends_job:
            abort_signal.trigger("enough")

    def stop_controller(self, fl_ctx: FLContext) -> None:
        self.story.append(f"{self.step} stops")

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        self.story.append(f"{self.step} gets a late {task_name}")

    def state(self) -> dict[str, Any]:
        return {"value": self.value}

    def restore(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class Keeper(WFCommServer):
    """Keeps checkpoints in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, Any]] = []

    def checkpoint(self, state: dict[str, Any]) -> None:
        self.kept.append(state)


def run(workflows: Workflows) -> Keeper:
    """To the end; the communicator with what was kept."""
    engine, keeper = LocalEngine(), Keeper()
    workflows.set_communicator(keeper)
    with engine.new_context() as fl_ctx:
        workflows.initialize(fl_ctx)
        workflows.control_flow(engine.abort_signal, fl_ctx)
        workflows.stop_controller(fl_ctx)
    return keeper


def test_each_begins_when_the_one_before_it_is_over() -> None:
    story: list[str] = []
    run(Workflows({"one": Step("one", story), "two": Step("two", story)}))
    assert story == ["one starts at 0", "one runs", "one stops", "two starts at 0", "two runs", "two stops"]


def test_an_abort_ends_all() -> None:
    story: list[str] = []
    run(Workflows({"one": Step("one", story, ends_job=True), "two": Step("two", story)}))
    assert story == ["one starts at 0", "one runs", "one stops"]


def test_a_successor_goes_on_with_the_one_that_ran() -> None:
    story: list[str] = []
    keeper = run(Workflows({"one": Step("one", []), "two": Step("two", story, resume=True)}))
    state = keeper.kept[-1]
    assert state == {"workflow": 1, "begun": True, "state": {"value": 1}}
    successor = Workflows({"one": Step("one", story), "two": Step("two", story, resume=True)})
    assert successor.resume
    successor.restore(state)
    story.clear()
    run(successor)
    assert story == ["two starts at 1", "two runs", "two stops"]


def test_one_that_cannot_resume_begins_anew_and_those_before_it_do_not() -> None:
    keeper = run(Workflows({"one": Step("one", [], resume=True), "two": Step("two", [])}))
    story: list[str] = []
    successor = Workflows({"one": Step("one", story, resume=True), "two": Step("two", story)})
    successor.restore(keeper.kept[-1])
    run(successor)
    assert story == ["two starts at 0", "two runs", "two stops"]


def test_nothing_is_kept_when_none_can_resume() -> None:
    workflows = Workflows({"one": Step("one", []), "two": Step("two", [])})
    assert not workflows.resume
    assert run(workflows).kept == []


def test_a_late_result_goes_to_the_one_that_runs() -> None:
    story: list[str] = []
    workflows = Workflows({"one": Step("one", story)})
    workflows.process_result_of_unknown_task(Client("a", "t"), "train", "id", Shareable(), FLContext())
    assert story == ["one gets a late train"]


def test_no_workflow_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs a workflow"):
        Workflows({})
