"""Each row of the tables of differences in ``docs/from-nvflare.md`` is shown by a test, and the text beside them too.

The rows are named by ``@shows``; the last test compares them with the page.
"""

from __future__ import annotations

import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import fakeredis
import numpy as np
import pytest
import redflare_agent
import redflare_workers
from nvflare.apis import dxo as nvflare_dxo
from nvflare.apis.impl.controller import Controller as NVFlareController
from nvflare.apis.impl.wf_comm_server import WFCommServer as NVFlareWFCommServer
from nvflare.apis.server_engine_spec import ServerEngineSpec as NVFlareServerEngine
from nvflare.apis.signal import Signal as NVFlareSignal
from nvflare.apis.streaming import StreamableEngine as NVFlareStreams
from nvflare.app_common.executors.ipc_exchanger import IPCExchanger as NVFlareExchanger
from nvflare.client.ipc import defs as nvflare_defs
from nvflare.client.ipc.ipc_agent import IPCAgent as NVFlareAgent
from nvflare.private.fed.client.client_engine import ClientEngine as NVFlareClientEngine
from nvflare.private.fed.client.client_engine_executor_spec import ClientEngineExecutorSpec as NVFlareSiteEngine
from redflare_agent import AgentClosed, CallStateError, IPCAgent, TaskResult
from redflare_broker.cell.request import Reply
from redflare_broker.testing import LinkUnderTest
from redflare_workers import (
    DXO,
    Client,
    ClientEngine,
    ClientJob,
    ClientTask,
    DataKind,
    FLComponent,
    FLContext,
    IPCExchanger,
    ReturnCode,
    ServerJob,
    Shareable,
    Signal,
    Site,
    SiteArgs,
    Task,
    TaskCompletionStatus,
    Workspace,
    from_bytes,
    make_reply,
)
from redflare_workers.apis.streaming import StreamableEngine
from redflare_workers.engine.run_engine import RunEngine
from redflare_workers.workflow import Controller, WFCommServer

from tests.support.cell.streams import Numbers
from tests.support.clock import Clock
from tests.support.communicator.local_engine import LocalEngine
from tests.support.job.runs import FunctionExecutor, JobRuns, echo
from tests.support.tables import differences
from tests.support.waiting import wait_until

SHOWN: set[str] = set()
T = TypeVar("T")


def shows(*rows: str) -> Callable[[T], T]:
    """Mark the rows of the page, by their first cell, that a test shows."""
    SHOWN.update(rows)
    return lambda test: test


# -- IPCAgent and IPCExchanger -----------------------------------------------------------------------------------------


def parameters(function: object) -> dict[str, object]:
    assert callable(function)
    return {each.name: each.default for each in inspect.signature(function).parameters.values()}


@pytest.mark.parametrize(("theirs", "ours"), [(NVFlareAgent, IPCAgent), (NVFlareExchanger, IPCExchanger)])
def test_arguments_and_defaults_are_nvflare_s_but_for_decomposer_module(theirs: Any, ours: Any) -> None:
    wanted = parameters(theirs)
    wanted.pop("decomposer_module", None)
    assert {name: parameters(ours)[name] for name in wanted} == wanted
    assert "decomposer_module" not in parameters(ours)


@pytest.mark.parametrize("name", ["start", "stop", "get_task", "submit_result"])
def test_calls_of_the_agent_take_nvflare_s_arguments(name: str) -> None:
    assert parameters(getattr(IPCAgent, name)) == parameters(getattr(NVFlareAgent, name))


def test_definitions_have_nvflare_s_names_and_values() -> None:
    theirs = {name: value for name, value in vars(nvflare_defs).items() if isinstance(value, str) and name.isupper()}
    assert {name: getattr(redflare_agent.defs, name) for name in theirs} == theirs
    for group in ("MsgHeader", "PayloadKey", "MetaKey"):
        known = {name: value for name, value in vars(getattr(nvflare_defs, group)).items() if name.isupper()}
        assert {name: getattr(getattr(redflare_agent, group), name) for name in known} == known


def test_an_exchanger_in_a_script_needs_a_url_and_a_site() -> None:
    with pytest.raises(ValueError, match="site_name"):
        IPCExchanger(redis_url="redis://127.0.0.1", agent_id="trainer").start()
    with pytest.raises(ValueError, match=r"URL|url"):
        IPCExchanger(site_name="site-1", agent_id="trainer").start()


class Custom:
    """A class that cannot be sent."""


def test_a_custom_class_in_data_is_an_error_that_names_it(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger, pytest.raises(Exception, match="Custom"):
        exchanger.run("train", {"x": Custom()})


def started(work: Callable[[], T]) -> Callable[[], T]:
    """Run a function in a thread; return a function that waits for its result."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()

    def result() -> T:
        thread.join(20)
        return found[0]

    return result


def has_task(link: LinkUnderTest) -> bool:
    """Whether a task is assigned on the link."""
    return any(b":task:" in key for key in link.client.keys())  # type: ignore[attr-defined]  # noqa: SIM118


@shows("A site without its agent", "`send_task_timeout`, `resend_task_interval`, `agent_ack_timeout`")
def test_a_task_waits_for_its_agent_whatever_the_timeouts_are(redflare_link: LinkUnderTest) -> None:
    timeouts: dict[str, Any] = {"send_task_timeout": 1e-6, "resend_task_interval": 1e-6, "agent_ack_timeout": 1e-6}
    with IPCExchanger(**timeouts, **redflare_link.exchanger_args) as exchanger:
        result = started(lambda: exchanger.run("train", 5, timeout=15))
        wait_until(lambda: has_task(redflare_link))
        with redflare_link.agent(lambda task: TaskResult({}, task.data)):
            assert result().data == 5


@shows("A crash of the agent", "Two agents with one id")
def test_a_second_agent_of_one_id_closes_the_first_and_gets_its_task(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as first:
        cj.send("train", 5)
        before = first.get_task(timeout=5)
        with IPCAgent(**redflare_link.agent_args) as second:
            after = second.get_task(timeout=5)
            assert before is not None
            assert after is not None
            assert (before.attempt, after.attempt) == (1, 2)
            assert before.task_id == after.task_id
            with pytest.raises(AgentClosed):
                first.submit_result(TaskResult({}, 6))


@shows("A crash of the CJ")
def test_the_next_cj_gets_the_result_of_the_same_task_id(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(lambda task: TaskResult({}, task.data)) as agent:
        first, second = (IPCExchanger(**redflare_link.exchanger_args) for _ in range(2))
        first.start()
        assert first.run("train", 5, task_id="t", timeout=10).data == 5
        second.start()
        assert second.run("train", 5, task_id="t", timeout=10).data == 5
        assert len(agent.received) == 1
        first.stop()
        second.stop()


@shows("Names of sites and agents")
@pytest.mark.parametrize(("site", "agent", "part"), [("site 1", "a", "site 1"), ("site-1", "a.b", "a.b")])
def test_a_name_with_other_characters_is_a_value_error_that_names_it(site: str, agent: str, part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        IPCAgent("redis://127.0.0.1", site, agent, ".")
    assert nvflare_defs.agent_site_fqcn("site-1", "trainer") == "site-1.-trainer"
    assert redflare_agent.defs.agent_site_fqcn("site-1", "trainer") == "site-1--trainer"


@shows("`flare_site_url`")
def test_an_agent_is_given_the_url_of_redis() -> None:
    with pytest.raises(ValueError, match="redis://"):
        IPCAgent("grpc://127.0.0.1:8002", "site-1", "trainer", ".")


@shows("`submit_result` with no task, neither fetched nor open")
def test_a_result_of_no_task_is_a_wrong_call_at_once(redflare_link: LinkUnderTest) -> None:
    none = pytest.raises(CallStateError, match="has fetched no task, and none is open")
    with IPCAgent(**redflare_link.agent_args) as agent, redflare_link.cj(), none:
        agent.submit_result(TaskResult({}, 5))


@shows("Falsy data in `TaskResult`")
def test_only_none_is_no_data() -> None:
    falsy: list[Any] = [None, 0, [], np.zeros(1)]
    assert [TaskResult({}, data).data for data in falsy] == [{}, 0, [], np.zeros(1)]
    assert [nvflare_defs.TaskResult({}, data).data for data in falsy] == [{}] * 4


@shows("Empty data or meta in a task", "A wrong call of `submit_result`")
def test_a_wrong_call_of_submit_result_raises_and_the_task_remains(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        answer = cj.send("train")
        task = agent.get_task(timeout=5)
        assert task is not None
        assert (task.data, task.meta) == ({}, {})
        with pytest.raises(TypeError):
            agent.submit_result({"w": 1})  # type: ignore[arg-type]
        assert agent.submit_result(TaskResult({}, 7))
        assert answer.result(timeout=5).data == 7
        with pytest.raises(CallStateError):
            agent.submit_result(TaskResult({}, 8))


@shows("`get_task` while the current task is aborted")
def test_an_aborted_task_is_dropped_for_the_next_one(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        cj.send("train", task_id="first")
        first = agent.get_task(timeout=5)
        assert first is not None
        cj.abort()
        assert first.wait_aborted(5)
        cj.send("train", task_id="second")
        second = agent.get_task(timeout=5)
        assert second is not None
        assert second.task_id == "second"


@shows("`start` after `stop`")
def test_a_stopped_agent_cannot_be_started(redflare_link: LinkUnderTest) -> None:
    agent = IPCAgent(**redflare_link.agent_args)
    agent.start()
    agent.stop()
    with pytest.raises(CallStateError):
        agent.start()


@pytest.mark.parametrize("kind", [NVFlareSignal, Signal])
def test_a_signal_of_either_class_aborts_a_task(redflare_link: LinkUnderTest, kind: Any) -> None:
    signal = kind()
    assert hasattr(signal, "add_callback") is (kind is Signal)  # a signal that cannot call back is polled
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        task = DXO(DataKind.WEIGHTS, {"w": 1.0}).to_shareable()
        reply = started(lambda: exchanger.execute("train", task, FLContext(), signal))
        wait_until(lambda: has_task(redflare_link))
        signal.trigger("enough")
        assert reply().get_return_code() == ReturnCode.TASK_ABORTED


def test_agents_can_be_iterated_and_functions_served(redflare_link: LinkUnderTest) -> None:
    assert callable(redflare_agent.serve)
    assert callable(redflare_agent.trainer)
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        answer = cj.send("train", 1)
        for task in agent.tasks():
            assert not task.wait_aborted(0.001)
            agent.submit_result(TaskResult({}, task.data))
            break
        assert answer.result(timeout=5).data == 1


# -- controllers and executors -----------------------------------------------------------------------------------------


@pytest.fixture
def job() -> Iterator[JobRuns]:
    with JobRuns(fakeredis.FakeRedis(server=fakeredis.FakeServer())) as made:
        yield made


@pytest.fixture
def engine() -> LocalEngine:
    return LocalEngine(["site-1"])


@pytest.fixture
def communicator(engine: LocalEngine) -> Iterator[WFCommServer]:
    made = WFCommServer()
    with engine.new_context() as fl_ctx:
        made.initialize_run(fl_ctx)
        yield made
        made.finalize_run(fl_ctx)


def ask(communicator: WFCommServer, engine: LocalEngine, name: str = "site-1") -> tuple[str, str]:
    """Name and id of the task that a client gets; empty: none."""
    task_name, task_id, _ = communicator.process_task_request(engine.join(name), engine.new_context())
    return task_name, task_id


def answer(communicator: WFCommServer, engine: LocalEngine, task_id: str, name: str = "site-1") -> None:
    communicator.process_submission(engine.join(name), "train", task_id, Shareable(), engine.new_context())


def results(task: Task) -> list[str]:
    return [str(each.result.get_return_code()) for each in task.client_tasks if each.result is not None]


@shows("`min_responses`, when it is not given")
def test_all_clients_that_a_task_was_sent_to_must_answer(communicator: WFCommServer, engine: LocalEngine) -> None:
    assert parameters(Controller.broadcast)["min_responses"] == 0
    assert parameters(NVFlareController.broadcast)["min_responses"] == 1
    task = Task("train", Shareable())
    communicator.broadcast(task, engine.new_context(), ["site-1", "site-2"])
    for name in ("site-1", "site-2"):
        assert task.completion_status is None
        answer(communicator, engine, ask(communicator, engine, name)[1], name)
        communicator.check_tasks()
    assert task.completion_status is TaskCompletionStatus.OK


@shows("`targets=None`")
def test_a_client_that_joins_while_a_task_is_open_gets_it(communicator: WFCommServer, engine: LocalEngine) -> None:
    communicator.broadcast(Task("train", Shareable()), engine.new_context(), min_responses=2)
    assert ask(communicator, engine, "site-2")[0] == "train"


@shows("`..._and_wait`", "`cancel_task` of a task that has ended")
def test_waiting_is_over_after_task_done_cb_and_the_status_is_final(job: JobRuns) -> None:
    seen: list[object] = []

    def flow(controller: Any, abort: Signal, fl_ctx: FLContext) -> None:
        done: list[Task] = []
        task = Task("train", Shareable(), task_done_cb=lambda task, fl_ctx: done.append(task))
        controller.broadcast_and_wait(task, fl_ctx, ["site-1"], abort_signal=abort)
        seen.append(done == [task])
        controller.cancel_task(task)
        seen.append(task.completion_status)

    job.serve(flow)
    job.join("site-1")
    assert job.outcome().ok
    assert seen == [True, TaskCompletionStatus.OK]


@shows("What `..._and_wait` return")
@pytest.mark.parametrize("method", ["broadcast_and_wait", "send_and_wait", "relay_and_wait"])
def test_waiting_returns_status_and_result(job: JobRuns, method: str) -> None:
    seen: list[Any] = []

    def flow(controller: Any, abort: Signal, fl_ctx: FLContext) -> None:
        task = Task("train", Shareable({"n": 4}))
        seen.extend(getattr(controller, method)(task, fl_ctx, ["site-1"], abort_signal=abort))

    job.serve(flow)
    job.join("site-1")
    assert job.outcome().ok
    assert seen[0] is TaskCompletionStatus.OK
    assert (seen[1]["site-1"] if method == "broadcast_and_wait" else seen[1])["n"] == 4
    assert "return " not in inspect.getsource(getattr(NVFlareWFCommServer, method)).split('"""')[-1]


@shows("Arrays of a broadcast in `before_task_sent_cb`")
def test_a_callback_puts_another_array_in_the_place_of_one(job: JobRuns) -> None:
    seen: dict[str, float] = {}

    def scale(client_task: ClientTask, fl_ctx: FLContext) -> None:
        data, factor = client_task.task.data, int(client_task.client.name[-1])
        with pytest.raises(ValueError, match="read-only"):
            data["w"] *= factor
        data["w"] = np.ones(3) * factor

    def work(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        seen[fl_ctx.get_identity_name()] = data["w"].sum()
        return Shareable()

    def flow(controller: Any, abort: Signal, fl_ctx: FLContext) -> None:
        task = Task("train", Shareable({"w": np.ones(3)}), before_task_sent_cb=scale)
        controller.broadcast_and_wait(task, fl_ctx, ["site-1", "site-2"], abort_signal=abort)

    job.serve(flow)
    for name in ("site-1", "site-2"):
        job.join(name, work)
    assert job.outcome().ok
    assert seen == {"site-1": 3.0, "site-2": 6.0}


@shows("A task that a client has and has not answered")
def test_an_unanswered_task_is_sent_before_others(communicator: WFCommServer, engine: LocalEngine) -> None:
    communicator.broadcast(Task("first", Shareable()), engine.new_context(), ["site-1"])
    given = ask(communicator, engine)
    communicator.broadcast(Task("second", Shareable()), engine.new_context(), ["site-1"])
    assert ask(communicator, engine) == given


@shows("A target that is disconnected or never joins")
def test_an_absent_target_is_not_waited_for() -> None:
    engine, clock = LocalEngine(["site-1"]), Clock()
    communicator = WFCommServer(clock=clock)
    with engine.new_context() as fl_ctx:
        communicator.initialize_run(fl_ctx)
        tasks = [Task(name, Shareable()) for name in ("everybody", "first", "nobody")]
        communicator.broadcast(tasks[0], fl_ctx, ["ghost", "site-1"])
        communicator.send(tasks[1], fl_ctx, ["ghost", "site-1"])
        communicator.send(tasks[2], fl_ctx, ["ghost"])
        for name in ("everybody", ""):
            given, task_id = ask(communicator, engine)
            assert given == name
            if task_id:
                communicator.process_submission(engine.join("site-1"), name, task_id, Shareable(), fl_ctx)
        clock.now += 60
        communicator.check_tasks()
        assert ask(communicator, engine)[0] == "first"
        statuses = [task.completion_status for task in tasks]
        assert statuses == [TaskCompletionStatus.OK, None, TaskCompletionStatus.CLIENT_DEAD]
        communicator.finalize_run(fl_ctx)


@shows("`task_assignment_timeout` of a sequential `send`")
def test_a_sequential_send_counts_from_its_scheduling() -> None:
    engine, clock = LocalEngine(["site-1"]), Clock()
    communicator = WFCommServer(clock=clock)
    with engine.new_context() as fl_ctx:
        communicator.initialize_run(fl_ctx)
        task = Task("train", Shareable())
        task.create_time = clock.now - 100
        communicator.send(task, fl_ctx, ["site-2", "site-1"], task_assignment_timeout=2)
        assert ask(communicator, engine)[0] == ""
        clock.now += 2
        assert ask(communicator, engine)[0] == "train"
        communicator.finalize_run(fl_ctx)


@shows("A relay that no client has asked for")
def test_a_relay_waits_for_its_first_client() -> None:
    engine, communicator = LocalEngine(), WFCommServer()
    with engine.new_context() as fl_ctx:
        communicator.initialize_run(fl_ctx)
        communicator.relay(Task("train", Shareable()), fl_ctx)
        communicator.check_tasks()
        assert communicator.get_num_standing_tasks() == 1
        assert ask(communicator, engine)[0] == "train"
        communicator.finalize_run(fl_ctx)


@shows("A task whose manager fails")
def test_a_manager_that_fails_ends_its_own_task_only(
    communicator: WFCommServer, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("out of order")

    broken, sound = (Task("train", Shareable()) for _ in range(2))
    monkeypatch.setattr(sys.modules[WFCommServer.__module__].BcastTaskManager, "check_task_exit", fail)
    communicator.send(sound, engine.new_context(), ["site-1"])
    communicator.broadcast(broken, engine.new_context(), ["site-1"])
    communicator.check_tasks()
    assert broken.completion_status is TaskCompletionStatus.ERROR
    answer(communicator, engine, ask(communicator, engine)[1])
    communicator.check_tasks()
    assert sound.completion_status is TaskCompletionStatus.OK


class Flow(Controller):
    """A controller that runs a function."""

    def __init__(self, flow: Callable[[Flow, FLContext], None], **more: Any) -> None:
        super().__init__(**more)
        self.flow = flow

    def start_controller(self, fl_ctx: FLContext) -> None: ...

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.flow(self, fl_ctx)

    def stop_controller(self, fl_ctx: FLContext) -> None: ...

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None: ...


@shows("`task_check_period` of a controller")
def test_the_communicator_takes_over_the_controller_s_period() -> None:
    communicator = WFCommServer()
    Flow(lambda controller, fl_ctx: None, task_check_period=7.0).set_communicator(communicator)
    assert communicator.task_check_period == 7.0


@shows("Callbacks")
def test_callbacks_of_two_tasks_run_at_once_and_those_of_one_do_not(job: JobRuns) -> None:
    together = threading.Barrier(2)
    running: list[str] = []
    overlaps: list[str] = []

    def meet(client_task: Any, fl_ctx: FLContext) -> None:
        together.wait(15)

    def alone(client_task: Any, fl_ctx: FLContext) -> None:
        overlaps.extend(running)
        running.append(client_task.client.name)
        threading.Event().wait(0.05)
        running.remove(client_task.client.name)

    def flow(controller: Any, abort: Signal, fl_ctx: FLContext) -> None:
        both = [Task("train", Shareable(), result_received_cb=meet) for _ in range(2)]
        for task, site in zip(both, ("site-1", "site-2"), strict=True):
            controller.broadcast(task, fl_ctx, [site])
        for task in both:
            controller.wait(task, abort)
        task = Task("train", Shareable(), result_received_cb=alone)
        controller.broadcast_and_wait(task, fl_ctx, ["site-1", "site-2"], abort_signal=abort)

    job.serve(flow)
    job.join("site-1")
    job.join("site-2")
    assert job.outcome().ok
    assert not together.broken
    assert overlaps == []


def answers(job: JobRuns, work: Any) -> list[str]:
    """Return the codes that the controller gets when sites execute ``work``."""
    seen: list[str] = []

    def flow(controller: Any, abort: Signal, fl_ctx: FLContext) -> None:
        task = Task("train", Shareable())
        controller.broadcast_and_wait(task, fl_ctx, ["site-1"], abort_signal=abort)
        seen.extend(results(task))

    job.serve(flow)
    job.join("site-1", work)
    assert job.outcome().ok
    return seen


@shows("Results with TASK_UNKNOWN, UNSAFE_JOB or RUN_MISMATCH")
@pytest.mark.parametrize("code", [ReturnCode.TASK_UNKNOWN, ReturnCode.UNSAFE_JOB, ReturnCode.RUN_MISMATCH])
def test_every_return_code_reaches_the_controller(job: JobRuns, code: str) -> None:
    assert answers(job, lambda name, data, fl_ctx, abort: make_reply(code)) == [code]


@shows("An executor that returns None")
def test_an_executor_that_returns_none_has_an_empty_result(job: JobRuns) -> None:
    assert answers(job, lambda name, data, fl_ctx, abort: None) == [ReturnCode.EMPTY_RESULT]


@shows("Workflows of a job")
def test_workflows_of_a_job_folder_run_in_order(job: JobRuns) -> None:
    from redflare_workers.workflow.workflows import Workflows

    ran: list[str] = []
    steps = {name: Flow(lambda controller, fl_ctx, name=name: ran.append(name)) for name in ("one", "two")}  # type: ignore[misc]
    job.serve(Workflows(steps))
    assert job.outcome().ok
    assert ran == ["one", "two"]
    assert "controller" in parameters(ServerJob)


@shows("Filters")
def test_filters_are_arguments_of_a_site_s_job() -> None:
    assert {"task_filters", "result_filters"} <= set(parameters(ClientJob))
    assert not [name for name in parameters(ServerJob) if "filter" in name]


@shows("A server that dies")
def test_the_next_server_restores_the_state_of_the_last_checkpoint(job: JobRuns) -> None:
    class Counting(Flow):
        count = 0

        def state(self) -> dict[str, Any]:
            return {"count": self.count}

        def restore(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    kept, restored = threading.Event(), []

    def begin(controller: Any, fl_ctx: FLContext) -> None:
        controller.count = 3
        controller.checkpoint(fl_ctx)
        assert controller.engine.persist_components(fl_ctx, completed=False) is None
        controller.count = 4  # not kept
        kept.set()
        wait_until(lambda: fl_ctx.get_run_abort_signal().triggered, 15)

    first = job.serve(Counting(begin, resume=True))
    assert kept.wait(15)
    first.leave()
    job.outcome()
    job.serve(Counting(lambda controller, fl_ctx: restored.append(controller.count), resume=True))  # type: ignore[attr-defined]
    assert job.outcome().ok
    assert restored == [3]


@shows("What can be sent")
def test_a_shareable_inside_another_arrives_as_a_dict_and_other_classes_are_named(
    job: JobRuns, caplog: pytest.LogCaptureFixture
) -> None:
    sent = Shareable()
    sent.update({"inner": make_reply(ReturnCode.OK), "numbers": (1, 2.5), "array": np.arange(2), "bytes": b"x"})
    seen: list[Any] = []

    def work(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        seen.append(dict(data))
        reply = Shareable()
        reply["custom"] = Custom()
        return reply

    def flow(controller: Any, abort: Signal, fl_ctx: FLContext) -> None:
        task = Task("train", sent)
        controller.broadcast_and_wait(task, fl_ctx, ["site-1"], abort_signal=abort)
        seen.append(results(task))

    job.serve(flow)
    job.join("site-1", work)
    assert job.outcome().ok
    data, codes = seen
    assert type(data["inner"]) is dict
    assert (data["numbers"], data["bytes"], data["array"].tolist()) == ((1, 2.5), b"x", [0, 1])
    assert codes == [ReturnCode.EXECUTION_RESULT_ERROR]
    assert "Custom" in caplog.text


@shows("`DXO.to_bytes`, `to_file`")
def test_neither_reads_the_bytes_of_the_other() -> None:
    ours = DXO(DataKind.METRICS, {"n": 1}).to_bytes()
    theirs = nvflare_dxo.DXO(nvflare_dxo.DataKind.METRICS, {"n": 1}).to_bytes()
    with pytest.raises(Exception):  # noqa: B017, PT011
        nvflare_dxo.from_bytes(ours)
    with pytest.raises(Exception):  # noqa: B017, PT011
        from_bytes(theirs)


@shows("`Workspace`")
def test_folders_of_a_workspace_are_created(tmp_path: Path) -> None:
    assert Path(Workspace(tmp_path / "new", "site-1").get_app_dir("job")).is_dir()


@shows("`fire_fed_event`")
def test_a_federation_event_stays_in_its_process(job: JobRuns) -> None:
    class Listener(FLComponent):
        def __init__(self) -> None:
            super().__init__()
            self.received = False

        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            self.received = self.received or event_type == "greeting"

    here, there = Listener(), Listener()

    def flow(controller: Any, abort: Signal, fl_ctx: FLContext) -> None:
        controller.fire_fed_event("greeting", Shareable(), fl_ctx)
        controller.broadcast_and_wait(Task("train", Shareable()), fl_ctx, ["site-1"], abort_signal=abort)

    job.serve(flow, components={"listener": here})
    job.join("site-1", components={"listener": there})
    assert job.outcome().ok
    assert all(each.ok for each in job.site_outcomes())
    assert (here.received, there.received) == (True, False)


@shows("`send_to_job` of a client parent", "`send_aux_request` of a client parent", "Bases of a client parent's engine")
def test_a_client_parent_talks_in_shareables(tmp_path: Path) -> None:
    engine = ClientEngine(Site(name="site-1"), SiteArgs(workspace=tmp_path))
    for message in (Shareable({"x": 1}), {"x": 1}, None):
        assert isinstance(engine.send_to_job("job-1", "channel", "topic", message, 1.0), Reply)
    with engine.new_context() as fl_ctx:
        reply = engine.send_aux_request("topic", Shareable(), 1.0, fl_ctx)
    assert type(reply) is Shareable
    assert reply.get_return_code() == ReturnCode.COMMUNICATION_ERROR
    wanted = parameters(NVFlareClientEngine.send_aux_request)
    assert list(parameters(ClientEngine.send_aux_request)) == list(wanted)
    assert RunEngine in ClientEngine.__mro__
    assert StreamableEngine in ClientEngine.__mro__
    assert {base.__name__ for base in NVFlareClientEngine.__mro__} >= {"ClientEngineSpec", "StreamableEngine"}


@shows("Targets of a stream of a client parent")
def test_a_client_parent_streams_to_no_site(tmp_path: Path) -> None:
    engine = ClientEngine(Site(name="site-1"), SiteArgs(workspace=tmp_path))
    with engine.new_context() as fl_ctx, pytest.raises(ValueError, match="reaches the server 'server' only"):
        engine.stream_objects("files", "one", {}, ["site-2"], Numbers([0]), fl_ctx)


@shows("Administration of a client parent")
def test_a_client_parent_is_not_administered_through_its_engine() -> None:
    absent = {"get_engine_status", "get_errors", "reset_errors", "configure_job_log"}
    absent |= {"set_agent", "shutdown", "restart"}
    instead = {"get_all_job_ids", "get_current_run_info", "stop"}
    assert absent <= set(dir(NVFlareClientEngine))
    assert (absent | instead) & set(dir(ClientEngine)) == instead


@shows("`secure` of tasks, messages and streams")
def test_secure_is_accepted_and_changes_nothing(job: JobRuns) -> None:
    seen: list[Any] = []

    def flow(controller: Any, abort: Signal, fl_ctx: FLContext) -> None:
        for secure in (True, False):
            task = Task("train", Shareable({"n": 4}), secure=secure)
            seen.append(controller.send_and_wait(task, fl_ctx, ["site-1"], abort_signal=abort)[1]["n"])
            reply = controller.engine.send_aux_request("site-1", "none", Shareable(), 10.0, fl_ctx, secure=secure)
            seen.append(reply["site-1"].get_return_code())

    job.serve(flow)
    job.join("site-1")
    assert job.outcome().ok
    assert seen == [4, ReturnCode.TOPIC_UNKNOWN] * 2
    assert parameters(ClientEngine.stream_objects)["secure"] is False


AUX: Final = ["register_aux_message_handler", "send_aux_request"]
STREAMS: Final = ["stream_objects", "register_stream_processing"]


def idle_jobs(job: JobRuns) -> tuple[ServerJob, ClientJob]:
    """Return a server's and a site's job that are not run."""
    return ServerJob(Flow(lambda controller, fl_ctx: None), **job.place), ClientJob(
        "site-1", FunctionExecutor(echo), **job.place
    )


@pytest.mark.parametrize("name", [*AUX, *STREAMS])
def test_messages_and_streams_of_an_engine_take_nvflare_s_arguments(job: JobRuns, name: str) -> None:
    server, site = idle_jobs(job)
    theirs = (NVFlareStreams, NVFlareStreams) if name in STREAMS else (NVFlareServerEngine, NVFlareSiteEngine)
    for engine, known in zip((server.engine, site.engine), theirs, strict=True):
        wanted = [each for each in parameters(getattr(known, name)) if each not in ("self", "cb_kwargs")]
        assert list(parameters(getattr(engine, name)))[: len(wanted)] == wanted


def test_a_message_without_an_answer_names_its_topic_first(job: JobRuns) -> None:
    for each in idle_jobs(job):
        names = list(parameters(each.engine.fire_and_forget_aux_request))
        assert (names[0], names[-1]) == ("topic", "targets")


def test_names_that_the_page_lists_as_missing_are_missing(job: JobRuns) -> None:
    server, site = idle_jobs(job)
    assert not [
        name for name in ("get_cell", "build_component") for each in (server, site) if hasattr(each.engine, name)
    ]
    absent = ["TaskController", "WFCommClient", "DXOFilter", "AnalyticsData"]
    assert not [name for name in absent if hasattr(redflare_workers, name)]


def test_every_row_of_the_page_is_shown() -> None:
    rows = differences()
    assert len(rows) == 41
    assert set(rows) == SHOWN
