"""The monitor's rules: when a task ends, what wakes it, and that it survives everything."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.task import ClientTask, SendOrder, Task, TaskCompletionStatus
from redflare_workers.communicator.managers.task_manager import TaskCheckStatus, TaskManager

from tests.support.communicator.scene import Scene
from tests.support.waiting import wait_until

OK, TIMEOUT, ERROR = TaskCompletionStatus.OK, TaskCompletionStatus.TIMEOUT, TaskCompletionStatus.ERROR


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Only the test checks tasks."""
    with Scene(["site-1", "site-2"]) as scene:
        yield scene


@pytest.fixture
def live() -> Iterator[Scene]:
    """The monitor checks tasks."""
    with Scene(["site-1", "site-2"], monitor=True) as scene:
        yield scene


def test_a_task_stands_until_its_manager_says_that_it_is_done(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    scene.do("site-1")
    scene.check()
    assert task.completion_status is None
    scene.do("site-2")
    scene.check()
    assert task.completion_status is OK
    assert not task.is_standing


def test_a_broadcast_to_all_waits_for_everybody_it_was_sent_to(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    late = scene.ask("late")
    scene.do("site-1")
    scene.do("site-2")
    scene.check()
    assert task.completion_status is None
    scene.answer("late", late)
    scene.check()
    assert task.completion_status is OK


def test_a_task_times_out_from_its_scheduling_on(scene: Scene) -> None:
    task = scene.task(timeout=10)
    scene.clock.now += 100
    scene.comm.broadcast(task, scene.ctx)
    scene.check(after=9.9)
    assert task.completion_status is None
    scene.check(after=0.1)
    assert task.completion_status is TIMEOUT


def test_a_task_without_a_timeout_never_times_out(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    scene.check(after=10.0**9)
    assert task.completion_status is None


def test_being_done_comes_before_the_timeout(scene: Scene) -> None:
    task = scene.task(timeout=10)
    scene.comm.send(task, scene.ctx, ["site-1"])
    scene.do("site-1")
    scene.check(after=11)
    assert task.completion_status is OK


def test_a_status_that_was_set_by_hand_ends_the_task(live: Scene) -> None:
    ends: list[Task] = []
    task = live.task(task_done_cb=lambda task, fl_ctx: ends.append(task))
    live.comm.broadcast(task, live.ctx)
    task.completion_status = TaskCompletionStatus.IGNORED
    live.settle(task)
    assert ends == [task]
    assert live.comm.get_num_standing_tasks() == 0


def test_task_done_runs_once(live: Scene) -> None:
    ends: list[Task] = []
    task = live.task(task_done_cb=lambda task, fl_ctx: ends.append(task))
    live.comm.broadcast(task, live.ctx, ["site-1"])
    live.do("site-1")
    live.comm.check_tasks()
    live.comm.cancel_task(task)
    live.settle(task)
    live.comm.check_tasks()
    assert ends == [task]


def test_it_checks_when_something_happened_and_not_only_each_period(live: Scene) -> None:
    live.comm.task_check_period = 3600.0
    task = live.task()
    live.comm.broadcast(task, live.ctx, ["site-1"])
    live.do("site-1")
    live.settle(task)
    assert task.completion_status is OK


def test_it_wakes_at_the_moment_a_task_is_due() -> None:
    import time

    with Scene(["site-1"], monitor=False) as scene:
        comm = type(scene.comm)(3600.0, clock=time.time)
        comm.initialize_run(scene.ctx)
        task = scene.task(timeout=1)
        began = time.monotonic()
        comm.broadcast_and_wait(task, scene.ctx)
        assert task.completion_status is TIMEOUT
        assert time.monotonic() - began < 30
        comm.finalize_run(scene.ctx)


def test_the_period_is_honoured_as_the_controller_sets_it(live: Scene) -> None:
    live.controller.set_communicator(live.comm)
    assert live.comm.task_check_period == 0.01
    task = live.task(timeout=5)
    live.comm.broadcast(task, live.ctx)
    live.clock.now += 5
    live.settle(task)
    assert task.completion_status is TIMEOUT


def test_without_open_tasks_it_does_not_sweep(live: Scene) -> None:
    task = live.task()
    live.comm.broadcast(task, live.ctx)
    live.comm.cancel_task(task)
    live.settle(task)
    sweeper = live.comm._sweeper
    wait_until(lambda: sweeper.sweep() is None)


# -- managers that fail ------------------------------------------------------------------------------------------------


class Failing(TaskManager):
    """Raises where it is told to."""

    def __init__(self, where: str) -> None:
        self._where = where

    def _fail(self, where: str) -> None:
        if where == self._where:
            raise ArithmeticError(f"in {where}")

    def check_task_send(self, client_task: ClientTask, now: float) -> TaskCheckStatus:
        self._fail("check_task_send")
        return TaskCheckStatus.SEND

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        self._fail("check_task_exit")
        return False, None

    def check_task_result(self, result: Any, client_task: ClientTask, now: float) -> None:
        self._fail("check_task_result")

    def next_change(self, task: Task, now: float) -> float | None:
        self._fail("next_change")
        return None


@pytest.mark.parametrize("where", ["check_task_send", "check_task_exit", "check_task_result", "next_change"])
@pytest.mark.parametrize("callback", [None, lambda client_task, fl_ctx: None])
def test_a_manager_that_raises_ends_its_task_and_nothing_else(live: Scene, where: str, callback: Any) -> None:
    task, other = live.task("bad", result_received_cb=callback), live.task("good")
    live.comm.broadcast(task, live.ctx)
    live.comm.broadcast(other, live.ctx, ["site-1"])
    standing = live.comm._lifecycle.registry.by_task[task]
    standing.manager = Failing(where)
    name, task_id, _ = live.ask_fully("site-1")
    if task_id:
        live.answer("site-1", task_id, name)
    wait_until(lambda: task.completion_status is ERROR)
    assert str(task.exception) == f"in {where}"
    if name != "good":
        live.do("site-1", "good")
    live.settle(other)
    assert other.completion_status is OK


@pytest.mark.parametrize("order", list(SendOrder))
def test_a_relay_without_any_client_yet_does_not_stop_the_monitor(order: SendOrder) -> None:
    with Scene(monitor=True) as scene:
        relay, other = scene.task("relay"), scene.task("other", timeout=5)
        scene.comm.relay(relay, scene.ctx, None, order, task_assignment_timeout=1, task_result_timeout=1)
        scene.comm.broadcast(other, scene.ctx)
        scene.clock.now += 5
        scene.settle(other)
        assert relay.completion_status is None
        assert scene.ask_fully("late")[0] == "relay"


def test_a_sweep_that_fails_is_logged_and_the_monitor_goes_on(live: Scene, caplog: pytest.LogCaptureFixture) -> None:
    real = live.comm._sweeper.check
    failed = threading.Event()

    def fail_once(*args: Any, **kwargs: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("the sweep failed")
        real(*args, **kwargs)

    live.comm._sweeper.check = fail_once  # type: ignore[method-assign]
    task = live.task(timeout=5)
    live.comm.broadcast(task, live.ctx)
    assert failed.wait(10)
    live.clock.now += 5
    live.settle(task)
    assert "a sweep of the open tasks failed" in caplog.text


# -- clients that are gone ---------------------------------------------------------------------------------------------


class Listener(FLComponent):
    """Keeps whom the events about clients name."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.CLIENT_DISCONNECTED:
            self.heard.append(("disconnected", fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME)))
        elif event_type == EventType.CLIENT_RECONNECTED:
            self.heard.append(("reconnected", fl_ctx.get_prop(FLContextKey.RECONNECTED_CLIENT_NAME)))


@pytest.fixture
def listener(live: Scene) -> Listener:
    listener = Listener()
    live.engine.add_component("listener", listener)
    return listener


def lose(scene: Scene, name: str) -> None:
    """Have a client reported dead, and its grace end."""
    scene.comm.process_dead_client_report(name, scene.ctx)
    scene.clock.now += 60
    wait_until(lambda: scene.comm.get_client_disconnect_time(name))


def test_a_client_reported_dead_is_disconnected_after_the_grace_period(live: Scene, listener: Listener) -> None:
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.clock.now += 59.9
    live.comm._sweeper.sweep()
    assert live.comm.get_client_disconnect_time("site-1") is None
    live.clock.now += 0.2
    wait_until(lambda: listener.heard == [("disconnected", "site-1")])
    assert live.comm.get_client_disconnect_time("site-1") == live.clock.now
    assert live.comm.get_client_disconnect_time("site-2") is None


def test_reports_that_are_repeated_do_not_extend_the_grace_period(live: Scene) -> None:
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.clock.now += 40
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.clock.now += 20
    wait_until(lambda: live.comm.get_client_disconnect_time("site-1"))


def test_a_client_that_shows_itself_in_time_is_watched_no_longer(live: Scene, listener: Listener) -> None:
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.clock.now += 59
    live.comm.client_is_active("site-1", "it asked", live.ctx)
    live.clock.now += 60
    live.comm._sweeper.sweep()
    assert live.comm.get_client_disconnect_time("site-1") is None
    assert listener.heard == []


def test_a_disconnected_client_that_shows_itself_is_connected_again(live: Scene, listener: Listener) -> None:
    lose(live, "site-1")
    live.comm.client_is_active("site-1", "it asked", live.ctx)
    assert live.comm.get_client_disconnect_time("site-1") is None
    wait_until(lambda: len(listener.heard) == 2)
    assert sorted(listener.heard) == [("disconnected", "site-1"), ("reconnected", "site-1")]


def test_a_sign_of_a_client_nobody_missed_is_nothing(live: Scene, listener: Listener) -> None:
    live.comm.client_is_active("site-1", "it asked", live.ctx)
    assert listener.heard == []


def test_a_handler_that_never_returns_does_not_stop_the_monitor(live: Scene) -> None:
    opened = threading.Event()

    class Slow(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            if event_type == EventType.CLIENT_DISCONNECTED:
                assert opened.wait(30)

    live.engine.add_component("slow", Slow())
    task = live.task(timeout=100)
    live.comm.broadcast(task, live.ctx)
    lose(live, "site-1")
    live.clock.now += 100
    live.settle(task)
    assert task.completion_status is TIMEOUT
    opened.set()


def test_a_handler_that_raises_does_not_stop_the_monitor(live: Scene) -> None:
    class Bad(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            if event_type == EventType.CLIENT_DISCONNECTED:
                raise RuntimeError("on purpose")

    live.engine.add_component("bad", Bad())
    task = live.task(timeout=100)
    live.comm.broadcast(task, live.ctx)
    lose(live, "site-1")
    live.clock.now += 100
    live.settle(task)
    assert task.completion_status is TIMEOUT


def test_a_task_that_waits_only_for_disconnected_clients_ends(live: Scene) -> None:
    task = live.task()
    live.comm.broadcast(task, live.ctx)
    live.do("site-2")
    lose(live, "site-1")
    live.settle(task)
    assert task.completion_status is TaskCompletionStatus.CLIENT_DEAD


def test_a_task_goes_on_while_one_target_without_an_answer_is_alive(live: Scene) -> None:
    task = live.task()
    live.comm.broadcast(task, live.ctx)
    lose(live, "site-1")
    live.check(after=100)
    assert task.completion_status is None


def test_a_task_waits_at_least_30_seconds_for_disconnected_clients(live: Scene) -> None:
    lose(live, "site-1")
    task = live.task()
    live.comm.send(task, live.ctx, ["site-1"])
    live.check(after=29)
    assert task.completion_status is None
    live.clock.now += 1
    live.settle(task)
    assert task.completion_status is TaskCompletionStatus.CLIENT_DEAD


def test_a_client_that_comes_back_in_time_gets_the_task_again(live: Scene) -> None:
    task = live.task()
    live.comm.broadcast(task, live.ctx)
    task_id = live.ask("site-1")
    lose(live, "site-1")
    live.comm.client_is_active("site-1", "it asked", live.ctx)
    assert live.ask("site-1") == task_id


def test_a_relay_that_names_a_living_client_twice_does_not_end_before_its_second_turn(live: Scene) -> None:
    task = live.task()
    live.comm.relay(task, live.ctx, ["site-1", "site-2", "site-1"], SendOrder.ANY, dynamic_targets=False)
    live.do("site-1")
    lose(live, "site-2")
    live.check(after=40)
    assert task.completion_status is None


# -- the job's policy --------------------------------------------------------------------------------------------------


def panics(scene: Scene) -> list[str]:
    return scene.engine.panics


def test_the_job_is_aborted_when_nobody_is_alive() -> None:
    with Scene(["site-1"], monitor=True) as scene:
        lose(scene, "site-1")
        wait_until(lambda: panics(scene))
        assert "Aborting job due to deployment policy violation" in panics(scene)[0]
        assert scene.engine.abort_signal.triggered


def test_the_job_goes_on_while_enough_are_alive() -> None:
    with Scene(["a", "b", "c"], monitor=True, job_meta={"min_clients": 2}) as scene:
        lose(scene, "a")
        scene.comm._sweeper.sweep()
        assert panics(scene) == []
        lose(scene, "b")
        wait_until(lambda: panics(scene))
        assert "only 1 clients are alive, 2 are needed" in panics(scene)[0]


def test_too_few_alive_count_only_once_enough_had_joined() -> None:
    with Scene(["a", "b"], monitor=True, job_meta={"min_clients": 3}) as scene:
        lose(scene, "a")
        scene.comm._sweeper.sweep()
        assert panics(scene) == []
        scene.engine.join("c")
        wait_until(lambda: panics(scene))


def test_the_job_is_aborted_when_a_mandatory_client_is_dead() -> None:
    with Scene(["a", "b", "c"], monitor=True, job_meta={"min_clients": 1, "mandatory_clients": ["b"]}) as scene:
        lose(scene, "a")
        scene.comm._sweeper.sweep()
        assert panics(scene) == []
        lose(scene, "b")
        wait_until(lambda: panics(scene))
        assert "mandatory clients are disconnected: b" in panics(scene)[0]


def test_it_panics_once_and_goes_on_checking_tasks() -> None:
    with Scene(["site-1"], monitor=True) as scene:
        task = scene.task(timeout=100)
        scene.comm.broadcast(task, scene.ctx, ["another"])
        lose(scene, "site-1")
        wait_until(lambda: panics(scene))
        scene.clock.now += 100
        scene.settle(task)
        assert task.completion_status is TIMEOUT
        assert len(panics(scene)) == 1


def test_a_policy_that_cannot_be_checked_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with Scene(["site-1", "site-2"], monitor=True, job_meta={"min_clients": "many"}) as scene:
        task = scene.task(timeout=100)
        scene.comm.broadcast(task, scene.ctx, ["another"])
        lose(scene, "site-1")
        scene.clock.now += 100
        scene.settle(task)
        scene.comm._sweeper.sweep()
    assert caplog.text.count("the job's minimum of clients could not be checked") == 1
    levels = [record.levelno for record in caplog.records if "could not be checked" in record.getMessage()]
    assert levels == [logging.ERROR]
