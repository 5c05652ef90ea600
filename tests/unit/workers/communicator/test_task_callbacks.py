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

from tests.support.communicator.scene import Gate, Scene, in_thread
from tests.support.waiting import wait_until


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene(["site-1", "site-2"], monitor=True) as scene:
        yield scene


class Boom(Exception):
    """What a callback raises here."""


def boom(**arguments: Any) -> None:
    raise Boom("on purpose")


def told(into: list[str], name: str) -> Callable[..., None]:
    def callback(fl_ctx: FLContext, **arguments: Any) -> None:
        assert isinstance(fl_ctx, FLContext)
        into.append(name)

    return callback


def only(name: str, callback: Callable[..., Any]) -> dict[str, Any]:
    """That one callback, as an argument of a task."""
    return {name: callback}


def recorded(scene: Scene, **options: Any) -> tuple[Task, list[str]]:
    """A task that notes its callbacks, except those in ``options``."""
    order: list[str] = []
    names = ("before_task_sent_cb", "after_task_sent_cb", "result_received_cb", "task_done_cb")
    callbacks = {name: told(order, name.removesuffix("_cb")) for name in names}
    return scene.task(**{**callbacks, **options}), order


def test_callbacks_run_in_order(scene: Scene) -> None:
    task, order = recorded(scene)
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    scene.do("site-1")
    scene.settle(task)
    assert order == ["before_task_sent", "after_task_sent", "result_received", "task_done"]
    assert task.completion_status is TaskCompletionStatus.OK


def test_callbacks_around_sending_run_at_each_resend(scene: Scene) -> None:
    task, order = recorded(scene)
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    scene.ask("site-1")
    scene.ask("site-1")
    assert order == ["before_task_sent", "after_task_sent"] * 2


def test_callbacks_get_the_context_of_the_request(scene: Scene) -> None:
    contexts: list[FLContext] = []
    task = scene.task(before_task_sent_cb=lambda client_task, fl_ctx: contexts.append(fl_ctx))
    scene.comm.broadcast(task, scene.ctx)
    mine = scene.engine.new_context()
    scene.ask("site-1", mine)
    assert contexts == [mine]


def test_task_done_gets_a_context_of_its_own_with_the_engine(scene: Scene) -> None:
    engines: list[Any] = []
    task = scene.task(task_done_cb=lambda task, fl_ctx: engines.append(fl_ctx.get_engine()))
    scene.comm.broadcast(task, scene.ctx)
    scene.comm.cancel_task(task)
    scene.settle(task)
    assert engines == [scene.engine]


def test_before_the_sending_nothing_of_it_counts_yet(scene: Scene) -> None:
    counts: list[int] = []
    task = scene.task(before_task_sent_cb=lambda client_task, fl_ctx: counts.append(client_task.task_send_count))
    scene.comm.broadcast(task, scene.ctx)
    scene.ask("site-1")
    scene.ask("site-1")
    assert counts == [0, 1]


def test_the_result_can_be_replaced_by_its_callback(scene: Scene) -> None:
    def shorten(client_task: ClientTask, fl_ctx: FLContext) -> None:
        assert client_task.result_received_time is None
        client_task.result = "short"

    task = scene.task(result_received_cb=shorten)
    scene.comm.broadcast(task, scene.ctx)
    scene.do("site-1")
    assert task.client_tasks[0].result == "short"


def test_the_data_may_be_taken_away_after_the_sending(scene: Scene) -> None:
    def take_away(client_task: ClientTask, fl_ctx: FLContext) -> None:
        client_task.task.data = Shareable()

    scene.comm.send(scene.task(data={"x": 1}, after_task_sent_cb=take_away), scene.ctx, ["site-1"])
    data = scene.ask_fully("site-1")[2]
    assert data is not None
    assert data["x"] == 1


# -- exceptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", ["before_task_sent_cb", "after_task_sent_cb"])
def test_an_exception_around_sending_ends_the_task_and_nothing_is_sent(scene: Scene, callback: str) -> None:
    task, order = recorded(scene, **{callback: boom})
    scene.comm.broadcast(task, scene.ctx)
    assert scene.ask_fully("site-1") == ("", "", None)
    scene.settle(task)
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert isinstance(task.exception, Boom)
    assert task.client_tasks == []
    assert sorted(order) == sorted({"before_task_sent", "after_task_sent", "task_done"} - {callback[:-3]})


def test_an_exception_at_a_result_ends_the_task_and_the_result_counts_as_received(scene: Scene) -> None:
    task, order = recorded(scene, result_received_cb=boom)
    scene.comm.broadcast(task, scene.ctx)
    scene.do("site-1")
    scene.settle(task)
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert isinstance(task.exception, Boom)
    assert task.client_tasks[0].result_received_time is not None
    assert order[-1] == "task_done"


def test_an_exception_when_the_task_is_done_makes_it_an_error(scene: Scene) -> None:
    task = scene.task(task_done_cb=boom)
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    scene.do("site-1")
    scene.settle(task)
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert isinstance(task.exception, Boom)


def test_an_exception_is_logged_with_task_and_client(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    task = scene.task(before_task_sent_cb=boom)
    scene.comm.broadcast(task, scene.ctx)
    scene.ask("site-1")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info
    for part in ("'train'", "site-1", "before_task_sent_cb", "on purpose"):
        assert part in record.getMessage()


@pytest.mark.parametrize("callback", ["before_task_sent_cb", "after_task_sent_cb", "result_received_cb"])
def test_other_tasks_go_on_after_an_exception(scene: Scene, callback: str) -> None:
    scene.comm.broadcast(scene.task("bad", **only(callback, boom)), scene.ctx)
    scene.comm.broadcast(scene.task("good"), scene.ctx)
    name, task_id, _ = scene.ask_fully("site-1")
    if task_id:
        scene.answer("site-1", task_id, name)
    name, task_id, _ = scene.ask_fully("site-1")
    assert name == "good"
    scene.answer("site-1", task_id, "good")


# -- what a callback may do --------------------------------------------------------------------------------------------


def test_a_status_set_before_the_sending_keeps_it_from_being_sent(scene: Scene) -> None:
    def end(client_task: ClientTask, fl_ctx: FLContext) -> None:
        client_task.task.completion_status = TaskCompletionStatus.IGNORED

    task, order = recorded(scene, before_task_sent_cb=end)
    scene.comm.broadcast(task, scene.ctx)
    assert scene.ask("site-1") == ""
    scene.settle(task)
    assert task.completion_status is TaskCompletionStatus.IGNORED
    assert order == ["after_task_sent", "task_done"]
    assert task.client_tasks == []


@pytest.mark.parametrize("callback", ["before_task_sent_cb", "after_task_sent_cb", "result_received_cb"])
def test_a_callback_may_cancel_its_own_task(scene: Scene, callback: str) -> None:
    def cancel(client_task: ClientTask, fl_ctx: FLContext) -> None:
        scene.comm.cancel_task(client_task.task)

    task, order = recorded(scene, **{callback: cancel})
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.ask("site-1")
    if callback == "result_received_cb":
        scene.answer("site-1", task_id)
    else:
        assert task_id == ""
    scene.settle(task)
    assert task.completion_status is TaskCompletionStatus.CANCELLED
    assert order.count("task_done") == 1


ALL_CALLBACKS = ["before_task_sent_cb", "after_task_sent_cb", "result_received_cb", "task_done_cb"]


@pytest.mark.parametrize("callback", ALL_CALLBACKS)
def test_a_callback_may_schedule_another_task(scene: Scene, callback: str) -> None:
    def schedule(fl_ctx: FLContext, **arguments: Any) -> None:
        scene.comm.broadcast(scene.task("another"), fl_ctx, ["site-2"])

    task = scene.task(**only(callback, schedule))
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    scene.do("site-1")
    scene.settle(task)
    assert scene.ask_fully("site-2")[0] == "another"


@pytest.mark.parametrize("callback", ALL_CALLBACKS)
def test_a_callback_may_schedule_another_task_and_wait_for_it(scene: Scene, callback: str) -> None:
    inner: list[Task] = []

    def schedule(fl_ctx: FLContext, **arguments: Any) -> None:
        inner.append(scene.task("inner"))
        scene.comm.send_and_wait(inner[0], fl_ctx, ["site-2"])

    task = scene.task(**only(callback, schedule))
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    thread = in_thread(lambda: scene.do("site-1"))
    wait_until(lambda: inner and inner[0].is_standing)
    scene.do("site-2", "inner")
    thread.join(10)
    scene.settle(task)
    assert task.completion_status is TaskCompletionStatus.OK
    assert inner[0].completion_status is TaskCompletionStatus.OK


@pytest.mark.parametrize("callback", ALL_CALLBACKS)
def test_a_callback_may_cancel_all_tasks(scene: Scene, callback: str) -> None:
    other = scene.task("other")
    scene.comm.broadcast(other, scene.ctx, ["site-2"])
    task = scene.task(**only(callback, lambda fl_ctx, **arguments: scene.comm.cancel_all_tasks()))
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    task_id = scene.ask("site-1")
    if task_id:
        scene.answer("site-1", task_id)
    scene.settle(task)
    scene.settle(other)
    assert other.completion_status is TaskCompletionStatus.CANCELLED


def test_two_callbacks_that_cancel_each_others_tasks_do_not_deadlock(scene: Scene) -> None:
    meet = threading.Barrier(2)
    tasks: list[Task] = []

    def cancel_other(client_task: ClientTask, fl_ctx: FLContext) -> None:
        meet.wait(10)
        scene.comm.cancel_task(tasks[1 - tasks.index(client_task.task)])

    tasks += [scene.task("one", before_task_sent_cb=cancel_other), scene.task("two", before_task_sent_cb=cancel_other)]
    scene.comm.broadcast(tasks[0], scene.ctx, ["site-1"])
    scene.comm.broadcast(tasks[1], scene.ctx, ["site-2"])
    threads = [in_thread(scene.ask, name) for name in ("site-1", "site-2")]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    for task in tasks:
        scene.settle(task)
        assert task.completion_status is TaskCompletionStatus.CANCELLED


def test_a_callback_cannot_wait_for_its_own_task(scene: Scene) -> None:
    def wait(client_task: ClientTask, fl_ctx: FLContext) -> None:
        scene.comm.wait_for_task(client_task.task)

    task = scene.task(before_task_sent_cb=wait)
    scene.comm.broadcast(task, scene.ctx)
    scene.ask("site-1")
    scene.settle(task)
    assert "would wait for itself" in str(task.exception)


def test_a_callback_that_asks_for_its_own_client_gets_nothing(scene: Scene) -> None:
    answers: list[str] = []

    def ask(client_task: ClientTask, fl_ctx: FLContext) -> None:
        answers.append(scene.ask(client_task.client.name))

    scene.comm.broadcast(scene.task(before_task_sent_cb=ask), scene.ctx)
    assert scene.ask("site-1")
    assert answers == [""]


def test_the_run_may_end_in_a_callback(scene: Scene) -> None:
    task = scene.task("last", task_done_cb=lambda task, fl_ctx: scene.comm.finalize_run(fl_ctx))
    scene.comm.broadcast(task, scene.ctx)
    scene.comm.cancel_task(task)
    scene.settle(task)
    assert scene.comm.get_num_standing_tasks() == 0


# -- one at a time -----------------------------------------------------------------------------------------------------


def test_callbacks_of_one_task_run_one_at_a_time(scene: Scene) -> None:
    inside = most = runs = 0

    def work(**arguments: Any) -> None:
        nonlocal inside, most, runs
        inside += 1
        most = max(most, inside)
        runs += 1
        inside -= 1

    names = [f"site-{number}" for number in range(20)]
    task = scene.task(before_task_sent_cb=work, after_task_sent_cb=work, result_received_cb=work, task_done_cb=work)
    scene.comm.broadcast(task, scene.ctx, list(names))
    threads = [in_thread(scene.do, name) for name in names]
    for thread in threads:
        thread.join()
    scene.settle(task)
    assert (most, runs) == (1, 61)


def test_a_callback_of_one_task_does_not_keep_another_task_waiting(scene: Scene) -> None:
    gate = Gate()
    scene.comm.send(scene.task("stuck", before_task_sent_cb=gate), scene.ctx, ["site-1"])
    scene.comm.broadcast(scene.task("free", before_task_sent_cb=lambda **arguments: None), scene.ctx, ["site-2"])
    thread = in_thread(lambda: scene.ask("site-1"))
    assert gate.entered.wait(10)
    assert scene.do("site-2", "free")
    gate.opened.set()
    thread.join()


def test_task_done_waits_for_a_callback_that_still_runs(scene: Scene) -> None:
    gate = Gate()
    task, order = recorded(scene, result_received_cb=gate)
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    thread = in_thread(lambda: scene.do("site-1"))
    assert gate.entered.wait(10)
    scene.comm.cancel_task(task)
    assert "task_done" not in order
    gate.opened.set()
    thread.join()
    scene.settle(task)
    assert order[-1] == "task_done"


def test_the_callback_lock_is_the_tasks_own(scene: Scene) -> None:
    held: list[bool] = []
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task.before_task_sent_cb = lambda client_task, fl_ctx: held.append(task.cb_lock.acquire(blocking=False))
    task.after_task_sent_cb = lambda client_task, fl_ctx: task.cb_lock.release()
    scene.ask("site-1")
    assert held == [True]


# -- a callback that never returns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", ["before_task_sent_cb", "after_task_sent_cb", "result_received_cb"])
def test_while_a_callback_never_returns_other_tasks_and_the_monitor_go_on(scene: Scene, callback: str) -> None:
    gate = Gate()
    task = scene.task("stuck", timeout=5, **only(callback, gate))
    scene.comm.broadcast(task, scene.ctx, ["site-1"])

    def ask_and_answer() -> None:
        task_id = scene.ask("site-1")
        if task_id:
            scene.answer("site-1", task_id, "stuck")

    thread = in_thread(ask_and_answer)
    assert gate.entered.wait(10)
    other = scene.task("other")
    scene.comm.broadcast(other, scene.ctx, ["site-2"])
    scene.do("site-2", "other")
    scene.settle(other)
    scene.clock.now += 5
    wait_until(lambda: task.completion_status is TaskCompletionStatus.TIMEOUT)
    gate.opened.set()
    thread.join()


def test_those_who_wait_for_the_turn_of_a_stuck_task_are_released_when_it_ends(scene: Scene) -> None:
    gate = Gate()
    task = scene.task("stuck", timeout=5, before_task_sent_cb=gate)
    scene.comm.broadcast(task, scene.ctx)
    scene.comm.broadcast(scene.task("next"), scene.ctx)
    stuck = in_thread(lambda: scene.ask("site-1"))
    assert gate.entered.wait(10)
    names: list[str] = []
    others = [in_thread(lambda n: names.append(scene.ask_fully(n)[0]), name) for name in ("site-2", "site-3")]
    wait_until(lambda: len(task.client_tasks) == 3)
    scene.clock.now += 5
    for other in others:
        other.join(10)
    assert names == ["next", "next"]
    gate.opened.set()
    stuck.join()
    assert task.client_tasks == []


def test_a_callback_that_takes_long_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with Scene(["site-1"], monitor=True) as scene:
        scene.comm.broadcast(scene.task("slow", before_task_sent_cb=gate), scene.ctx)
        thread = in_thread(lambda: scene.ask("site-1"))
        assert gate.entered.wait(10)
        scene.clock.now += 61
        wait_until(lambda: "before_task_sent_cb of task 'slow' for client site-1" in caplog.text)
        scene.clock.now += 61
        gate.opened.set()
        thread.join()
    assert caplog.text.count("before_task_sent_cb of task 'slow'") == 1


def test_who_waits_for_an_ended_task_does_not_wait_for_ever_for_a_stuck_callback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, done = Gate(), threading.Event()
    with Scene(["site-1"], monitor=True, callback_limit=0.05) as scene:
        task = scene.task(result_received_cb=gate, task_done_cb=lambda task, fl_ctx: done.set())
        scene.comm.broadcast(task, scene.ctx)
        thread = in_thread(lambda: scene.do("site-1"))
        assert gate.entered.wait(10)
        scene.comm.cancel_task(task)
        scene.comm.wait_for_task(task)
        assert not done.is_set()
        assert "wait_for_task returns now" in caplog.text
        gate.opened.set()
        thread.join()
        assert done.wait(10)
