"""Callbacks of a task: when they run, in which order, under which lock, and what their exceptions do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus
from redflare_workers.communicator.callbacks import Callbacks
from redflare_workers.communicator.comm_observer import CommObserver

from tests.support.calls import in_thread
from tests.support.clock import Clock
from tests.support.communicator.bench import CommunicatorBench, Gate
from tests.support.waiting import wait_until


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    with CommunicatorBench(["site-1", "site-2"], monitor=True) as bench:
        yield bench


class CallbackError(Exception):
    """Raised by callbacks of these tests."""


def failing(**arguments: Any) -> None:
    raise CallbackError("on purpose")


def recording(into: list[str], name: str) -> Callable[..., None]:
    def callback(fl_ctx: FLContext, **arguments: Any) -> None:
        assert isinstance(fl_ctx, FLContext)
        into.append(name)

    return callback


def only(name: str, callback: Callable[..., Any]) -> dict[str, Any]:
    """Return one callback as an argument of a task."""
    return {name: callback}


def recorded(bench: CommunicatorBench, **options: Any) -> tuple[Task, list[str]]:
    """A task, and the list in which its callbacks, except those in ``options``, record their names."""
    calls: list[str] = []
    names = ("before_task_sent_cb", "after_task_sent_cb", "result_received_cb", "task_done_cb")
    callbacks = {name: recording(calls, name.removesuffix("_cb")) for name in names}
    return bench.task(**{**callbacks, **options}), calls


def test_callbacks_run_in_order(bench: CommunicatorBench) -> None:
    task, calls = recorded(bench)
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    bench.do("site-1")
    bench.settle(task)
    assert calls == ["before_task_sent", "after_task_sent", "result_received", "task_done"]
    assert task.completion_status is TaskCompletionStatus.OK


def test_callbacks_around_sending_run_at_each_resend(bench: CommunicatorBench) -> None:
    task, calls = recorded(bench)
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    bench.ask("site-1")
    bench.ask("site-1")
    assert calls == ["before_task_sent", "after_task_sent"] * 2


def test_callbacks_get_the_context_of_the_request(bench: CommunicatorBench) -> None:
    contexts: list[FLContext] = []
    task = bench.task(before_task_sent_cb=lambda client_task, fl_ctx: contexts.append(fl_ctx))
    bench.comm.broadcast(task, bench.ctx)
    mine = bench.engine.new_context()
    bench.ask("site-1", mine)
    assert contexts == [mine]


def test_task_done_gets_a_context_of_its_own_with_the_engine(bench: CommunicatorBench) -> None:
    engines: list[Any] = []
    task = bench.task(task_done_cb=lambda task, fl_ctx: engines.append(fl_ctx.get_engine()))
    bench.comm.broadcast(task, bench.ctx)
    bench.comm.cancel_task(task)
    bench.settle(task)
    assert engines == [bench.engine]


def test_before_the_sending_nothing_of_it_counts_yet(bench: CommunicatorBench) -> None:
    counts: list[int] = []
    task = bench.task(before_task_sent_cb=lambda client_task, fl_ctx: counts.append(client_task.task_send_count))
    bench.comm.broadcast(task, bench.ctx)
    bench.ask("site-1")
    bench.ask("site-1")
    assert counts == [0, 1]


def test_the_result_can_be_replaced_by_its_callback(bench: CommunicatorBench) -> None:
    def shorten(client_task: ClientTask, fl_ctx: FLContext) -> None:
        assert client_task.result_received_time is None
        client_task.result = "short"

    task = bench.task(result_received_cb=shorten)
    bench.comm.broadcast(task, bench.ctx)
    bench.do("site-1")
    assert task.client_tasks[0].result == "short"


def test_the_data_may_be_taken_away_after_the_sending(bench: CommunicatorBench) -> None:
    def take_away(client_task: ClientTask, fl_ctx: FLContext) -> None:
        client_task.task.data = Shareable()

    bench.comm.send(bench.task(data={"x": 1}, after_task_sent_cb=take_away), bench.ctx, ["site-1"])
    data = bench.ask_fully("site-1")[2]
    assert data is not None
    assert data["x"] == 1


# -- exceptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", ["before_task_sent_cb", "after_task_sent_cb"])
def test_an_exception_around_sending_ends_the_task_and_nothing_is_sent(bench: CommunicatorBench, callback: str) -> None:
    task, calls = recorded(bench, **{callback: failing})
    bench.comm.broadcast(task, bench.ctx)
    assert bench.ask_fully("site-1") == ("", "", None)
    bench.settle(task)
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert isinstance(task.exception, CallbackError)
    assert task.client_tasks == []
    assert sorted(calls) == sorted({"before_task_sent", "after_task_sent", "task_done"} - {callback[:-3]})


def test_an_exception_at_a_result_ends_the_task_and_the_result_counts_as_received(bench: CommunicatorBench) -> None:
    task, calls = recorded(bench, result_received_cb=failing)
    bench.comm.broadcast(task, bench.ctx)
    bench.do("site-1")
    bench.settle(task)
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert isinstance(task.exception, CallbackError)
    assert task.client_tasks[0].result_received_time is not None
    assert calls[-1] == "task_done"


def test_an_exception_when_the_task_is_done_makes_it_an_error(bench: CommunicatorBench) -> None:
    task = bench.task(task_done_cb=failing)
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    bench.do("site-1")
    bench.settle(task)
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert isinstance(task.exception, CallbackError)


def test_an_exception_is_logged_with_task_and_client(
    bench: CommunicatorBench, caplog: pytest.LogCaptureFixture
) -> None:
    task = bench.task(before_task_sent_cb=failing)
    bench.comm.broadcast(task, bench.ctx)
    bench.ask("site-1")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info
    for part in ("'train'", "site-1", "before_task_sent_cb", "on purpose"):
        assert part in record.getMessage()


@pytest.mark.parametrize("callback", ["before_task_sent_cb", "after_task_sent_cb", "result_received_cb"])
def test_other_tasks_continue_after_an_exception(bench: CommunicatorBench, callback: str) -> None:
    bench.comm.broadcast(bench.task("bad", **only(callback, failing)), bench.ctx)
    bench.comm.broadcast(bench.task("good"), bench.ctx)
    name, task_id, _ = bench.ask_fully("site-1")
    if task_id:
        bench.answer("site-1", task_id, name)
    name, task_id, _ = bench.ask_fully("site-1")
    assert name == "good"
    bench.answer("site-1", task_id, "good")


# -- what a callback may do --------------------------------------------------------------------------------------------


def test_a_status_set_before_the_sending_keeps_it_from_being_sent(bench: CommunicatorBench) -> None:
    def end(client_task: ClientTask, fl_ctx: FLContext) -> None:
        client_task.task.completion_status = TaskCompletionStatus.IGNORED

    task, calls = recorded(bench, before_task_sent_cb=end)
    bench.comm.broadcast(task, bench.ctx)
    assert bench.ask("site-1") == ""
    bench.settle(task)
    assert task.completion_status is TaskCompletionStatus.IGNORED
    assert calls == ["after_task_sent", "task_done"]
    assert task.client_tasks == []


def test_the_data_of_a_task_that_its_callback_ends_is_not_stored(bench: CommunicatorBench) -> None:
    protected: list[Task] = []

    class Protecting(CommObserver):
        def protect(self, task: Task, data: Any) -> Any:
            protected.append(task)
            return super().protect(task, data)

    def end(client_task: ClientTask, fl_ctx: FLContext) -> None:
        client_task.task.completion_status = TaskCompletionStatus.IGNORED

    bench.comm.observer = Protecting()
    task, other = bench.task(before_task_sent_cb=end), bench.task()
    bench.comm.broadcast(task, bench.ctx)
    bench.comm.broadcast(other, bench.ctx)
    assert bench.ask("site-1") == ""
    bench.settle(task)
    assert bench.ask("site-1") != ""
    assert protected == [other]


@pytest.mark.parametrize("callback", ["before_task_sent_cb", "after_task_sent_cb", "result_received_cb"])
def test_a_callback_may_cancel_its_own_task(bench: CommunicatorBench, callback: str) -> None:
    def cancel(client_task: ClientTask, fl_ctx: FLContext) -> None:
        bench.comm.cancel_task(client_task.task)

    task, calls = recorded(bench, **{callback: cancel})
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.ask("site-1")
    if callback == "result_received_cb":
        bench.answer("site-1", task_id)
    else:
        assert task_id == ""
    bench.settle(task)
    assert task.completion_status is TaskCompletionStatus.CANCELLED
    assert calls.count("task_done") == 1


ALL_CALLBACKS = ["before_task_sent_cb", "after_task_sent_cb", "result_received_cb", "task_done_cb"]


@pytest.mark.parametrize("callback", ALL_CALLBACKS)
def test_a_callback_may_schedule_another_task(bench: CommunicatorBench, callback: str) -> None:
    def schedule(fl_ctx: FLContext, **arguments: Any) -> None:
        bench.comm.broadcast(bench.task("another"), fl_ctx, ["site-2"])

    task = bench.task(**only(callback, schedule))
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    bench.do("site-1")
    bench.settle(task)
    assert bench.ask_fully("site-2")[0] == "another"


@pytest.mark.parametrize("callback", ALL_CALLBACKS)
def test_a_callback_may_schedule_another_task_and_wait_for_it(bench: CommunicatorBench, callback: str) -> None:
    inner: list[Task] = []

    def schedule(fl_ctx: FLContext, **arguments: Any) -> None:
        inner.append(bench.task("inner"))
        bench.comm.send_and_wait(inner[0], fl_ctx, ["site-2"])

    task = bench.task(**only(callback, schedule))
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    thread = in_thread(lambda: bench.do("site-1"))
    wait_until(lambda: inner and inner[0].is_standing)
    bench.do("site-2", "inner")
    thread.join(10)
    bench.settle(task)
    assert task.completion_status is TaskCompletionStatus.OK
    assert inner[0].completion_status is TaskCompletionStatus.OK


@pytest.mark.parametrize("callback", ALL_CALLBACKS)
def test_a_callback_may_cancel_all_tasks(bench: CommunicatorBench, callback: str) -> None:
    other = bench.task("other")
    bench.comm.broadcast(other, bench.ctx, ["site-2"])
    task = bench.task(**only(callback, lambda fl_ctx, **arguments: bench.comm.cancel_all_tasks()))
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    task_id = bench.ask("site-1")
    if task_id:
        bench.answer("site-1", task_id)
    bench.settle(task)
    bench.settle(other)
    assert other.completion_status is TaskCompletionStatus.CANCELLED


def test_two_callbacks_that_cancel_each_others_tasks_do_not_deadlock(bench: CommunicatorBench) -> None:
    meet = threading.Barrier(2)
    tasks: list[Task] = []

    def cancel_other(client_task: ClientTask, fl_ctx: FLContext) -> None:
        meet.wait(10)
        bench.comm.cancel_task(tasks[1 - tasks.index(client_task.task)])

    tasks += [bench.task("one", before_task_sent_cb=cancel_other), bench.task("two", before_task_sent_cb=cancel_other)]
    bench.comm.broadcast(tasks[0], bench.ctx, ["site-1"])
    bench.comm.broadcast(tasks[1], bench.ctx, ["site-2"])
    threads = [in_thread(bench.ask, name) for name in ("site-1", "site-2")]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    for task in tasks:
        bench.settle(task)
        assert task.completion_status is TaskCompletionStatus.CANCELLED


def test_a_callback_cannot_wait_for_its_own_task(bench: CommunicatorBench) -> None:
    def wait(client_task: ClientTask, fl_ctx: FLContext) -> None:
        bench.comm.wait_for_task(client_task.task)

    task = bench.task(before_task_sent_cb=wait)
    bench.comm.broadcast(task, bench.ctx)
    bench.ask("site-1")
    bench.settle(task)
    assert "would wait for itself" in str(task.exception)


def test_a_callback_that_asks_for_its_own_client_gets_nothing(bench: CommunicatorBench) -> None:
    answers: list[str] = []

    def ask(client_task: ClientTask, fl_ctx: FLContext) -> None:
        answers.append(bench.ask(client_task.client.name))

    bench.comm.broadcast(bench.task(before_task_sent_cb=ask), bench.ctx)
    assert bench.ask("site-1")
    assert answers == [""]


def test_the_run_may_end_in_a_callback(bench: CommunicatorBench) -> None:
    task = bench.task("last", task_done_cb=lambda task, fl_ctx: bench.comm.finalize_run(fl_ctx))
    bench.comm.broadcast(task, bench.ctx)
    bench.comm.cancel_task(task)
    bench.settle(task)
    assert bench.comm.get_num_standing_tasks() == 0


# -- one at a time -----------------------------------------------------------------------------------------------------


def test_callbacks_of_one_task_run_one_at_a_time(bench: CommunicatorBench) -> None:
    inside = most = runs = 0

    def work(**arguments: Any) -> None:
        nonlocal inside, most, runs
        inside += 1
        most = max(most, inside)
        runs += 1
        inside -= 1

    names = [f"site-{number}" for number in range(20)]
    task = bench.task(before_task_sent_cb=work, after_task_sent_cb=work, result_received_cb=work, task_done_cb=work)
    bench.comm.broadcast(task, bench.ctx, list(names))
    threads = [in_thread(bench.do, name) for name in names]
    for thread in threads:
        thread.join()
    bench.settle(task)
    assert (most, runs) == (1, 61)


def test_a_callback_of_one_task_does_not_keep_another_task_waiting(bench: CommunicatorBench) -> None:
    gate = Gate()
    bench.comm.send(bench.task("stuck", before_task_sent_cb=gate), bench.ctx, ["site-1"])
    bench.comm.broadcast(bench.task("free", before_task_sent_cb=lambda **arguments: None), bench.ctx, ["site-2"])
    thread = in_thread(lambda: bench.ask("site-1"))
    assert gate.entered.wait(10)
    assert bench.do("site-2", "free")
    gate.opened.set()
    thread.join()


def test_task_done_waits_for_a_callback_that_still_runs(bench: CommunicatorBench) -> None:
    gate = Gate()
    task, calls = recorded(bench, result_received_cb=gate)
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    thread = in_thread(lambda: bench.do("site-1"))
    assert gate.entered.wait(10)
    bench.comm.cancel_task(task)
    assert "task_done" not in calls
    gate.opened.set()
    thread.join()
    bench.settle(task)
    assert calls[-1] == "task_done"


def test_the_callback_lock_is_the_tasks_own(bench: CommunicatorBench) -> None:
    held: list[bool] = []
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task.before_task_sent_cb = lambda client_task, fl_ctx: held.append(task.cb_lock.acquire(blocking=False))
    task.after_task_sent_cb = lambda client_task, fl_ctx: task.cb_lock.release()
    bench.ask("site-1")
    assert held == [True]


# -- a callback that never returns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", ["before_task_sent_cb", "after_task_sent_cb", "result_received_cb"])
def test_while_a_callback_never_returns_other_tasks_and_the_monitor_continue(
    bench: CommunicatorBench, callback: str
) -> None:
    gate = Gate()
    task = bench.task("stuck", timeout=5, **only(callback, gate))
    bench.comm.broadcast(task, bench.ctx, ["site-1"])

    def ask_and_answer() -> None:
        task_id = bench.ask("site-1")
        if task_id:
            bench.answer("site-1", task_id, "stuck")

    thread = in_thread(ask_and_answer)
    assert gate.entered.wait(10)
    other = bench.task("other")
    bench.comm.broadcast(other, bench.ctx, ["site-2"])
    bench.do("site-2", "other")
    bench.settle(other)
    bench.clock.now += 5
    wait_until(lambda: task.completion_status is TaskCompletionStatus.TIMEOUT)
    gate.opened.set()
    thread.join()


def test_threads_that_wait_for_the_callback_lock_of_a_stuck_task_are_released_when_it_ends(
    bench: CommunicatorBench,
) -> None:
    gate = Gate()
    task = bench.task("stuck", timeout=5, before_task_sent_cb=gate)
    bench.comm.broadcast(task, bench.ctx)
    bench.comm.broadcast(bench.task("next"), bench.ctx)
    stuck = in_thread(lambda: bench.ask("site-1"))
    assert gate.entered.wait(10)
    names: list[str] = []
    others = [in_thread(lambda n: names.append(bench.ask_fully(n)[0]), name) for name in ("site-2", "site-3")]
    wait_until(lambda: len(task.client_tasks) == 3)
    bench.clock.now += 5
    for other in others:
        other.join(10)
    assert names == ["next", "next"]
    gate.opened.set()
    stuck.join()
    assert task.client_tasks == []


def test_a_callback_that_takes_long_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with CommunicatorBench(["site-1"], monitor=True) as bench:
        bench.comm.broadcast(bench.task("slow", before_task_sent_cb=gate), bench.ctx)
        thread = in_thread(lambda: bench.ask("site-1"))
        assert gate.entered.wait(10)
        bench.clock.now += 61
        wait_until(lambda: "before_task_sent_cb of task 'slow' for client site-1" in caplog.text)
        bench.clock.now += 61
        gate.opened.set()
        thread.join()
    assert caplog.text.count("before_task_sent_cb of task 'slow'") == 1


def test_a_callback_that_goes_on_is_not_warned_of_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    callbacks = Callbacks(clock, 60.0)

    def look(**arguments: Any) -> None:
        for _ in range(3):
            clock.now += 61
            callbacks.warn(clock.now)

    callbacks.run("task_done_cb", look, Task("slow", Shareable()), None)
    assert caplog.text.count("task_done_cb of task 'slow' has not returned") == 1


def test_a_stuck_callback_does_not_hold_up_the_end_of_another_task_that_ends_with_its_own() -> None:
    gate = Gate()
    with CommunicatorBench(["site-1"]) as bench:
        stuck, other = bench.task(before_task_sent_cb=gate), bench.task()
        bench.comm.broadcast(stuck, bench.ctx)
        bench.comm.broadcast(other, bench.ctx)
        asking = in_thread(lambda: bench.ask("site-1"))
        assert gate.entered.wait(10)
        for task in (stuck, other):
            task.completion_status = TaskCompletionStatus.IGNORED
        bench.check()
        waiting = in_thread(lambda: bench.comm.wait_for_task(other))
        waiting.join(10)
        ended = not waiting.is_alive()
        gate.opened.set()
        asking.join(10)
        assert ended


def test_waiting_for_an_ended_task_does_not_last_for_ever_if_a_callback_is_stuck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, done = Gate(), threading.Event()
    with CommunicatorBench(["site-1"], monitor=True, callback_limit=0.05) as bench:
        task = bench.task(result_received_cb=gate, task_done_cb=lambda task, fl_ctx: done.set())
        bench.comm.broadcast(task, bench.ctx)
        thread = in_thread(lambda: bench.do("site-1"))
        assert gate.entered.wait(10)
        bench.comm.cancel_task(task)
        bench.comm.wait_for_task(task)
        assert not done.is_set()
        assert "wait_for_task returns now" in caplog.text
        gate.opened.set()
        thread.join()
        assert done.wait(10)
