"""``*_and_wait``, cancelling, and the end of the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import SendOrder, Task, TaskCompletionStatus
from redflare_workers.communicator.wf_comm_server import WFCommServer

from tests.support.communicator.scene import Gate, Scene, in_thread
from tests.support.waiting import wait_until

AND_WAIT = {
    "broadcast_and_wait": lambda scene, task, signal: scene.comm.broadcast_and_wait(
        task, scene.ctx, ["site-1"], 1, 0, signal
    ),
    "send_and_wait": lambda scene, task, signal: scene.comm.send_and_wait(
        task, scene.ctx, ["site-1"], SendOrder.ANY, 0, signal
    ),
    "relay_and_wait": lambda scene, task, signal: scene.comm.relay_and_wait(
        task, scene.ctx, ["site-1"], SendOrder.ANY, 0, 0, False, signal
    ),
}
every_wait = pytest.mark.parametrize("wait", AND_WAIT.values(), ids=AND_WAIT.keys())
Wait = Callable[[Scene, Task, Any], None]


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene(["site-1", "site-2"], monitor=True) as scene:
        yield scene


@every_wait
def test_it_returns_after_task_done_has_run(scene: Scene, wait: Wait) -> None:
    gate, order = Gate(), list[str]()

    def done(**arguments: Any) -> None:
        gate()
        order.append("done")

    task = scene.task(task_done_cb=done)

    def wait_for_it() -> None:
        wait(scene, task, None)
        order.append("returned")

    thread = in_thread(wait_for_it)
    wait_until(lambda: task.is_standing)
    scene.do("site-1")
    assert gate.entered.wait(10)
    assert order == []
    gate.opened.set()
    thread.join()
    assert order == ["done", "returned"]
    assert task.completion_status is TaskCompletionStatus.OK


@every_wait
def test_the_abort_signal_ends_the_task_and_the_wait(scene: Scene, wait: Wait) -> None:
    signal, done = Signal(), threading.Event()
    task = scene.task(task_done_cb=lambda task, fl_ctx: done.set())
    thread = in_thread(lambda: wait(scene, task, signal))
    wait_until(lambda: task.is_standing)
    signal.trigger("enough")
    thread.join(10)
    assert not thread.is_alive()
    assert task.completion_status is TaskCompletionStatus.ABORTED
    assert done.wait(10)


@every_wait
def test_a_signal_that_is_triggered_already_ends_the_task_at_once(scene: Scene, wait: Wait) -> None:
    signal = Signal()
    signal.trigger("enough")
    task = scene.task()
    wait(scene, task, signal)
    assert task.completion_status is TaskCompletionStatus.ABORTED
    assert not task.is_standing


class OldSignal:
    """A signal that cannot call back."""

    triggered = False


def test_a_signal_that_cannot_call_back_is_looked_at(scene: Scene) -> None:
    signal, task = OldSignal(), scene.task()
    thread = in_thread(lambda: scene.comm.broadcast_and_wait(task, scene.ctx, abort_signal=signal))  # type: ignore[arg-type]
    wait_until(lambda: task.is_standing)
    signal.triggered = True
    thread.join(10)
    assert task.completion_status is TaskCompletionStatus.ABORTED


def test_an_abort_does_not_change_how_a_task_ended(scene: Scene) -> None:
    signal, gate = Signal(), Gate()
    task = scene.task(task_done_cb=gate)
    thread = in_thread(lambda: scene.comm.broadcast_and_wait(task, scene.ctx, ["site-1"], abort_signal=signal))
    wait_until(lambda: task.is_standing)
    scene.do("site-1")
    assert gate.entered.wait(10)
    signal.trigger("too late")
    thread.join(10)
    assert task.completion_status is TaskCompletionStatus.OK
    gate.opened.set()


def test_it_leaves_nothing_behind_at_the_signal(scene: Scene) -> None:
    signal, task = Signal(), scene.task()
    thread = in_thread(lambda: scene.comm.broadcast_and_wait(task, scene.ctx, ["site-1"], abort_signal=signal))
    wait_until(lambda: task.is_standing)
    scene.do("site-1")
    thread.join()
    assert "callbacks=0" in repr(signal)


def test_many_may_wait_for_one_task(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    threads = [in_thread(lambda: scene.comm.wait_for_task(task)) for _ in range(5)]
    scene.do("site-1")
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_finished_task_is_not_waited_for(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast_and_wait(task, scene.ctx, abort_signal=_triggered())
    scene.settle(task)
    scene.comm.wait_for_task(task)


def test_a_task_that_was_never_scheduled_cannot_be_waited_for(scene: Scene) -> None:
    with pytest.raises(ValueError, match="'train' was never scheduled"):
        scene.comm.wait_for_task(scene.task())


def _triggered() -> Signal:
    signal = Signal()
    signal.trigger("now")
    return signal


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_a_cancelled_task_ends_at_once_and_calls_task_done(scene: Scene) -> None:
    ends: list[TaskCompletionStatus | None] = []
    task = scene.task(task_done_cb=lambda task, fl_ctx: ends.append(task.completion_status))
    scene.comm.broadcast(task, scene.ctx)
    scene.comm.cancel_task(task)
    assert not task.is_standing
    assert scene.comm.get_num_standing_tasks() == 0
    scene.settle(task)
    assert ends == [TaskCompletionStatus.CANCELLED]


def test_a_task_may_be_cancelled_with_another_status(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    scene.comm.cancel_task(task, TaskCompletionStatus.IGNORED, scene.ctx)
    assert task.completion_status is TaskCompletionStatus.IGNORED


def test_cancelling_does_not_overwrite_a_final_status(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    scene.do("site-1")
    scene.settle(task)
    scene.comm.cancel_task(task)
    assert task.completion_status is TaskCompletionStatus.OK


def test_cancelling_does_not_overwrite_a_status_that_was_set_by_hand(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task.completion_status = TaskCompletionStatus.IGNORED
    scene.comm.cancel_task(task)
    assert task.completion_status is TaskCompletionStatus.IGNORED


def test_cancelling_a_task_that_does_not_stand_has_no_effect(scene: Scene) -> None:
    task = scene.task()
    scene.comm.cancel_task(task)
    assert task.completion_status is None
    scene.comm.broadcast(task, scene.ctx)
    assert task.is_standing


def test_all_standing_tasks_can_be_cancelled(scene: Scene) -> None:
    tasks = [scene.task() for _ in range(3)]
    for task in tasks:
        scene.comm.broadcast(task, scene.ctx)
    assert scene.comm.get_num_standing_tasks() == 3
    scene.comm.cancel_all_tasks(TaskCompletionStatus.ABORTED)
    assert [task.completion_status for task in tasks] == [TaskCompletionStatus.ABORTED] * 3
    assert scene.comm.get_num_standing_tasks() == 0


def test_a_cancelled_task_is_given_to_nobody(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    assert scene.ask("site-1")
    scene.comm.cancel_task(task)
    assert scene.ask("site-1") == ""
    assert scene.ask("site-2") == ""


# -- the run -----------------------------------------------------------------------------------------------------------


def test_the_end_of_the_run_cancels_what_stands_and_leaves_no_thread() -> None:
    threads = set(threading.enumerate())
    scene = Scene(["site-1"], monitor=True)
    done: list[Task] = []
    tasks = [scene.task(task_done_cb=lambda task, fl_ctx: done.append(task)) for _ in range(3)]
    for task in tasks:
        scene.comm.broadcast(task, scene.ctx)
    scene.comm.finalize_run(scene.ctx)
    assert sorted(map(id, done)) == sorted(map(id, tasks))
    assert {task.completion_status for task in tasks} == {TaskCompletionStatus.CANCELLED}
    assert set(threading.enumerate()) == threads
    scene.comm.finalize_run(scene.ctx)


def test_a_run_that_never_began_can_be_ended() -> None:
    scene = Scene()
    scene.comm.finalize_run(scene.ctx)


def test_a_communicator_serves_one_run(scene: Scene) -> None:
    with pytest.raises(RuntimeError, match="was initialized already"):
        scene.comm.initialize_run(scene.ctx)


def test_without_an_engine_there_is_no_run(caplog: pytest.LogCaptureFixture) -> None:

    WFCommServer().initialize_run(FLContext())
    assert "WFCommServer needs an engine" in caplog.text


def test_tasks_scheduled_before_the_run_are_looked_at_when_it_begins() -> None:
    with Scene(["site-1"]) as scene:
        task = scene.task()
        scene.comm.broadcast(task, scene.ctx)
        scene.do("site-1")
        assert task.completion_status is None
        scene.comm.initialize_run(scene.ctx)
        scene.settle(task)
        assert task.completion_status is TaskCompletionStatus.OK
