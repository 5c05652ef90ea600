"""The rules of the monitor: when a task ends, what wakes it, and which errors it survives."""

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

from tests.support.communicator.bench import CommunicatorBench
from tests.support.waiting import wait_until

OK, TIMEOUT, ERROR = TaskCompletionStatus.OK, TaskCompletionStatus.TIMEOUT, TaskCompletionStatus.ERROR


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    """A bench without the monitor: only the test checks tasks."""
    with CommunicatorBench(["site-1", "site-2"]) as bench:
        yield bench


@pytest.fixture
def live() -> Iterator[CommunicatorBench]:
    """A bench with the monitor, which checks tasks."""
    with CommunicatorBench(["site-1", "site-2"], monitor=True) as bench:
        yield bench


def test_a_task_is_standing_until_its_manager_reports_that_it_is_done(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    bench.do("site-1")
    bench.check()
    assert task.completion_status is None
    bench.do("site-2")
    bench.check()
    assert task.completion_status is OK
    assert not task.is_standing


def test_a_broadcast_to_all_waits_for_every_client_that_it_was_sent_to(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    late = bench.ask("late")
    bench.do("site-1")
    bench.do("site-2")
    bench.check()
    assert task.completion_status is None
    bench.answer("late", late)
    bench.check()
    assert task.completion_status is OK


def test_a_task_times_out_from_its_scheduling_on(bench: CommunicatorBench) -> None:
    task = bench.task(timeout=10)
    bench.clock.now += 100
    bench.comm.broadcast(task, bench.ctx)
    bench.check(after=9.9)
    assert task.completion_status is None
    bench.check(after=0.1)
    assert task.completion_status is TIMEOUT


def test_a_task_without_a_timeout_never_times_out(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    bench.check(after=10.0**9)
    assert task.completion_status is None


def test_a_task_that_is_done_does_not_time_out(bench: CommunicatorBench) -> None:
    task = bench.task(timeout=10)
    bench.comm.send(task, bench.ctx, ["site-1"])
    bench.do("site-1")
    bench.check(after=11)
    assert task.completion_status is OK


def test_a_status_set_by_the_user_ends_the_task(live: CommunicatorBench) -> None:
    ends: list[Task] = []
    task = live.task(task_done_cb=lambda task, fl_ctx: ends.append(task))
    live.comm.broadcast(task, live.ctx)
    task.completion_status = TaskCompletionStatus.IGNORED
    live.settle(task)
    assert ends == [task]
    assert live.comm.get_num_standing_tasks() == 0


def test_task_done_runs_once(live: CommunicatorBench) -> None:
    ends: list[Task] = []
    task = live.task(task_done_cb=lambda task, fl_ctx: ends.append(task))
    live.comm.broadcast(task, live.ctx, ["site-1"])
    live.do("site-1")
    live.comm.check_tasks()
    live.comm.cancel_task(task)
    live.settle(task)
    live.comm.check_tasks()
    assert ends == [task]


def test_it_checks_when_something_happened_and_not_only_each_period(live: CommunicatorBench) -> None:
    live.comm.task_check_period = 3600.0
    task = live.task()
    live.comm.broadcast(task, live.ctx, ["site-1"])
    live.do("site-1")
    live.settle(task)
    assert task.completion_status is OK


def test_it_wakes_at_the_moment_a_task_is_due() -> None:
    import time

    with CommunicatorBench(["site-1"], monitor=False) as bench:
        comm = type(bench.comm)(3600.0, clock=time.time)
        comm.initialize_run(bench.ctx)
        task = bench.task(timeout=1)
        began = time.monotonic()
        comm.broadcast_and_wait(task, bench.ctx)
        assert task.completion_status is TIMEOUT
        assert time.monotonic() - began < 30
        comm.finalize_run(bench.ctx)


def test_it_wakes_for_a_task_that_was_scheduled_while_it_waited_for_another() -> None:
    import time

    with CommunicatorBench(["site-1"], monitor=False) as bench:
        comm = type(bench.comm)(3600.0, clock=time.time)
        comm.initialize_run(bench.ctx)
        comm.broadcast(bench.task(), bench.ctx)
        task = bench.task(timeout=1)
        comm.broadcast(task, bench.ctx)
        wait_until(lambda: task.completion_status is TIMEOUT, 30)
        comm.finalize_run(bench.ctx)


def test_the_period_is_honoured_as_the_controller_sets_it(live: CommunicatorBench) -> None:
    live.controller.set_communicator(live.comm)
    assert live.comm.task_check_period == 0.01
    task = live.task(timeout=5)
    live.comm.broadcast(task, live.ctx)
    live.clock.now += 5
    live.settle(task)
    assert task.completion_status is TIMEOUT


def test_without_open_tasks_it_does_not_sweep(live: CommunicatorBench) -> None:
    task = live.task()
    live.comm.broadcast(task, live.ctx)
    live.comm.cancel_task(task)
    live.settle(task)
    sweeper = live.comm._sweeper
    wait_until(lambda: sweeper.sweep() is None)


# -- managers that fail ------------------------------------------------------------------------------------------------


class Failing(TaskManager):
    """Raises in the method with the given name."""

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
def test_a_manager_that_raises_ends_its_task_and_nothing_else(
    live: CommunicatorBench, where: str, callback: Any
) -> None:
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
    with CommunicatorBench(monitor=True) as bench:
        relay, other = bench.task("relay"), bench.task("other", timeout=5)
        bench.comm.relay(relay, bench.ctx, None, order, task_assignment_timeout=1, task_result_timeout=1)
        bench.comm.broadcast(other, bench.ctx)
        bench.clock.now += 5
        bench.settle(other)
        assert relay.completion_status is None
        assert bench.ask_fully("late")[0] == "relay"


def test_a_sweep_that_fails_is_logged_and_the_monitor_continues(
    live: CommunicatorBench, caplog: pytest.LogCaptureFixture
) -> None:
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
    """Records the clients that events name."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.CLIENT_DISCONNECTED:
            self.events.append(("disconnected", fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME)))
        elif event_type == EventType.CLIENT_RECONNECTED:
            self.events.append(("reconnected", fl_ctx.get_prop(FLContextKey.RECONNECTED_CLIENT_NAME)))


@pytest.fixture
def listener(live: CommunicatorBench) -> Listener:
    listener = Listener()
    live.engine.add_component("listener", listener)
    return listener


def lose(bench: CommunicatorBench, name: str) -> None:
    """Report a client dead, and let its grace period pass."""
    bench.comm.process_dead_client_report(name, bench.ctx)
    bench.clock.now += 60
    wait_until(lambda: bench.comm.get_client_disconnect_time(name))


def test_a_client_reported_dead_is_disconnected_after_the_grace_period(
    live: CommunicatorBench, listener: Listener
) -> None:
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.clock.now += 59.9
    live.comm._sweeper.sweep()
    assert live.comm.get_client_disconnect_time("site-1") is None
    live.clock.now += 0.2
    wait_until(lambda: listener.events == [("disconnected", "site-1")])
    assert live.comm.get_client_disconnect_time("site-1") == live.clock.now
    assert live.comm.get_client_disconnect_time("site-2") is None


def test_after_a_pause_of_the_server_a_client_is_not_judged_before_it_was_looked_at(
    live: CommunicatorBench, listener: Listener
) -> None:
    live.comm.clients_were_looked_at(0.0, within=10.0)
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.check(after=1000)
    assert live.comm.get_client_disconnect_time("site-1") is None
    live.comm.client_is_active("site-1", "its heartbeat is back", live.ctx)
    live.comm.clients_were_looked_at(0.0, within=10.0)
    live.check(after=1000)
    assert live.comm.get_client_disconnect_time("site-1") is None
    assert not listener.events


def test_a_look_wakes_the_monitor(live: CommunicatorBench) -> None:
    live.comm.clients_were_looked_at(0.0, within=100.0)
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.check(after=60)
    live.comm.clients_were_looked_at(0.0, within=100.0)
    wait_until(lambda: live.comm.get_client_disconnect_time("site-1"))


def test_reports_that_are_repeated_do_not_extend_the_grace_period(live: CommunicatorBench) -> None:
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.clock.now += 40
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.clock.now += 20
    wait_until(lambda: live.comm.get_client_disconnect_time("site-1"))


def test_a_client_that_is_active_in_time_is_no_longer_watched(live: CommunicatorBench, listener: Listener) -> None:
    live.comm.process_dead_client_report("site-1", live.ctx)
    live.clock.now += 59
    live.comm.client_is_active("site-1", "it asked", live.ctx)
    live.clock.now += 60
    live.comm._sweeper.sweep()
    assert live.comm.get_client_disconnect_time("site-1") is None
    assert listener.events == []


def test_a_disconnected_client_that_is_active_is_connected_again(live: CommunicatorBench, listener: Listener) -> None:
    lose(live, "site-1")
    live.comm.client_is_active("site-1", "it asked", live.ctx)
    assert live.comm.get_client_disconnect_time("site-1") is None
    wait_until(lambda: len(listener.events) == 2)
    assert sorted(listener.events) == [("disconnected", "site-1"), ("reconnected", "site-1")]


def test_a_sign_of_life_of_a_connected_client_changes_nothing(live: CommunicatorBench, listener: Listener) -> None:
    live.comm.client_is_active("site-1", "it asked", live.ctx)
    assert listener.events == []


def test_a_handler_that_never_returns_does_not_stop_the_monitor(live: CommunicatorBench) -> None:
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


def test_a_handler_that_raises_does_not_stop_the_monitor(live: CommunicatorBench) -> None:
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


def test_a_task_that_waits_only_for_disconnected_clients_ends(live: CommunicatorBench) -> None:
    task = live.task()
    live.comm.broadcast(task, live.ctx)
    live.ask("site-1")
    live.do("site-2")
    lose(live, "site-1")
    live.settle(task)
    assert task.completion_status is TaskCompletionStatus.CLIENT_DEAD


@pytest.mark.parametrize("ghost", ["site-1", "ghost"], ids=["disconnected", "never joined"])
@pytest.mark.parametrize(
    ("min_responses", "status"), [(0, TaskCompletionStatus.OK), (2, TaskCompletionStatus.CLIENT_DEAD)]
)
def test_a_broadcast_does_not_wait_for_whom_it_was_not_sent_to(
    live: CommunicatorBench, ghost: str, min_responses: int, status: TaskCompletionStatus
) -> None:
    task = live.task()
    live.comm.broadcast(task, live.ctx, [ghost, "site-2"], min_responses)
    live.do("site-2")
    if ghost == "site-1":
        lose(live, ghost)
    live.check(after=59)
    if ghost == "ghost":
        assert task.completion_status is None
    live.clock.now += 1
    live.settle(task)
    assert task.completion_status is status


@pytest.mark.parametrize("method", ["send", "relay"])
def test_a_target_that_never_joined_is_passed_over_after_the_grace_period(live: CommunicatorBench, method: str) -> None:
    task = live.task()
    getattr(live.comm, method)(task, live.ctx, ["ghost", "site-2"])
    live.check(after=59)
    assert live.ask("site-2") == ""
    live.check(after=1)
    assert task.absent == {"ghost"}
    live.do("site-2")
    live.settle(task)
    assert task.completion_status is TaskCompletionStatus.OK


@pytest.mark.parametrize("method", ["broadcast", "send", "relay"])
def test_a_task_for_nobody_who_joined_ends(live: CommunicatorBench, method: str) -> None:
    task = live.task()
    getattr(live.comm, method)(task, live.ctx, ["ghost", "phantom"])
    live.check(after=59)
    assert task.completion_status is None
    live.clock.now += 1
    live.settle(task)
    assert task.completion_status is TaskCompletionStatus.CLIENT_DEAD


def test_a_target_that_joins_late_is_waited_for_again(live: CommunicatorBench) -> None:
    task = live.task()
    live.comm.send(task, live.ctx, ["ghost", "site-2"])
    live.check(after=60)
    assert task.absent == {"ghost"}
    live.engine.join("ghost")
    live.check(after=1)
    assert task.absent == frozenset()
    assert live.ask("site-2") == ""
    assert live.ask("ghost")


def test_a_task_continues_while_a_target_without_an_answer_is_alive(live: CommunicatorBench) -> None:
    task = live.task()
    live.comm.broadcast(task, live.ctx)
    lose(live, "site-1")
    live.check(after=100)
    assert task.completion_status is None


def test_a_task_waits_at_least_30_seconds_for_disconnected_clients(live: CommunicatorBench) -> None:
    lose(live, "site-1")
    task = live.task()
    live.comm.send(task, live.ctx, ["site-1"])
    live.check(after=29)
    assert task.completion_status is None
    live.clock.now += 1
    live.settle(task)
    assert task.completion_status is TaskCompletionStatus.CLIENT_DEAD


def test_a_client_that_is_active_again_in_time_gets_the_task_again(live: CommunicatorBench) -> None:
    task = live.task()
    live.comm.broadcast(task, live.ctx)
    task_id = live.ask("site-1")
    lose(live, "site-1")
    live.comm.client_is_active("site-1", "it asked", live.ctx)
    assert live.ask("site-1") == task_id


def test_a_relay_that_names_a_living_client_twice_does_not_end_before_its_second_place(live: CommunicatorBench) -> None:
    task = live.task()
    live.comm.relay(task, live.ctx, ["site-1", "site-2", "site-1"], SendOrder.ANY, dynamic_targets=False)
    live.do("site-1")
    lose(live, "site-2")
    live.check(after=40)
    assert task.completion_status is None


# -- the job's policy --------------------------------------------------------------------------------------------------


def panics(bench: CommunicatorBench) -> list[str]:
    return bench.engine.panics


def test_the_job_is_aborted_when_no_client_is_alive() -> None:
    with CommunicatorBench(["site-1"], monitor=True) as bench:
        lose(bench, "site-1")
        wait_until(lambda: panics(bench))
        assert "Aborting job due to deployment policy violation" in panics(bench)[0]
        assert bench.engine.abort_signal.triggered


def test_the_job_continues_while_enough_are_alive() -> None:
    with CommunicatorBench(["a", "b", "c"], monitor=True, job_meta={"min_clients": 2}) as bench:
        lose(bench, "a")
        bench.comm._sweeper.sweep()
        assert panics(bench) == []
        lose(bench, "b")
        wait_until(lambda: panics(bench))
        assert "only 1 clients are alive, 2 are needed" in panics(bench)[0]


def test_too_few_alive_count_only_once_enough_had_joined() -> None:
    with CommunicatorBench(["a", "b"], monitor=True, job_meta={"min_clients": 3}) as bench:
        lose(bench, "a")
        bench.comm._sweeper.sweep()
        assert panics(bench) == []
        bench.engine.join("c")
        wait_until(lambda: panics(bench))


def test_the_job_is_aborted_when_a_mandatory_client_is_dead() -> None:
    with CommunicatorBench(
        ["a", "b", "c"], monitor=True, job_meta={"min_clients": 1, "mandatory_clients": ["b"]}
    ) as bench:
        lose(bench, "a")
        bench.comm._sweeper.sweep()
        assert panics(bench) == []
        lose(bench, "b")
        wait_until(lambda: panics(bench))
        assert "mandatory clients are disconnected: b" in panics(bench)[0]


def test_it_panics_once_and_continues_to_check_tasks() -> None:
    with CommunicatorBench(["site-1"], monitor=True) as bench:
        task = bench.task(timeout=100)
        bench.comm.broadcast(task, bench.ctx, ["another"])
        lose(bench, "site-1")
        wait_until(lambda: panics(bench))
        bench.clock.now += 100
        bench.settle(task)
        assert task.completion_status is not None
        assert len(panics(bench)) == 1


def test_a_policy_that_cannot_be_checked_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with CommunicatorBench(["site-1", "site-2"], monitor=True, job_meta={"min_clients": "many"}) as bench:
        task = bench.task(timeout=100)
        bench.comm.broadcast(task, bench.ctx, ["another"])
        lose(bench, "site-1")
        bench.clock.now += 100
        bench.settle(task)
        bench.comm._sweeper.sweep()
    assert caplog.text.count("the job's minimum of clients could not be checked") == 1
    levels = [record.levelno for record in caplog.records if "could not be checked" in record.getMessage()]
    assert levels == [logging.ERROR]
