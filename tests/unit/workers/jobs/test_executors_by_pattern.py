"""The executor of a task, and that an engine passes an event to a component once."""

from __future__ import annotations

import pytest
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.executor import Executor
from redflare_workers.apis.fl_constant import ProcessType, ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.client.job.task_runner import TaskRunner
from redflare_workers.engine.run_engine import RunEngine


class Named(Executor):
    """Returns its name, and records its events."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label
        self.events: list[str] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.events.append(event_type)

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        answer = Shareable()
        answer["by"] = self.label
        return answer


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("train", "exact"),
        ("train_fast", "first"),
        ("train_slow_fast", "first"),
        ("slow_fast", "second"),
        ("validate", "all"),
    ],
)
def test_an_exact_name_is_preferred_to_patterns_and_the_pattern_for_all_is_last(task: str, expected: str) -> None:
    names = {"*": "all", "train*": "first", "*_fast": "second", "train": "exact"}
    runner = TaskRunner({name: Named(label) for name, label in names.items()}, [], [])
    engine = RunEngine("site-1", "job", {}, ProcessType.CLIENT_JOB, {})
    with engine.new_context() as context:
        assert runner.run(task, "1", Shareable(), context, Signal())["by"] == expected


def test_a_task_that_no_pattern_matches_is_unknown() -> None:
    runner = TaskRunner({"train*": Named("train")}, [], [])
    engine = RunEngine("site-1", "job", {}, ProcessType.CLIENT_JOB, {})
    with engine.new_context() as context:
        answer = runner.run("validate", "1", Shareable(), context, Signal())
    assert answer.get_return_code() == ReturnCode.TASK_UNKNOWN


def test_an_executor_for_several_tasks_receives_an_event_once() -> None:
    executor = Named("both")
    engine = RunEngine("site-1", "job", {}, ProcessType.CLIENT_JOB, {"executor:a": executor, "executor:b": executor})
    with engine.new_context() as context:
        engine.fire_event(EventType.START_RUN, context)
    assert executor.events == [EventType.START_RUN]


class Quitting(Named):
    """Ends as a script does, with ``sys.exit``."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        raise SystemExit(0)

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        raise SystemExit(0)


def test_an_executor_that_calls_exit_has_failed_and_the_server_is_notified() -> None:
    runner = TaskRunner({"*": Quitting("quits")}, [], [])
    engine = RunEngine("site-1", "job", {}, ProcessType.CLIENT_JOB, {"quits": Quitting("quits")})
    with engine.new_context() as context:
        engine.fire_event(EventType.START_RUN, context)
        answer = runner.run("train", "1", Shareable(), context, Signal())
    assert answer.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
