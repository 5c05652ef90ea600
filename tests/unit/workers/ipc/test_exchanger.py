"""The CJ's side, checked against an agent on fakeredis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from redflare_broker.constants import RC, TaskResult
from redflare_broker.errors import EncodeError
from redflare_broker.link.agent_link import ReceivedTask
from redflare_broker.testing.plugin import FakeAgent, LinkUnderTest
from redflare_workers.apis import DXO, DataKind, FLContext, ReturnCode, Shareable, Signal, from_shareable
from redflare_workers.apis.app_constant import AppConstants
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContextManager
from redflare_workers.apis.shareable import ReservedHeaderKey
from redflare_workers.ipc.exchanger import IPCExchanger, TaskAborted, TaskRejected, TaskTimeout

from tests.support.link.blocked import until_blocked
from tests.support.waiting import wait_until


def echo(task: ReceivedTask) -> TaskResult:
    return TaskResult({"had": task.meta}, task.data)


class Engine:
    """What an executor needs of its engine: contexts, and events."""

    def __init__(self, job_meta: dict[str, Any] | None = None) -> None:
        self.events: list[tuple[str, Any]] = []
        public = {FLContextKey.JOB_META: job_meta} if job_meta is not None else {}
        self._contexts = FLContextManager(
            engine=self, identity_name="site-1", job_id="job-1", public_stickers={}, private_stickers=public
        )

    def new_context(self) -> FLContext:
        return self._contexts.new_context()

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.events.append((event_type, fl_ctx.get_prop(FLContextKey.EVENT_DATA)))


@contextmanager
def running(link: LinkUnderTest, **args: Any) -> Iterator[tuple[IPCExchanger, FLContext]]:
    """An exchanger between START_RUN and END_RUN."""
    exchanger = IPCExchanger(**{**link.exchanger_args, **args})
    ctx = Engine().new_context()
    exchanger.handle_event(EventType.START_RUN, ctx)
    try:
        yield exchanger, ctx
    finally:
        exchanger.handle_event(EventType.END_RUN, ctx)


def a_task(data: dict[str, Any] | None = None, kind: str = DataKind.WEIGHTS, task_id: str = "") -> Shareable:
    shareable = DXO(data_kind=kind, data={"w": 1.0} if data is None else data, meta={"mine": 7}).to_shareable()
    if task_id:
        shareable.set_header(ReservedHeaderKey.TASK_ID, task_id)
    return shareable


def test_run_returns_the_agents_result(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(echo), IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        result = exchanger.run("train", {"w": np.ones(2)}, {"round": 3}, timeout=10)
    assert result.return_code == RC.OK
    assert result.meta == {"had": {"round": 3}}
    np.testing.assert_array_equal(result.data["w"], [1.0, 1.0])


def test_run_without_a_result_in_time_aborts_the_task(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger, pytest.raises(TaskTimeout, match=r"0\.1 s"):
        exchanger.run("train", {}, timeout=0.1, task_id="t")
    assert redflare_link.client.hget(f"flare:{{{redflare_link.fqcn}}}:task:t", "status") == b"ABORTED"  # type: ignore[attr-defined]


def test_an_agent_that_starts_later_finds_the_task(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        results: list[TaskResult] = []
        asking = threading.Thread(target=lambda: results.append(exchanger.run("train", 5, timeout=10)))
        asking.start()
        until_blocked(exchanger)
        with redflare_link.agent(echo):
            asking.join(10)
    assert results[0].data == 5


def test_what_cannot_be_sent_is_refused_before_anything_is_written(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger, pytest.raises(EncodeError, match="data"):
        exchanger.run("train", {"x": object()}, task_id="t")
    assert not redflare_link.client.exists(f"flare:{{{redflare_link.fqcn}}}:task:t")  # type: ignore[attr-defined]


def test_a_second_task_at_once_is_refused(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        aborted: list[Exception] = []

        def ask() -> None:
            try:
                exchanger.run("train", {})
            except TaskAborted as exc:
                aborted.append(exc)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(exchanger._busy.locked)
        with pytest.raises(RuntimeError, match="in progress"):
            exchanger.run("train", {})
        exchanger.abort("no longer needed")
        asking.join(5)
        assert "no longer needed" in str(aborted[0])


def test_run_before_start_is_refused(redflare_link: LinkUnderTest) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        IPCExchanger(**redflare_link.exchanger_args).run("train", {})


def test_stop_ends_a_task_in_progress(redflare_link: LinkUnderTest) -> None:
    exchanger = IPCExchanger(**redflare_link.exchanger_args)
    exchanger.start()
    ended: list[str] = []

    def ask() -> None:
        try:
            exchanger.run("train", {})
        except TaskAborted as exc:
            ended.append(str(exc))

    asking = threading.Thread(target=ask)
    asking.start()
    until_blocked(exchanger)
    began = time.monotonic()
    exchanger.stop()
    asking.join(5)
    assert "stopped" in ended[0]
    assert time.monotonic() - began < 3


def test_the_same_task_id_gives_the_same_result_without_the_work_done_twice(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(echo) as agent:
        for _ in range(2):
            with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
                assert exchanger.run("train", {"x": 1}, timeout=10, task_id="t").data == {"x": 1}
                exchanger._link.close(bye=False)  # type: ignore[union-attr]
                exchanger._link.close = lambda *, bye: None  # type: ignore[union-attr, method-assign]
    assert len(agent.received) == 1


def test_execute_returns_a_dxo_with_the_agents_result(redflare_link: LinkUnderTest) -> None:
    def train(task: ReceivedTask) -> TaskResult:
        return TaskResult({"data_kind": DataKind.WEIGHT_DIFF, "NUM_STEPS_CURRENT_ROUND": 4}, {"w": 2.0})

    shareable = a_task()
    shareable.set_header(AppConstants.CURRENT_ROUND, 2)
    shareable.set_header(AppConstants.NUM_ROUNDS, 5)
    with redflare_link.agent(train) as agent, running(redflare_link) as (exchanger, ctx):
        reply = exchanger.execute("train", shareable, ctx, Signal())
    dxo = from_shareable(reply)
    assert reply.get_return_code() == ReturnCode.OK
    assert (dxo.data_kind, dxo.data) == (DataKind.WEIGHT_DIFF, {"w": 2.0})
    assert dxo.get_meta_prop("NUM_STEPS_CURRENT_ROUND") == 4
    assert agent.received[0].data == {"w": 1.0}
    assert agent.received[0].meta == {"mine": 7, "data_kind": "WEIGHTS", "current_round": 2, "total_round": 5}


def test_a_result_without_a_kind_is_weights(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(lambda task: TaskResult({}, {"w": 1})), running(redflare_link) as (exchanger, ctx):
        assert from_shareable(exchanger.execute("train", a_task(), ctx, Signal())).data_kind == DataKind.WEIGHTS


def test_an_app_defined_task_gives_an_app_defined_result(redflare_link: LinkUnderTest) -> None:
    with (
        redflare_link.agent(lambda task: TaskResult({"data_kind": "WEIGHTS"}, {"x": 1})),
        running(redflare_link) as (exchanger, ctx),
    ):
        reply = exchanger.execute("train", a_task(kind=DataKind.APP_DEFINED), ctx, Signal())
    assert from_shareable(reply).data_kind == DataKind.APP_DEFINED


@pytest.mark.parametrize("rc", [RC.BAD_TASK_DATA, RC.EXECUTION_EXCEPTION, "MY_OWN_CODE"])
def test_an_error_code_of_the_agent_is_the_return_code_of_the_reply(redflare_link: LinkUnderTest, rc: str) -> None:
    with redflare_link.agent(lambda task: TaskResult({}, {}, rc)), running(redflare_link) as (exchanger, ctx):
        assert exchanger.execute("train", a_task(), ctx, Signal()).get_return_code() == rc


def test_the_reply_says_why_the_agent_failed(redflare_link: LinkUnderTest) -> None:
    failed = TaskResult({"exception": "ValueError: no data"}, None, RC.EXECUTION_EXCEPTION)
    with redflare_link.agent(lambda task: failed), running(redflare_link) as (exchanger, ctx):
        reply = exchanger.execute("train", a_task(), ctx, Signal())
        assert (
            reply.get_header(ReservedHeaderKey.ERROR) == "the agent answered EXECUTION_EXCEPTION: ValueError: no data"
        )
        reply = exchanger.execute("train", Shareable(), ctx, Signal())
        assert "holds no DXO" in reply.get_header(ReservedHeaderKey.ERROR)


def test_early_termination_carries_its_data(redflare_link: LinkUnderTest) -> None:
    with (
        redflare_link.agent(lambda task: TaskResult({}, {"w": 3}, RC.EARLY_TERMINATION)),
        running(redflare_link) as (exchanger, ctx),
    ):
        reply = exchanger.execute("train", a_task(), ctx, Signal())
    assert reply.get_return_code() == RC.EARLY_TERMINATION
    assert from_shareable(reply).data == {"w": 3}


def test_a_shareable_without_a_dxo_is_bad_task_data(redflare_link: LinkUnderTest) -> None:
    with running(redflare_link) as (exchanger, ctx):
        assert exchanger.execute("train", Shareable(), ctx, Signal()).get_return_code() == ReturnCode.BAD_TASK_DATA


def test_a_task_in_progress_is_bad_request_data(redflare_link: LinkUnderTest) -> None:
    signal = Signal()
    with running(redflare_link) as (exchanger, ctx):
        replies: list[Shareable] = []
        asking = threading.Thread(target=lambda: replies.append(exchanger.execute("train", a_task(), ctx, signal)))
        asking.start()
        wait_until(exchanger._busy.locked)
        second = exchanger.execute("train", a_task(), ctx, Signal())
        assert second.get_return_code() == ReturnCode.BAD_REQUEST_DATA
        signal.trigger(True)
        asking.join(5)
    assert replies[0].get_return_code() == ReturnCode.TASK_ABORTED


def test_the_abort_signal_aborts_the_task_and_reaches_the_agent(redflare_link: LinkUnderTest) -> None:
    signal = Signal()
    reached = threading.Event()
    agents: list[FakeAgent] = []

    def train(task: ReceivedTask) -> TaskResult:
        reached.set()
        wait_until(lambda: task.task_id in agents[0].aborted)
        return TaskResult({}, {})

    with redflare_link.agent(train) as agent, running(redflare_link) as (exchanger, ctx):
        agents.append(agent)
        replies: list[Shareable] = []
        asking = threading.Thread(target=lambda: replies.append(exchanger.execute("train", a_task(), ctx, signal)))
        asking.start()
        assert reached.wait(5)
        signal.trigger(True)
        asking.join(5)
        assert replies[0].get_return_code() == ReturnCode.TASK_ABORTED


def test_a_signal_without_callbacks_is_polled(redflare_link: LinkUnderTest) -> None:
    class PlainSignal:
        triggered = False

    signal = PlainSignal()
    with running(redflare_link) as (exchanger, ctx):
        replies: list[Shareable] = []
        asking = threading.Thread(target=lambda: replies.append(exchanger.execute("train", a_task(), ctx, signal)))  # type: ignore[arg-type]
        asking.start()
        until_blocked(exchanger)
        signal.triggered = True
        asking.join(5)
        assert not asking.is_alive()
    assert replies[0].get_return_code() == ReturnCode.TASK_ABORTED


def test_execute_after_end_run_is_task_aborted(redflare_link: LinkUnderTest) -> None:
    with running(redflare_link) as (exchanger, ctx):
        pass
    assert exchanger.execute("train", a_task(), ctx, Signal()).get_return_code() == ReturnCode.TASK_ABORTED


def test_the_agents_name_comes_from_the_jobs_meta(redflare_link: LinkUnderTest) -> None:
    exchanger = IPCExchanger(**{**redflare_link.exchanger_args, "agent_id": None, "site_name": None})
    engine = Engine({"agent_id": "from-meta"})
    exchanger.handle_event(EventType.START_RUN, engine.new_context())
    assert exchanger.fqcn == "site-1--from-meta"
    exchanger.handle_event(EventType.END_RUN, engine.new_context())


@pytest.mark.parametrize(
    ("meta", "message"), [({}, "no agent_id"), ({"agent_id": 5}, "must be a str"), (None, "no agent")]
)
def test_a_missing_or_wrong_agent_id_makes_the_job_panic(
    redflare_link: LinkUnderTest, meta: dict[str, Any] | None, message: str
) -> None:
    exchanger = IPCExchanger(**{**redflare_link.exchanger_args, "agent_id": None})
    engine = Engine(meta)
    exchanger.handle_event(EventType.START_RUN, engine.new_context())
    assert [event for event, _ in engine.events] == [EventType.FATAL_SYSTEM_ERROR]
    assert message in engine.events[0][1]
    assert exchanger.execute("t", a_task(), engine.new_context(), Signal()).get_return_code() == "TASK_ABORTED"


def test_a_dead_agent_aborts_the_task_and_makes_the_job_panic(redflare_link: LinkUnderTest) -> None:
    exchanger = IPCExchanger(
        **redflare_link.exchanger_args,
        agent_connection_timeout=0.1,
        agent_heartbeat_timeout=0.2,
        agent_heartbeat_interval=0.05,
    )
    engine = Engine()
    ctx = engine.new_context()
    exchanger.handle_event(EventType.START_RUN, ctx)
    assert exchanger.execute("train", a_task(), ctx, Signal()).get_return_code() == ReturnCode.TASK_ABORTED
    wait_until(lambda: bool(engine.events))
    assert engine.events[0][0] == EventType.FATAL_SYSTEM_ERROR
    assert "is gone" in engine.events[0][1]
    exchanger.handle_event(EventType.END_RUN, ctx)


def test_a_newer_cj_ends_the_older_ones_task(redflare_link: LinkUnderTest) -> None:
    older = IPCExchanger(**redflare_link.exchanger_args)
    older.start()
    ended: list[str] = []

    def ask() -> None:
        try:
            older.run("train", {"x": 1}, task_id="t")
        except TaskAborted as exc:
            ended.append(str(exc))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: older._link is not None and older._link.session._blocked is not None)
    with IPCExchanger(**redflare_link.exchanger_args) as newer:
        results: list[TaskResult] = []
        with redflare_link.agent(echo) as agent:
            results.append(newer.run("train", {"x": 1}, timeout=10, task_id="t"))
            asking.join(10)
            assert len(agent.received) == 1
    older.stop()
    assert results[0].data == {"x": 1}
    assert "newer instance" in ended[0] or "taken over" in ended[0]


def test_a_cj_that_was_replaced_does_not_make_its_job_panic(
    redflare_link: LinkUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    """Its job goes on, in the process that has taken over."""
    exchanger, engine = IPCExchanger(**redflare_link.exchanger_args), Engine()
    exchanger.handle_event(EventType.START_RUN, ctx := engine.new_context())
    replies: list[Shareable] = []
    asking = threading.Thread(target=lambda: replies.append(exchanger.execute("train", a_task(), ctx, Signal())))
    asking.start()
    with IPCExchanger(**redflare_link.exchanger_args):
        asking.join(10)
        assert replies[0].get_return_code() == ReturnCode.TASK_ABORTED
        wait_until(lambda: "another client job has taken over this agent" in caplog.text)
    # it waits for the heartbeat thread, which has logged that
    exchanger.handle_event(EventType.END_RUN, ctx)
    assert engine.events == []


def test_every_task_keeps_its_timeout(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(TaskTimeout, match="no result in time"):
                exchanger.run("train", 1, timeout=0.1)
            assert time.monotonic() - began < 3


def test_invalid_entries_in_results_are_buried_and_the_task_works(redflare_link: LinkUnderTest) -> None:
    key = f"flare:{{{redflare_link.fqcn}}}"
    redflare_link.client.xadd(f"{key}:results", {"hello": b"\xff\xfe not ours"})  # type: ignore[attr-defined]
    with redflare_link.agent(echo), IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        assert exchanger.run("train", 1, timeout=10).data == 1
    [(_, fields)] = redflare_link.client.xrange(f"{key}:dead")  # type: ignore[attr-defined]
    assert fields[b"raw.hello"] == b"\xff\xfe not ours"
    assert b"field v is missing" in fields[b"reason"]


def test_invalid_entries_in_tasks_are_buried_and_the_task_works(redflare_link: LinkUnderTest) -> None:
    key = f"flare:{{{redflare_link.fqcn}}}"
    redflare_link.client.xadd(f"{key}:tasks", {"v": "9", "topic": "get_task"})  # type: ignore[attr-defined]
    with redflare_link.agent(echo), IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        assert exchanger.run("train", 1, timeout=10).data == 1
    [(_, fields)] = redflare_link.client.xrange(f"{key}:dead")  # type: ignore[attr-defined]
    assert b"protocol version" in fields[b"reason"]


def test_a_task_that_the_agent_cannot_read_is_rejected_and_the_next_works(redflare_link: LinkUnderTest) -> None:
    key = f"flare:{{{redflare_link.fqcn}}}"
    client: Any = redflare_link.client
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        failed: list[str] = []

        def ask() -> None:
            try:
                exchanger.run("train", {"w": np.ones(3)}, task_id="t")
            except TaskRejected as exc:
                failed.append(str(exc))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: client.xlen(f"{key}:tasks") == 1)
        [(entry_id, fields)] = client.xrange(f"{key}:tasks")
        client.xdel(f"{key}:tasks", entry_id)
        damaged = client.xadd(f"{key}:tasks", {**fields, b"b0": b"too short"})
        client.hset(f"{key}:task:t", "entry", damaged)
        with redflare_link.agent(echo):
            asking.join(10)
            assert "b0" in failed[0] or "size" in failed[0] or "bytes" in failed[0]
            assert exchanger.run("train", 2, timeout=10).data == 2
    assert client.xlen(f"{key}:dead") == 1


def test_a_lost_payload_of_a_task_is_sent_again(redflare_link: LinkUnderTest) -> None:
    client: Any = redflare_link.client
    big = np.arange(50_000.0)
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        results: list[TaskResult] = []
        asking = threading.Thread(target=lambda: results.append(exchanger.run("train", {"w": big}, timeout=20)))
        asking.start()
        wait_until(lambda: client.xlen(f"flare:{{{redflare_link.fqcn}}}:tasks") == 1)
        blobs = list(client.scan_iter("flare:*:blob:*"))
        assert blobs
        client.delete(*blobs)
        with redflare_link.agent(echo) as agent:
            asking.join(20)
        assert len(agent.received) == 1
    np.testing.assert_array_equal(results[0].data["w"], big)
    assert not list(client.scan_iter("flare:*:blob:*"))


def test_two_hundred_exchangers_share_one_thread(redflare_link: LinkUnderTest) -> None:
    before = threading.active_count()
    exchangers = [
        IPCExchanger(**{**redflare_link.exchanger_args, "agent_id": f"agent-{number}"}) for number in range(200)
    ]
    for exchanger in exchangers:
        exchanger.start()
    assert threading.active_count() == before + 1
    for exchanger in exchangers:
        exchanger.stop()
    wait_until(lambda: threading.active_count() == before)
