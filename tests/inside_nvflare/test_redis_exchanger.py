"""``RedisExchanger`` in a run, with NVFlare's own contexts, signals and DXOs; the link is on fakeredis."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.shareable import ReturnCode, Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.ipc_exchanger import IPCExchanger
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.job_config.api import FedJob
from redflare_agent import RC, IPCAgent, Task, TaskResult
from redflare_agent import dxo as agent_side
from redflare_broker.link.agent_link import ReceivedTask
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_workers.nvflare import RedisExchanger

from tests.support.waiting import wait_until


class Engine:
    """What NVFlare's executors need of their engine: contexts, and events."""

    def __init__(
        self, job_meta: dict[str, Any] | None = None, workspace: Path | None = None, site: str = "site-1"
    ) -> None:
        self.events: list[tuple[str, Any]] = []
        private: dict[str, Any] = {FLContextKey.JOB_META: job_meta}
        if workspace is not None:
            private[ReservedKey.WORKSPACE_OBJECT] = Workspace(str(workspace), "site-1")
        self._contexts = FLContextManager(self, site, "job-1", {}, private)

    def new_context(self) -> Any:
        return self._contexts.new_context()

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.FATAL_SYSTEM_ERROR:
            self.events.append((event_type, fl_ctx.get_prop(FLContextKey.EVENT_DATA)))


class Run:
    """An executor in a run of NVFlare's."""

    def __init__(self, link: LinkUnderTest, engine: Engine | None = None, **args: Any) -> None:
        self.engine = engine or Engine()
        defaults = {"agent_id": link.agent_id, "settings": link.settings, "client": link.client}
        self.exchanger = RedisExchanger(redis_url="redis://fake", **{**defaults, **args})
        self.ctx = self.engine.new_context()
        self.signal = Signal()

    def execute(self, task: Shareable, name: str = "train") -> Any:
        return self.exchanger.execute(name, task, self.ctx, self.signal)

    def in_thread(self, task: Shareable) -> tuple[threading.Thread, list[Any]]:
        replies: list[Any] = []
        thread = threading.Thread(target=lambda: replies.append(self.execute(task)), daemon=True)
        thread.start()
        return thread, replies

    def start(self) -> None:
        self.exchanger.handle_event(EventType.START_RUN, self.ctx)

    def end(self) -> None:
        self.exchanger.handle_event(EventType.END_RUN, self.ctx)


@contextmanager
def running(link: LinkUnderTest, **args: Any) -> Iterator[Run]:
    run = Run(link, **args)
    run.start()
    try:
        yield run
    finally:
        run.end()


@contextmanager
def training(link: LinkUnderTest, train: Callable[[Task], TaskResult]) -> Iterator[list[Task]]:
    """Run a trainer's loop on our real agent; return its tasks."""
    had: list[Task] = []
    agent = IPCAgent(**link.agent_args)

    def loop() -> None:
        for task in agent.tasks():
            had.append(task)
            agent.submit_result(train(task))

    thread = threading.Thread(target=loop, daemon=True)
    with agent:
        thread.start()
        yield had
    thread.join(10)


def echo(task: Task) -> TaskResult:
    return TaskResult(dict(task.meta), task.data)


def a_task(kind: str = DataKind.WEIGHTS, data: Any = None, task_id: str = "") -> Any:
    task = DXO(kind, {"w": np.ones(3, np.float32)} if data is None else data, {"mine": 7}).to_shareable()
    task.set_header(AppConstants.CURRENT_ROUND, 2)
    task.set_header(AppConstants.NUM_ROUNDS, 5)
    if task_id:
        task.set_header(ReservedKey.TASK_ID, task_id)
    return task


def test_it_is_an_executor_with_the_arguments_of_nvflares_class_and_their_defaults() -> None:
    ours = inspect.signature(RedisExchanger).parameters
    theirs = inspect.signature(IPCExchanger).parameters
    assert issubclass(RedisExchanger, Executor)
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {name: ours[name].default for name in theirs} == {name: theirs[name].default for name in theirs}


def test_a_job_made_with_nvflares_job_api_holds_its_arguments(tmp_path: Path) -> None:
    job = FedJob(name="j", min_clients=1)
    job.to(RedisExchanger(agent_id="a", redis_url="redis://r", agent_heartbeat_timeout=9.0), "site-1", tasks=["train"])
    job.export_job(str(tmp_path))
    (file,) = tmp_path.rglob("config_fed_client.json")
    (entry,) = json.loads(file.read_text())["executors"]
    assert entry["executor"]["path"].startswith("redflare_workers.nvflare.")
    assert entry["executor"]["args"] == {"agent_id": "a", "redis_url": "redis://r", "agent_heartbeat_timeout": 9.0}


def test_an_agent_gets_meta_kind_and_rounds_and_its_result_is_a_dxo(redflare_link: LinkUnderTest) -> None:
    def train(task: Task) -> TaskResult:
        return TaskResult({"NUM_STEPS_CURRENT_ROUND": 4, "data_kind": "WEIGHT_DIFF"}, {"w": task.data["w"] * 2})

    with training(redflare_link, train) as had, running(redflare_link) as run:
        reply = run.execute(a_task(task_id="t-1"))
    (task,) = had
    assert (task.task_name, task.task_id) == ("train", "t-1")
    assert task.meta == {
        "mine": 7,
        "data_kind": "WEIGHTS",
        "current_round": 2,
        "total_round": 5,
        "site_name": "site-1",
        "job_id": "job-1",
    }
    assert reply.get_return_code() == ReturnCode.OK
    dxo = from_shareable(reply)
    assert dxo.data_kind == DataKind.WEIGHT_DIFF
    assert dxo.get_meta_prop("NUM_STEPS_CURRENT_ROUND") == 4
    np.testing.assert_array_equal(dxo.data["w"], np.full(3, 2, np.float32))


@pytest.mark.parametrize("kind", [kind for kind in DataKind if kind != DataKind.COLLECTION])
def test_every_kind_of_dxo_is_sent_and_returned(redflare_link: LinkUnderTest, kind: DataKind) -> None:
    data = {"a": np.arange(4.0), "nested": {"b": np.bool_(True), "c": [1, 2.5, "x", None]}}
    with training(redflare_link, echo), running(redflare_link) as run:
        dxo = from_shareable(run.execute(a_task(kind, data)))
    assert dxo.data_kind == kind
    np.testing.assert_array_equal(dxo.data["a"], data["a"])
    assert dxo.data["nested"] == data["nested"]


def test_app_defined_data_need_not_be_a_dict(redflare_link: LinkUnderTest) -> None:
    def train(task: Task) -> TaskResult:
        return TaskResult({}, [*task.data, 3])

    with training(redflare_link, train), running(redflare_link) as run:
        dxo = from_shareable(run.execute(a_task(DataKind.APP_DEFINED, [1, 2])))
    assert (dxo.data_kind, dxo.data) == (DataKind.APP_DEFINED, [1, 2, 3])


def test_a_collection_of_dxos_is_one_at_the_agent_and_one_at_the_server(redflare_link: LinkUnderTest) -> None:
    inner = DXO(DataKind.COLLECTION, {"deep": DXO(DataKind.METRICS, {"loss": 0.5}, {"m": 1})})
    data = {"weights": DXO(DataKind.WEIGHTS, {"w": np.ones(2)}), "more": inner}

    def train(task: Task) -> TaskResult:
        assert isinstance(task.data["weights"], agent_side.DXO)
        assert isinstance(task.data["more"].data["deep"], agent_side.DXO)
        task.data["weights"].data["w"] += 1
        return TaskResult(dict(task.meta), task.data)

    with training(redflare_link, train), running(redflare_link) as run:
        dxo = from_shareable(run.execute(a_task(DataKind.COLLECTION, data)))
    assert dxo.data_kind == DataKind.COLLECTION
    np.testing.assert_array_equal(dxo.data["weights"].data["w"], [2.0, 2.0])
    deep = dxo.data["more"].data["deep"]
    assert isinstance(deep, DXO)
    assert (deep.data_kind, deep.data, deep.meta) == (DataKind.METRICS, {"loss": 0.5}, {"m": 1})


def test_an_fl_model_with_meta_and_metrics_is_sent_and_returned(redflare_link: LinkUnderTest) -> None:
    model = FLModel(
        ParamsType.FULL,
        {"w": np.ones(2)},
        metrics={"accuracy": 0.5},
        current_round=1,
        total_rounds=3,
        meta={"validate_type": "model_validate", "configs": {"lr": 0.1}},
    )
    with training(redflare_link, echo) as had, running(redflare_link) as run:
        back = FLModelUtils.from_shareable(run.execute(FLModelUtils.to_shareable(model)))
    assert had[0].meta["initial_metrics"] == {"accuracy": 0.5}
    assert had[0].meta["validate_type"] == "model_validate"
    assert (back.params_type, back.metrics) == (ParamsType.FULL, {"accuracy": 0.5})
    assert back.meta["configs"] == {"lr": 0.1}
    np.testing.assert_array_equal(back.params["w"], [1.0, 1.0])


def test_the_kind_fl_model_holds_a_whole_model(redflare_link: LinkUnderTest) -> None:
    model = FLModel(ParamsType.DIFF, {"w": np.ones(2)}, metrics={"loss": 1.5}, current_round=0)
    with training(redflare_link, echo), running(redflare_link) as run:
        back = FLModelUtils.from_dxo(from_shareable(run.execute(FLModelUtils.to_dxo(model).to_shareable())))
    assert (back.params_type, back.metrics, back.current_round) == (ParamsType.DIFF, {"loss": 1.5}, 0)


def test_tensors_stay_tensors(redflare_link: LinkUnderTest) -> None:
    torch: Any = pytest.importorskip("torch")
    with training(redflare_link, echo) as had, running(redflare_link) as run:
        dxo = from_shareable(run.execute(a_task(data={"w": torch.arange(4.0)})))
    assert isinstance(had[0].data["w"], torch.Tensor)
    assert torch.equal(dxo.data["w"], torch.arange(4.0))


@pytest.mark.parametrize("data", [{}, None])
def test_empty_data_is_a_task_too(redflare_link: LinkUnderTest, data: dict[str, Any] | None) -> None:
    with training(redflare_link, echo) as had, running(redflare_link) as run:
        reply = run.execute(DXO(DataKind.WEIGHTS, data).to_shareable())
    assert had[0].data == {}
    assert reply.get_return_code() == ReturnCode.OK


# -- return codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [RC.BAD_TASK_DATA, RC.EXECUTION_EXCEPTION, "MY_OWN"])
def test_an_agents_error_is_the_return_code_of_the_reply(redflare_link: LinkUnderTest, code: str) -> None:
    with training(redflare_link, lambda _: TaskResult({}, {}, code)), running(redflare_link) as run:
        reply = run.execute(a_task())
    assert reply.get_return_code() == code
    with pytest.raises(ValueError, match="not a valid DXO"):
        from_shareable(reply)


def test_early_termination_has_its_data(redflare_link: LinkUnderTest) -> None:
    def train(task: Task) -> TaskResult:
        return TaskResult({}, task.data, RC.EARLY_TERMINATION)

    with training(redflare_link, train), running(redflare_link) as run:
        reply = run.execute(a_task())
    assert reply.get_return_code() == RC.EARLY_TERMINATION
    assert from_shareable(reply).data["w"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "task", [Shareable(), a_task(data={"w": object()})], ids=["without a DXO", "with what cannot be sent"]
)
def test_a_bad_task_is_bad_task_data_and_the_next_one_works(redflare_link: LinkUnderTest, task: Shareable) -> None:
    with training(redflare_link, echo) as had, running(redflare_link) as run:
        assert run.execute(task).get_return_code() == ReturnCode.BAD_TASK_DATA
        assert run.execute(a_task()).get_return_code() == ReturnCode.OK
    assert len(had) == 1


def test_a_result_that_fits_no_dxo_is_an_execution_exception(redflare_link: LinkUnderTest) -> None:
    with training(redflare_link, lambda _: TaskResult({}, [1, 2])), running(redflare_link) as run:
        assert run.execute(a_task()).get_return_code() == ReturnCode.EXECUTION_EXCEPTION


def test_a_second_task_at_a_time_is_bad_request_data(redflare_link: LinkUnderTest) -> None:
    with running(redflare_link) as run:
        thread, replies = run.in_thread(a_task())
        wait_until(lambda: run.exchanger._aborts is not None)
        assert run.execute(a_task()).get_return_code() == ReturnCode.BAD_REQUEST_DATA
        run.signal.trigger(True)
        thread.join(10)
    assert replies[0].get_return_code() == ReturnCode.TASK_ABORTED


# -- ends and restarts -------------------------------------------------------------------------------------------------


def test_nvflares_abort_signal_reaches_the_agent(redflare_link: LinkUnderTest) -> None:
    aborted = threading.Event()

    def train(task: Task) -> TaskResult:
        if task.wait_aborted(10):
            aborted.set()
        return TaskResult({}, {})

    with training(redflare_link, train) as had, running(redflare_link) as run:
        thread, replies = run.in_thread(a_task())
        wait_until(lambda: had)
        run.signal.trigger(True)
        thread.join(10)
        assert aborted.wait(10)
    assert replies[0].get_return_code() == ReturnCode.TASK_ABORTED


def test_the_end_of_a_run_aborts_its_task_and_closes_the_agent(redflare_link: LinkUnderTest) -> None:
    run = Run(redflare_link)
    run.start()
    with IPCAgent(**redflare_link.agent_args) as agent:
        thread, replies = run.in_thread(a_task())
        task = agent.get_task(10)
        run.end()
        thread.join(10)
        assert task is not None
        assert task.wait_aborted(10)
        wait_until(lambda: agent.closed)
    assert replies[0].get_return_code() == ReturnCode.TASK_ABORTED
    assert run.execute(a_task()).get_return_code() == ReturnCode.TASK_ABORTED
    assert run.engine.events == []


def test_a_dead_agent_aborts_the_task_and_makes_the_system_panic(redflare_link: LinkUnderTest) -> None:
    with running(redflare_link, agent_heartbeat_timeout=0.3, agent_heartbeat_interval=0.05) as run:
        assert run.execute(a_task()).get_return_code() == ReturnCode.TASK_ABORTED
        wait_until(lambda: run.engine.events)
    ((event, reason),) = run.engine.events
    assert event == EventType.FATAL_SYSTEM_ERROR
    assert "site-1--agent is gone" in reason


def test_a_restarted_agent_gets_the_task_again(redflare_link: LinkUnderTest) -> None:
    first = IPCAgent(**redflare_link.agent_args)
    first.start()
    with running(redflare_link) as run:
        thread, replies = run.in_thread(a_task(task_id="t"))
        assert first.get_task(10) is not None
        with training(redflare_link, echo) as had:
            thread.join(10)
            assert (had[0].task_id, had[0].attempt) == ("t", 2)
        first.stop()
    assert replies[0].get_return_code() == ReturnCode.OK


def test_a_restarted_client_job_gets_the_result_of_its_predecessors_task(redflare_link: LinkUnderTest) -> None:
    going_on = threading.Event()

    def train(task: Task) -> TaskResult:
        assert going_on.wait(10)
        return echo(task)

    with training(redflare_link, train) as had:
        first = Run(redflare_link, agent_heartbeat_interval=0.1)
        first.start()
        thread, replies = first.in_thread(a_task(task_id="t"))
        wait_until(lambda: had)
        with running(redflare_link) as second:  # as after a crash: the first one says no bye
            other, more = second.in_thread(a_task(task_id="t"))
            wait_until(lambda: first.exchanger._link is not None and first.exchanger._link.session.fenced)
            going_on.set()
            other.join(10)
        thread.join(10)
        first.end()
    assert more[0].get_return_code() == ReturnCode.OK
    assert replies[0].get_return_code() == ReturnCode.TASK_ABORTED
    assert first.engine.events == []
    assert len(had) == 1


# -- where the link is -------------------------------------------------------------------------------------------------


def test_the_agents_name_may_come_from_the_jobs_meta(redflare_link: LinkUnderTest) -> None:
    with running(redflare_link, agent_id=None, engine=Engine({"agent_id": "from-meta"})) as run:
        assert run.exchanger.fqcn == "site-1--from-meta"


@pytest.mark.parametrize("meta", [{}, {"agent_id": 5}, None])
def test_without_a_name_the_system_panics(redflare_link: LinkUnderTest, meta: dict[str, Any] | None) -> None:
    with running(redflare_link, agent_id=None, engine=Engine(meta)) as run:
        assert "agent_id" in run.engine.events[0][1]
        assert run.execute(a_task()).get_return_code() == ReturnCode.TASK_ABORTED


def a_site(folder: Path, link_file: str) -> Path:
    """A workspace of NVFlare's site with a folder of ours."""
    for name in ("startup", "local/redflare"):
        (folder / name).mkdir(parents=True)
    (folder / "local" / "redflare" / "redflare.json").write_text(link_file)
    return folder


def test_a_site_can_configure_its_server_and_its_agent(server_url: str, tmp_path: Path) -> None:
    site = a_site(tmp_path, json.dumps({"redis_url": server_url, "agent_id": "from-file"}))
    engine = Engine({}, site)
    exchanger = RedisExchanger()
    exchanger.handle_event(EventType.START_RUN, engine.new_context())
    try:
        assert engine.events == []
        assert exchanger.fqcn == "site-1--from-file"
    finally:
        exchanger.handle_event(EventType.END_RUN, engine.new_context())


@pytest.mark.parametrize(
    ("link_file", "reason"),
    [
        ("{}", "agent_id"),
        ('{"agent": "x"}', "unknown keys ['agent']"),
        ('{"agent_id": "a", "secure_mode": true}', "rootCA.pem"),
        ('{"agent_id": "a"}', "URL"),
    ],
)
def test_the_panic_names_what_is_wrong_with_a_sites_settings(tmp_path: Path, link_file: str, reason: str) -> None:
    engine = Engine({}, a_site(tmp_path, link_file))
    exchanger = RedisExchanger()
    exchanger.handle_event(EventType.START_RUN, engine.new_context())
    assert reason in engine.events[0][1]
    exchanger.handle_event(EventType.END_RUN, engine.new_context())


def test_the_workspace_may_be_named_in_the_job(redflare_link: LinkUnderTest, tmp_path: Path) -> None:
    (tmp_path / "redflare.json").write_text('{"agent_id": "elsewhere"}')
    with running(redflare_link, agent_id=None, workspace_dir=str(tmp_path), settings=None) as run:
        # the file's agent was found; the server in this test may evict, which the file did not allow
        assert run.exchanger.agent_id == "elsewhere"


def test_a_site_whose_name_cannot_be_used_makes_the_system_panic(redflare_link: LinkUnderTest) -> None:
    with running(redflare_link, engine=Engine(site="site 1")) as run:
        assert "'site 1'" in run.engine.events[0][1]


def test_answers_of_the_fake_agent_are_taken_as_those_of_a_real_one(redflare_link: LinkUnderTest) -> None:
    def answer(task: ReceivedTask) -> TaskResult:
        return TaskResult({}, {"seen": task.meta["current_round"]})

    with redflare_link.agent(answer), running(redflare_link) as run:
        assert from_shareable(run.execute(a_task())).data == {"seen": 2}
