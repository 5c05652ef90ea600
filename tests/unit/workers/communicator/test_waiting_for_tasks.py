"""``*_and_wait``, cancelling, and the end of the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, SendOrder, Task, TaskCompletionStatus
from redflare_workers.communicator.wf_comm_server import WFCommServer

from tests.support.calls import in_thread
from tests.support.communicator.bench import CommunicatorBench, Gate
from tests.support.communicator.local_engine import LocalEngine
from tests.support.waiting import wait_until

AND_WAIT = {
    "broadcast_and_wait": lambda bench, task, signal: bench.comm.broadcast_and_wait(
        task, bench.ctx, ["site-1"], 1, 0, signal
    ),
    "send_and_wait": lambda bench, task, signal: bench.comm.send_and_wait(
        task, bench.ctx, ["site-1"], SendOrder.ANY, 0, signal
    ),
    "relay_and_wait": lambda bench, task, signal: bench.comm.relay_and_wait(
        task, bench.ctx, ["site-1"], SendOrder.ANY, 0, 0, False, signal
    ),
}
every_wait = pytest.mark.parametrize("wait", AND_WAIT.values(), ids=AND_WAIT.keys())
Wait = Callable[[CommunicatorBench, Task, Any], None]


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    with CommunicatorBench(["site-1", "site-2"], monitor=True) as bench:
        yield bench


@every_wait
def test_it_returns_after_task_done_has_run(bench: CommunicatorBench, wait: Wait) -> None:
    gate, events = Gate(), list[str]()

    def done(**arguments: Any) -> None:
        gate()
        events.append("done")

    task = bench.task(task_done_cb=done)

    def wait_for_it() -> None:
        wait(bench, task, None)
        events.append("returned")

    thread = in_thread(wait_for_it)
    wait_until(lambda: task.is_standing)
    bench.do("site-1")
    assert gate.entered.wait(10)
    assert events == []
    gate.opened.set()
    thread.join()
    assert events == ["done", "returned"]
    assert task.completion_status is TaskCompletionStatus.OK


def test_it_returns_after_the_callback_of_a_result_that_the_task_did_not_need(bench: CommunicatorBench) -> None:
    gate, events = Gate(), list[str]()

    def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
        if client_task.client.name == "site-2":
            gate()
        events.append(client_task.client.name)

    def wait_for_it() -> None:
        bench.comm.broadcast_and_wait(task, bench.ctx, ["site-1", "site-2"], 1, 1)
        events.append("returned")

    task = bench.task(result_received_cb=received)
    waiting = in_thread(wait_for_it)
    wait_until(lambda: task.is_standing)
    second = bench.ask("site-2")
    bench.do("site-1")
    answering = in_thread(bench.answer, "site-2", second)
    assert gate.entered.wait(10)
    # enough results are in, and the time for others is over: the task ends while a callback runs
    bench.check(after=2)
    wait_until(lambda: task.completion_status is not None)
    wait_until(lambda: [ended for ended, _ in bench.observer.ends] == [task])
    assert events == ["site-1"]
    gate.opened.set()
    waiting.join(10)
    answering.join(10)
    assert events == ["site-1", "site-2", "returned"]


@every_wait
def test_the_abort_signal_ends_the_task_and_the_wait(bench: CommunicatorBench, wait: Wait) -> None:
    signal, done = Signal(), threading.Event()
    task = bench.task(task_done_cb=lambda task, fl_ctx: done.set())
    thread = in_thread(lambda: wait(bench, task, signal))
    wait_until(lambda: task.is_standing)
    signal.trigger("enough")
    thread.join(10)
    assert not thread.is_alive()
    assert task.completion_status is TaskCompletionStatus.ABORTED
    assert done.wait(10)


@every_wait
def test_a_signal_that_is_triggered_already_ends_the_task_at_once(bench: CommunicatorBench, wait: Wait) -> None:
    signal = Signal()
    signal.trigger("enough")
    task = bench.task()
    wait(bench, task, signal)
    assert task.completion_status is TaskCompletionStatus.ABORTED
    assert not task.is_standing


class OldSignal:
    """A signal that cannot call back."""

    triggered = False


def test_a_signal_without_callbacks_is_polled(bench: CommunicatorBench) -> None:
    signal, task = OldSignal(), bench.task()
    thread = in_thread(lambda: bench.comm.broadcast_and_wait(task, bench.ctx, abort_signal=signal))  # type: ignore[arg-type]
    wait_until(lambda: task.is_standing)
    signal.triggered = True
    thread.join(10)
    assert task.completion_status is TaskCompletionStatus.ABORTED


def test_an_abort_does_not_change_how_a_task_ended(bench: CommunicatorBench) -> None:
    signal, gate = Signal(), Gate()
    task = bench.task(task_done_cb=gate)
    thread = in_thread(lambda: bench.comm.broadcast_and_wait(task, bench.ctx, ["site-1"], abort_signal=signal))
    wait_until(lambda: task.is_standing)
    bench.do("site-1")
    assert gate.entered.wait(10)
    signal.trigger("too late")
    thread.join(10)
    assert task.completion_status is TaskCompletionStatus.OK
    gate.opened.set()


def test_it_leaves_nothing_behind_at_the_signal(bench: CommunicatorBench) -> None:
    signal, task = Signal(), bench.task()
    thread = in_thread(lambda: bench.comm.broadcast_and_wait(task, bench.ctx, ["site-1"], abort_signal=signal))
    wait_until(lambda: task.is_standing)
    bench.do("site-1")
    thread.join()
    assert "callbacks=0" in repr(signal)


def test_many_may_wait_for_one_task(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    threads = [in_thread(lambda: bench.comm.wait_for_task(task)) for _ in range(5)]
    bench.do("site-1")
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_finished_task_is_not_waited_for(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast_and_wait(task, bench.ctx, abort_signal=_triggered())
    bench.settle(task)
    bench.comm.wait_for_task(task)


def test_a_task_that_was_never_scheduled_cannot_be_waited_for(bench: CommunicatorBench) -> None:
    with pytest.raises(ValueError, match="'train' was never scheduled"):
        bench.comm.wait_for_task(bench.task())


def _triggered() -> Signal:
    signal = Signal()
    signal.trigger("now")
    return signal


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_a_cancelled_task_ends_at_once_and_calls_task_done(bench: CommunicatorBench) -> None:
    ends: list[TaskCompletionStatus | None] = []
    task = bench.task(task_done_cb=lambda task, fl_ctx: ends.append(task.completion_status))
    bench.comm.broadcast(task, bench.ctx)
    bench.comm.cancel_task(task)
    assert not task.is_standing
    assert bench.comm.get_num_standing_tasks() == 0
    bench.settle(task)
    assert ends == [TaskCompletionStatus.CANCELLED]


def test_a_task_may_be_cancelled_with_another_status(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    bench.comm.cancel_task(task, TaskCompletionStatus.IGNORED, bench.ctx)
    assert task.completion_status is TaskCompletionStatus.IGNORED


def test_cancelling_does_not_overwrite_a_final_status(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    bench.do("site-1")
    bench.settle(task)
    bench.comm.cancel_task(task)
    assert task.completion_status is TaskCompletionStatus.OK


def test_cancelling_does_not_overwrite_a_status_set_by_the_user(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task.completion_status = TaskCompletionStatus.IGNORED
    bench.comm.cancel_task(task)
    assert task.completion_status is TaskCompletionStatus.IGNORED


def test_cancelling_a_task_that_is_not_standing_has_no_effect(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.cancel_task(task)
    assert task.completion_status is None
    bench.comm.broadcast(task, bench.ctx)
    assert task.is_standing


def test_all_standing_tasks_can_be_cancelled(bench: CommunicatorBench) -> None:
    tasks = [bench.task() for _ in range(3)]
    for task in tasks:
        bench.comm.broadcast(task, bench.ctx)
    assert bench.comm.get_num_standing_tasks() == 3
    bench.comm.cancel_all_tasks(TaskCompletionStatus.ABORTED)
    assert [task.completion_status for task in tasks] == [TaskCompletionStatus.ABORTED] * 3
    assert bench.comm.get_num_standing_tasks() == 0


def test_a_cancelled_task_is_sent_to_no_client(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    assert bench.ask("site-1")
    bench.comm.cancel_task(task)
    assert bench.ask("site-1") == ""
    assert bench.ask("site-2") == ""


# -- the run -----------------------------------------------------------------------------------------------------------


def test_the_end_of_the_run_cancels_standing_tasks_and_leaves_no_thread() -> None:
    threads = set(threading.enumerate())
    bench = CommunicatorBench(["site-1"], monitor=True)
    done: list[Task] = []
    tasks = [bench.task(task_done_cb=lambda task, fl_ctx: done.append(task)) for _ in range(3)]
    for task in tasks:
        bench.comm.broadcast(task, bench.ctx)
    bench.comm.finalize_run(bench.ctx)
    assert sorted(map(id, done)) == sorted(map(id, tasks))
    assert {task.completion_status for task in tasks} == {TaskCompletionStatus.CANCELLED}
    # those of tests before may end meanwhile
    assert set(threading.enumerate()) <= threads
    bench.comm.finalize_run(bench.ctx)


def test_a_run_that_never_began_can_be_ended() -> None:
    bench = CommunicatorBench()
    bench.comm.finalize_run(bench.ctx)


def test_a_communicator_serves_one_run(bench: CommunicatorBench) -> None:
    with pytest.raises(RuntimeError, match="was initialized already"):
        bench.comm.initialize_run(bench.ctx)


def test_without_an_engine_there_is_no_run(caplog: pytest.LogCaptureFixture) -> None:

    WFCommServer().initialize_run(FLContext())
    assert "WFCommServer needs an engine" in caplog.text


def test_without_a_job_there_is_no_run() -> None:
    comm, nowhere, engine = WFCommServer(), LocalEngine(["site-1"], job_id=""), LocalEngine(["site-1"])
    comm.initialize_run(nowhere.new_context())
    assert nowhere.panics == ["WFCommServer needs the id of a job, and the context has none"]
    # nothing has begun: it is initialized when there is one
    comm.initialize_run(engine.new_context())
    comm.finalize_run(engine.new_context())


def test_tasks_scheduled_before_the_run_are_checked_when_it_begins() -> None:
    with CommunicatorBench(["site-1"]) as bench:
        task = bench.task()
        bench.comm.broadcast(task, bench.ctx)
        bench.do("site-1")
        assert task.completion_status is None
        bench.comm.initialize_run(bench.ctx)
        bench.settle(task)
        assert task.completion_status is TaskCompletionStatus.OK


# -- what waiting returns ----------------------------------------------------------------------------------------------


def test_broadcast_and_wait_returns_status_and_results_by_name(bench: CommunicatorBench) -> None:
    task = bench.task(result_received_cb=lambda client_task, fl_ctx: None)
    ended = ThreadPoolExecutor(1).submit(bench.comm.broadcast_and_wait, task, bench.ctx, ["site-1", "site-2"])
    wait_until(lambda: task.is_standing)
    for name in ("site-1", "site-2"):
        bench.answer(name, bench.ask(name), result=Shareable({"of": name}))
    status, results = ended.result(10)
    assert status is TaskCompletionStatus.OK
    assert {name: result["of"] for name, result in results.items()} == {"site-1": "site-1", "site-2": "site-2"}


@pytest.mark.parametrize("method", ["send_and_wait", "relay_and_wait"])
def test_send_and_relay_return_status_and_the_last_result(bench: CommunicatorBench, method: str) -> None:
    task = bench.task()
    ended = ThreadPoolExecutor(1).submit(getattr(bench.comm, method), task, bench.ctx, ["site-1", "site-2"])
    wait_until(lambda: task.is_standing)
    for name in ("site-1", "site-2") if method == "relay_and_wait" else ("site-1",):
        bench.answer(name, bench.ask(name), result=Shareable({"of": name}))
    status, result = ended.result(10)
    assert status is TaskCompletionStatus.OK
    assert result["of"] == ("site-2" if method == "relay_and_wait" else "site-1")


def test_without_an_answer_there_is_no_result(bench: CommunicatorBench) -> None:
    task = bench.task(timeout=5)
    ended = ThreadPoolExecutor(1).submit(bench.comm.send_and_wait, task, bench.ctx, ["site-1"])
    wait_until(lambda: task.is_standing)
    bench.ask("site-1")
    bench.clock.now += 5
    bench.settle(task)
    assert ended.result(10) == (TaskCompletionStatus.TIMEOUT, None)
