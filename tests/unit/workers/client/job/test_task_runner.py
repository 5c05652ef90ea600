"""How a site executes a task: the executor, the props of the context, unsafe jobs."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_workers.apis import (
    EventType,
    Executor,
    Filter,
    FLComponent,
    FLContext,
    FLContextKey,
    ReservedHeaderKey,
    Shareable,
    Signal,
    UnsafeJobError,
    make_reply,
)
from redflare_workers.client.job.task_runner import TaskRunner
from redflare_workers.engine.run_engine import RunEngine


class Named(Executor):
    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.called = name

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        return Shareable({"by": self.called})


class Unsafe(Executor, Filter):
    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        raise UnsafeJobError("it reads the disk")

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        raise UnsafeJobError("it reads the disk")


class Marks(Filter):
    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        return Shareable({"marked": True})


class Notes(FLComponent):
    """Records the props that a component sees with each event."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, str]] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if "log" not in event_type:
            keys = (FLContextKey.TASK_DATA, FLContextKey.TASK_RESULT)
            self.seen.append((event_type, *(_looks(fl_ctx.get_prop(key)) for key in keys)))  # type: ignore[arg-type]


def _looks(value: Any) -> str:
    return "" if value is None else ",".join(sorted(key for key in value if key != "__headers__")) or "empty"


def run(
    executors: dict[str, Executor], name: str = "train", task_filters: Any = (), result_filters: Any = (), **parts: Any
) -> tuple[Shareable, FLContext]:
    engine = RunEngine("site-1", "job-1", {}, "CJ", parts)
    fl_ctx = engine.new_context()
    runner = TaskRunner(executors, task_filters, result_filters)
    return runner.run(name, "id-1", Shareable({"model": 1}), fl_ctx, Signal()), fl_ctx


@pytest.mark.parametrize(
    ("task_name", "by"),
    [("train", "exact"), ("train_2", "pattern"), ("submit_model", "other pattern"), ("validate", "any")],
)
def test_an_executor_is_found_by_name_then_by_pattern(task_name: str, by: str) -> None:
    executors: dict[str, Executor] = {
        "*": Named("any"),
        "train*": Named("pattern"),
        "train": Named("exact"),
        "submit_?odel": Named("other pattern"),
    }
    assert run(executors, task_name)[0]["by"] == by


def test_without_a_fitting_pattern_a_task_is_unknown() -> None:
    assert run({"train*": Named()}, "validate")[0].get_return_code() == "TASK_UNKNOWN"


def test_the_context_shows_the_current_data_and_result() -> None:
    notes = Notes()
    run({"*": Named()}, task_filters=[Marks()], result_filters=[Marks()], notes=notes)
    assert notes.seen == [
        (EventType.BEFORE_TASK_DATA_FILTER, "model", ""),
        (EventType.AFTER_TASK_DATA_FILTER, "marked", ""),
        (EventType.BEFORE_TASK_EXECUTION, "marked", ""),
        (EventType.AFTER_TASK_EXECUTION, "", "by"),
        (EventType.BEFORE_TASK_RESULT_FILTER, "", "by"),
        (EventType.AFTER_TASK_RESULT_FILTER, "", "marked"),
    ]


def test_a_result_has_the_name_and_id_of_its_task() -> None:
    result, _ = run({"*": Named()}, result_filters=[Marks()])
    assert (result.get_header("__task_name__"), result.get_header("__task_id__")) == ("train", "id-1")


@pytest.mark.parametrize("where", ["executor", "task_filters", "result_filters"])
def test_a_job_that_a_component_marks_as_unsafe_stays_unsafe(where: str) -> None:
    executor = Unsafe() if where == "executor" else Named()
    filters: dict[str, Any] = {} if where == "executor" else {where: [Unsafe()]}
    result, fl_ctx = run({"*": executor}, **filters)
    assert result.get_return_code() == "UNSAFE_JOB"
    assert fl_ctx.is_job_unsafe()
    assert executor.unsafe


class Raises(Executor, Filter):
    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        raise ValueError("no data" + "!" * 9999)

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        raise ValueError("no data")


class Gives(Executor):
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Any:
        return self.result


@pytest.mark.parametrize(
    ("parts", "rc", "why"),
    [
        ({"executors": {}}, "TASK_UNKNOWN", "the site has no executor for task 'train'"),
        ({"executors": {"*": Raises()}}, "EXECUTION_EXCEPTION", "ValueError: no data!!!"),
        ({"executors": {"*": Gives(None)}}, "EMPTY_RESULT", "executor Gives returned nothing for task 'train'"),
        ({"executors": {"*": Gives(42)}}, "EXECUTION_RESULT_ERROR", "executor Gives returned a int for 'train'"),
        ({"task_filters": [Raises()]}, "TASK_DATA_FILTER_ERROR", "filter Raises failed: ValueError: no data"),
        ({"result_filters": [Raises()]}, "TASK_RESULT_FILTER_ERROR", "filter Raises failed: ValueError: no data"),
        ({"executors": {"*": Unsafe()}}, "UNSAFE_JOB", "it reads the disk"),
    ],
)
def test_a_reply_without_a_result_says_why(parts: dict[str, Any], rc: str, why: str) -> None:
    result, _ = run(**{"executors": {"*": Named()}, **parts})
    assert result.get_return_code() == rc
    assert result.get_header(ReservedHeaderKey.ERROR).startswith(why)
    assert len(result.get_header(ReservedHeaderKey.ERROR)) <= 1000


def test_an_executor_can_return_the_reason_of_an_error() -> None:
    class Gives(Named):
        def execute(self, *args: Any) -> Shareable:
            return make_reply("SERVICE_UNAVAILABLE")

    assert run({"*": Gives()})[0].get_return_code() == "SERVICE_UNAVAILABLE"
