"""The specs: abstract methods, errors of missing ones, and documented arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from redflare_workers.apis import (
    Client,
    ContentBlockedException,
    ControllerSpec,
    Filter,
    FLContext,
    FLContextManager,
    SchedulingSpec,
    SendOrder,
    ServerEngineSpec,
    Shareable,
    Signal,
    Task,
    TaskCompletionStatus,
    WFCommSpec,
    Workspace,
    controller_spec,
)

FL_CTX = FLContext()
TASK = Task("train", Shareable())
CLIENT = Client("site-1", "")

SCHEDULING = {
    "broadcast": {"targets": None, "min_responses": 0, "wait_time_after_min_received": 0},
    "broadcast_and_wait": {
        "targets": None, "min_responses": 0, "wait_time_after_min_received": 0, "abort_signal": None
    },
    "broadcast_forever": {"targets": None},
    "send": {"targets": None, "send_order": SendOrder.SEQUENTIAL, "task_assignment_timeout": 0},
    "send_and_wait": {
        "targets": None, "send_order": SendOrder.SEQUENTIAL, "task_assignment_timeout": 0, "abort_signal": None
    },
    "relay": {
        "targets": None, "send_order": SendOrder.SEQUENTIAL, "task_assignment_timeout": 0, "task_result_timeout": 0,
        "dynamic_targets": True,
    },
    "relay_and_wait": {
        "targets": None, "send_order": SendOrder.SEQUENTIAL, "task_assignment_timeout": 0, "task_result_timeout": 0,
        "dynamic_targets": True, "abort_signal": None,
    },
}  # fmt: skip


class Idle(ControllerSpec):
    """A minimal controller."""

    def start_controller(self, fl_ctx: FLContext) -> None: ...

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None: ...

    def stop_controller(self, fl_ctx: FLContext) -> None: ...


class Engine(ServerEngineSpec):
    """A minimal engine."""

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None: ...

    def get_clients(self) -> list[Client]:
        return [Client("site-1", ""), Client("site-2", "")]

    def new_context(self) -> FLContext:
        return FLContextManager(self).new_context()

    def watch_clients(self, fn: Callable[[], object]) -> AbstractContextManager[object]:
        return nullcontext()

    def get_workspace(self) -> Workspace:
        return Workspace(".")

    def add_component(self, component_id: str, component: object) -> None: ...

    def get_component(self, component_id: str) -> object: ...


@pytest.mark.parametrize("spec", [ControllerSpec, WFCommSpec])
@pytest.mark.parametrize("method", SCHEDULING)
def test_scheduling_has_the_documented_arguments_and_defaults(spec: type[SchedulingSpec], method: str) -> None:
    parameters = inspect.signature(getattr(spec, method)).parameters
    assert list(parameters)[:3] == ["self", "task", "fl_ctx"]
    assert {name: parameter.default for name, parameter in list(parameters.items())[3:]} == SCHEDULING[method]


@pytest.mark.parametrize("make", [Idle, WFCommSpec])
def test_a_scheduling_method_without_implementation_raises(make: Callable[[], SchedulingSpec]) -> None:
    scheduling = make()
    for method in SCHEDULING:
        with pytest.raises(NotImplementedError):
            getattr(scheduling, method)(TASK, FL_CTX)
    calls: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (scheduling.get_num_standing_tasks, ()),
        (scheduling.cancel_task, (TASK, TaskCompletionStatus.ABORTED, FL_CTX)),
        (scheduling.cancel_all_tasks, (TaskCompletionStatus.ABORTED, FL_CTX)),
        (scheduling.get_client_disconnect_time, ("site-1",)),
    ]
    for call, arguments in calls:
        with pytest.raises(NotImplementedError):
            call(*arguments)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("check_tasks", ()),
        ("process_task_request", (CLIENT, FL_CTX)),
        ("handle_exception", ("id", FL_CTX)),
        ("process_submission", (CLIENT, "train", "id", Shareable(), FL_CTX)),
        ("process_dead_client_report", ("site-1", FL_CTX)),
        ("client_is_active", ("site-1", "beat", FL_CTX)),
        ("process_task_check", ("id", FL_CTX)),
        ("initialize_run", (FL_CTX,)),
        ("finalize_run", (FL_CTX,)),
    ],
)
def test_a_communicator_method_without_implementation_raises(method: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(NotImplementedError):
        getattr(WFCommSpec(), method)(*arguments)


def test_a_controller_must_have_its_three_steps() -> None:
    with pytest.raises(TypeError, match=r"control_flow.*start_controller.*stop_controller"):
        ControllerSpec()  # type: ignore[abstract]


def test_a_result_of_an_unknown_task_is_dropped_unless_a_controller_cares() -> None:
    Idle().process_result_of_unknown_task(CLIENT, "train", "id", Shareable(), FL_CTX)


def test_the_constants_of_a_controller_are_in_nvflares_modules() -> None:
    assert controller_spec.Task is Task
    assert set(controller_spec.__all__) == {
        "ClientTask", "ControllerSpec", "OperatorConfigKey", "OperatorMethod", "SendOrder", "Task",
        "TaskCompletionStatus", "TaskOperatorKey",
    }  # fmt: skip


def test_an_engine_separates_targets_that_have_joined_from_others() -> None:
    clients, missing = Engine().validate_targets(["site-2", "nobody", "site-2"])
    assert ([client.name for client in clients], missing) == (["site-2"], ["nobody"])


def test_a_filter_needs_process_and_keeps_what_is_set() -> None:
    class Censor(Filter):
        def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
            raise ContentBlockedException("secret")

    with pytest.raises(TypeError, match="process"):
        Filter()  # type: ignore[abstract]
    censor = Censor()
    censor.set_prop("strength", 3)
    assert (censor.get_prop("strength"), censor.get_prop("absent", 1)) == (3, 1)
    with pytest.raises(ContentBlockedException, match="secret"):
        censor.process(Shareable(), FL_CTX)
