"""The steps of a run at the server and its sites, and the public props of each side, as NVFlare's code expects."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from redflare_workers.apis import (
    DXO,
    Client,
    ClientTask,
    DataKind,
    EventType,
    Executor,
    FLComponent,
    FLContext,
    FLContextKey,
    Shareable,
    Signal,
    Task,
    from_shareable,
    get_leaf_dxos,
)
from redflare_workers.protocol.job_outcome import FAILED
from redflare_workers.workflow import Controller

from tests.support.job.hold import Hold
from tests.support.job.runs import FunctionController, JobRuns, RawSite, task


class RecordingController(Controller):
    """Records its steps, and the run's events, in order."""

    def __init__(self, fails_in: str = "") -> None:
        super().__init__()
        self.steps: list[str] = []
        self.fails_in = fails_in
        self.seen: list[Any] = []

    def step(self, name: str, fl_ctx: FLContext) -> None:
        self.steps.append(name)
        self.seen.append((fl_ctx.get_prop("sticky"), fl_ctx.get_prop("passing")))
        fl_ctx.set_prop("sticky", name, private=True, sticky=True)
        fl_ctx.set_prop("passing", name, private=True, sticky=False)
        if self.fails_in == name:
            raise RuntimeError(f"{name} failed")

    def start_controller(self, fl_ctx: FLContext) -> None:
        assert self._engine is self.engine is fl_ctx.get_engine()
        self.step("start", fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        assert fl_ctx.get_prop(FLContextKey.WORKFLOW) == "RecordingController"
        self.step("flow", fl_ctx)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        self.step("stop", fl_ctx)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if "run" in event_type or "workflow" in event_type:
            self.steps.append(event_type)


START = [EventType.ABOUT_TO_START_RUN, EventType.START_RUN, "start"]
END = ["stop", EventType.END_WORKFLOW, EventType.ABOUT_TO_END_RUN, EventType.END_RUN]


def test_a_run_has_its_steps_in_order_each_with_a_context_of_its_own(job: JobRuns) -> None:
    steps = RecordingController()
    job.serve(steps)
    assert job.outcome().ok
    assert steps.steps == [*START, EventType.START_WORKFLOW, "flow", *END]
    assert steps.seen == [(None, None), ("start", None), ("flow", None)]


@pytest.mark.parametrize(
    ("fails_in", "between"),
    [("start", []), ("flow", [EventType.START_WORKFLOW, "flow"])],
)
def test_a_controller_that_fails_is_stopped_too(job: JobRuns, fails_in: str, between: list[str]) -> None:
    steps = RecordingController(fails_in)
    job.serve(steps)
    assert (job.outcome().status, job.outcome().reason) == (FAILED, f"RuntimeError: {fails_in} failed")
    assert steps.steps == [*START, *between, *END]


def test_the_run_of_a_controller_whose_stop_fails_has_ended(job: JobRuns, caplog: pytest.LogCaptureFixture) -> None:
    steps = RecordingController("stop")
    job.serve(steps)
    assert job.outcome().ok
    assert steps.steps[-4:] == END
    assert "stop_controller failed" in caplog.text


class StartHandler(FLComponent):
    """Records the starts of a run."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.START_RUN:
            self.started.append(fl_ctx.get_identity_name())


def test_components_in_arguments_of_a_controller_and_an_executor_hear_of_the_start(job: JobRuns) -> None:
    class Aggregating(FunctionController):
        def __init__(self, aggregator: FLComponent) -> None:
            super().__init__(lambda own, abort, fl_ctx: own.send_and_wait(task(), fl_ctx, ["a"], abort_signal=abort))
            self.aggregator = aggregator

    class Learning(Executor):
        def __init__(self, learner: FLComponent) -> None:
            self.learner = learner

        def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
            return shareable

    aggregator, learner = StartHandler(), StartHandler()
    job.serve(Aggregating(aggregator))
    job.join("a", Learning(learner=learner))
    assert job.outcome().ok
    assert (aggregator.started, learner.started) == (["server"], ["a"])


class PropsExecutor(Executor):
    """Sets a public prop, and records those of the server."""

    def __init__(self) -> None:
        super().__init__()
        self.server: list[Any] = []

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        peer = fl_ctx.get_peer_context()
        assert peer is not None
        self.server = [peer.get_identity_name(), peer.get_job_id(), peer.get_prop("round"), peer.get_prop("secret")]
        assert shareable.get_peer_prop("round") == peer.get_prop("round")
        fl_ctx.set_prop("gpus", 2, private=False, sticky=True)
        fl_ctx.set_prop("signal", abort_signal, private=False, sticky=True)
        fl_ctx.set_prop("token", "x", private=True, sticky=True)
        return Shareable({"done": True})


def test_each_side_sees_public_props_of_the_other(job: JobRuns) -> None:
    seen: list[Any] = []

    def take(client_task: ClientTask, fl_ctx: FLContext) -> None:
        peer, result = fl_ctx.get_peer_context(), client_task.result
        assert peer is not None
        names = ("org", "gpus", "signal", "token")
        seen.append([peer.get_identity_name(), peer.get_job_id(), *map(peer.get_prop, names)])
        seen.append(result.get_peer_prop("gpus"))
        assert peer.get_prop(FLContextKey.SHAREABLE) is fl_ctx.get_prop(FLContextKey.TASK_RESULT) is result
        assert fl_ctx.get_prop(FLContextKey.TASK_NAME) == result.get_header("__task_name__") == "train"
        assert fl_ctx.get_prop(FLContextKey.TASK_ID) == result.get_header("__task_id__") == client_task.id

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        fl_ctx.set_prop("round", 3, private=False, sticky=True)
        fl_ctx.set_prop("secret", 4, private=True, sticky=True)
        fl_ctx.set_prop("me", controller, private=False, sticky=True)
        controller.send_and_wait(task(result_received_cb=take), fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow)
    executor = PropsExecutor()
    job.join("a", executor, props={"org": "us"})
    assert job.outcome().ok
    assert executor.server == ["server", "job", 3, None]
    assert seen == [["a", "job", "us", 2, None, None], 2]


def test_invalid_props_change_nothing(job: JobRuns) -> None:
    seen: list[Any] = []

    def take(client_task: ClientTask, fl_ctx: FLContext) -> None:
        seen.append(client_task.result.get_peer_props())

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        for _ in range(2):
            controller.send_and_wait(task(result_received_cb=take), fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow)
    with RawSite(job, "a") as site:
        for props in (["no", "dict"], {"__identity_name__": "b", "__run_num__": "other"}):
            meta = site.get_task().meta
            site.submit("train", meta["task_id"], Shareable(), props=props)
        assert job.outcome().ok
    assert seen == [{"__identity_name__": "a", "__run_num__": "job"}] * 2


def test_an_executor_named_for_several_tasks_receives_each_event_once(job: JobRuns) -> None:
    class CountingExecutor(PropsExecutor):
        def __init__(self) -> None:
            super().__init__()
            self.started = 0

        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            self.started += event_type == EventType.START_RUN

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        for name in ("train", "validate"):
            controller.send_and_wait(task(name=name), fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow)
    executor = CountingExecutor()
    site = job.join("a", {"train": executor, "validate": executor})
    assert job.outcome().ok
    assert executor.started == 1
    assert site.engine.get_component("executor:train") is executor


def test_a_collection_reaches_a_site_and_is_returned_as_dxos(job: JobRuns) -> None:
    leaves: list[Any] = []

    class WorkspaceExecutor(Executor):
        def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
            leaves.append(get_leaf_dxos(from_shareable(shareable)))
            return from_shareable(shareable).to_shareable()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        inner = DXO(DataKind.COLLECTION, {"m": DXO(DataKind.METRICS, {"loss": 1})})
        data = DXO(DataKind.COLLECTION, {"w": DXO(DataKind.WEIGHTS, {"w": 2}), "inner": inner}).to_shareable()
        controller.send_and_wait(one := task(data), fl_ctx, targets=["a"], abort_signal=abort)
        leaves.append(get_leaf_dxos(from_shareable(one.client_tasks[0].result)))

    job.serve(flow)
    job.join("a", WorkspaceExecutor())
    assert job.outcome().ok
    assert [({name: dxo.data for name, dxo in found.items()}, errors) for found, errors in leaves] == [
        ({".w": {"w": 2}, ".inner.m": {"loss": 1}}, [])
    ] * 2


def test_both_sides_have_a_folder_in_the_workspace_that_was_named(job: JobRuns, tmp_path: Path) -> None:
    class WritingComponent(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            if event_type == EventType.START_RUN:
                Path(fl_ctx.get_prop(FLContextKey.APP_ROOT), "started").touch()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.send_and_wait(task(), fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow, workspace_dir=tmp_path, components={"writes": WritingComponent()})
    job.join("a", workspace_dir=tmp_path, components={"writes": WritingComponent()})
    assert job.outcome().ok
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("started")) == [
        "job/app_a/started",
        "job/app_server/started",
    ]


def test_a_result_after_the_end_of_the_run_is_dropped(job: JobRuns) -> None:
    end, got = Hold(EventType.END_WORKFLOW), threading.Event()

    class Late(FunctionController):
        def process_result_of_unknown_task(
            self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
        ) -> None:
            assert not end.inside.is_set()
            super().process_result_of_unknown_task(client, task_name, client_task_id, result, fl_ctx)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = Task("train", Shareable())
        controller.broadcast(one, fl_ctx, targets=["a"])
        assert got.wait(10)
        controller.cancel_task(one)

    late = Late(flow)
    job.serve(late, components={"ends": end})
    with RawSite(job, "a") as site:
        meta = site.get_task().meta
        got.set()
        assert end.inside.wait(10)
        assert site.submit("train", meta["task_id"], Shareable()).ok
        end.go.set()
        assert job.outcome().ok
    assert late.unknown == []
