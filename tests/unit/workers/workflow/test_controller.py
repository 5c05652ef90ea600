"""``Controller``: what a workflow is written on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.task import SendOrder, TaskCompletionStatus
from redflare_workers.apis.wf_comm_spec import WFCommSpec
from redflare_workers.communicator.comm_observer import CommObserver
from redflare_workers.workflow.controller import Controller

from tests.support.calls import in_thread
from tests.support.communicator.bench import CommunicatorBench, IdleController
from tests.support.waiting import wait_until


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    with CommunicatorBench(["site-1", "site-2"], monitor=True) as bench:
        yield bench


FORWARDED = [
    "broadcast",
    "broadcast_and_wait",
    "broadcast_forever",
    "send",
    "send_and_wait",
    "relay",
    "relay_and_wait",
    "get_num_standing_tasks",
    "cancel_task",
    "cancel_all_tasks",
    "get_client_disconnect_time",
]


@pytest.mark.parametrize("method", FORWARDED)
def test_it_has_the_communicators_methods_with_the_same_arguments(method: str) -> None:
    mine, theirs = getattr(Controller, method), getattr(WFCommSpec, method)
    assert inspect.signature(mine) == inspect.signature(theirs)


@pytest.mark.parametrize("method", [name for name in FORWARDED if "cancel" not in name and "get" not in name])
def test_it_schedules_through_its_communicator(bench: CommunicatorBench, method: str) -> None:
    task = bench.task()
    thread = in_thread(getattr(bench.controller, method), task, bench.ctx, ["site-1"])
    wait_until(lambda: task.is_standing)
    assert bench.controller.get_num_standing_tasks() == 1
    bench.do("site-1")
    bench.controller.cancel_all_tasks()
    thread.join()
    assert bench.controller.get_num_standing_tasks() == 0


def test_all_arguments_reach_the_communicator(bench: CommunicatorBench) -> None:
    def options(task: Any) -> Any:
        schedule = bench.comm.schedule_of(task)
        assert schedule is not None
        return schedule.options

    tasks = [bench.task() for _ in range(3)]
    bench.controller.broadcast(tasks[0], bench.ctx, ["site-1"], 1, 7)
    bench.controller.send(tasks[1], bench.ctx, ["site-1"], SendOrder.ANY, 8)
    bench.controller.relay(tasks[2], bench.ctx, ["site-1"], SendOrder.ANY, 1, 2, False)
    assert [list(options(task).values()) for task in tasks] == [[1, 7], ["any", 8], ["any", 1, 2, False]]


def test_a_task_can_be_cancelled_with_a_status(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.controller.broadcast(task, bench.ctx)
    bench.controller.cancel_task(task, TaskCompletionStatus.IGNORED, bench.ctx)
    assert task.completion_status is TaskCompletionStatus.IGNORED


def test_it_and_its_communicator_know_each_other(bench: CommunicatorBench) -> None:
    controller = IdleController(0.7)
    controller.set_communicator(bench.comm)
    assert bench.comm.controller is controller
    assert controller.communicator is bench.comm
    assert bench.comm.task_check_period == 0.7


@pytest.mark.parametrize("communicator", [None, "comm", object()])
def test_anything_but_a_communicator_is_refused(communicator: Any) -> None:
    with pytest.raises(TypeError, match="communicator must be a WFCommSpec"):
        IdleController().set_communicator(communicator)


def test_calls_without_a_communicator_raise_an_error(bench: CommunicatorBench) -> None:
    controller = IdleController()
    with pytest.raises(RuntimeError, match=r"has no communicator; call set_communicator\(\) first"):
        controller.broadcast(bench.task(), bench.ctx)
    assert controller.get_client_disconnect_time("site-1") is None


def test_it_starts_with_the_engine_of_its_context(bench: CommunicatorBench) -> None:
    bench.controller.initialize(bench.ctx)
    assert bench.controller.engine is bench.engine
    assert bench.controller.started == 1


def test_it_does_not_start_without_an_engine(caplog: pytest.LogCaptureFixture) -> None:
    controller = IdleController()
    controller.initialize(FLContext())
    assert controller.started == 0
    assert "IdleController needs an engine" in caplog.text


def test_the_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Controller()  # type: ignore[abstract]


# -- resuming ----------------------------------------------------------------------------------------------------------


class Rounds(IdleController):
    """A controller that can be resumed."""

    def __init__(self, resume: bool) -> None:
        super().__init__(resume=resume)
        self.round = 0

    def state(self) -> dict[str, Any]:
        return {"round": self.round}


class StoringObserver(CommObserver):
    """Keeps checkpoints."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def checkpoint(self, state: dict[str, Any], history: Any) -> None:
        self.states.append(state)


@pytest.mark.parametrize(("resume", "kept"), [(True, [{"round": 3}]), (False, [])])
def test_a_checkpoint_is_kept_if_it_is_to_be_resumed(bench: CommunicatorBench, resume: bool, kept: list[Any]) -> None:
    bench.comm.observer = observer = StoringObserver()
    controller = Rounds(resume)
    controller.set_communicator(bench.comm)
    controller.round = 3
    controller.checkpoint(bench.ctx)
    assert observer.states == kept


def test_the_error_of_a_controller_that_cannot_resume_names_what_is_missing(bench: CommunicatorBench) -> None:
    controller = IdleController(resume=True)
    controller.set_communicator(bench.comm)
    with pytest.raises(NotImplementedError, match=r"IdleController has no state\(\)"):
        controller.checkpoint(bench.ctx)
    with pytest.raises(NotImplementedError, match=r"IdleController has no restore\(\)"):
        controller.restore({})


def test_a_communicator_without_checkpoints_raises_an_error(bench: CommunicatorBench) -> None:
    controller = Rounds(resume=True)
    controller.set_communicator(WFCommSpec())
    with pytest.raises(NotImplementedError, match="WFCommSpec cannot keep checkpoints"):
        controller.checkpoint(bench.ctx)


def test_it_is_not_resumed_unless_wanted() -> None:
    assert not IdleController().resume
