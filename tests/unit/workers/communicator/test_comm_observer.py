"""The calls of the communicator to its observer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_workers.apis.client import Client
from redflare_workers.apis.task import ClientTask, SendOrder, Task, TaskCompletionStatus
from redflare_workers.communicator.comm_observer import CommObserver

from tests.support.communicator.bench import CommunicatorBench
from tests.support.waiting import wait_until


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    with CommunicatorBench(["site-1", "site-2"]) as bench:
        yield bench


def take_calls(bench: CommunicatorBench) -> list[frozenset[str] | None]:
    """The arguments of ``may_ask`` since the last call."""
    asked, bench.observer.asked = bench.observer.asked, []
    return asked


def handed_out(task: Task, name: str, task_id: str, *, received: float | None = None) -> ClientTask:
    client_task = ClientTask(Client(name, "t"), task)
    client_task.id = task_id
    client_task.task_sent_time = 1_699_999_000.0
    client_task.task_send_count = 1
    client_task.result_received_time = received
    return client_task


# -- scheduled ---------------------------------------------------------------------------------------------------------


def test_a_task_that_is_cancelled_while_it_is_notified_of_it_is_whole_and_can_be_cancelled_later(
    bench: CommunicatorBench,
) -> None:
    def cancel(task: Task) -> list[ClientTask]:
        bench.comm.cancel_task(task)
        return []

    bench.observer.adopt = cancel
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    assert bench.ask("site-1")
    assert bench.observer.ends == []
    bench.comm.cancel_task(task)
    bench.settle(task)
    assert [ended for ended, _ in bench.observer.ends] == [task]
    assert bench.comm.get_num_standing_tasks() == 0


def test_it_is_notified_of_a_task_before_requests_can_see_it(bench: CommunicatorBench) -> None:
    answers: list[Any] = []

    def look(task: Task) -> list[ClientTask]:
        answers.extend([bench.ask("site-1"), task.is_standing, bench.comm.schedule_of(task) is not None])
        return []

    bench.observer.adopt = look
    bench.comm.broadcast(bench.task(), bench.ctx)
    assert answers == ["", False, True]
    assert bench.ask("site-1")


def test_it_is_not_notified_of_a_refused_task(bench: CommunicatorBench) -> None:
    with pytest.raises(ValueError, match="min_responses"):
        bench.comm.broadcast(bench.task(), bench.ctx, ["site-1"], min_responses=2)
    assert bench.observer.schedules == []


def test_its_exception_at_a_task_reaches_the_scheduler_and_the_task_can_be_used_again(bench: CommunicatorBench) -> None:
    def refuse(task: Task) -> list[ClientTask]:
        raise ConnectionError("no ledger")

    task = bench.task()
    bench.observer.adopt = refuse
    with pytest.raises(ConnectionError, match="no ledger"):
        bench.comm.broadcast(task, bench.ctx)
    assert bench.comm.get_num_standing_tasks() == 0
    bench.observer.adopt = lambda task: []
    bench.comm.broadcast(task, bench.ctx)
    assert bench.do("site-1")


def test_client_tasks_handed_out_before_a_restart_are_sent_again_under_their_ids(bench: CommunicatorBench) -> None:
    bench.observer.adopt = lambda task: [handed_out(task, "site-1", "old-1")]
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    assert bench.ask("site-1") == "old-1"
    assert task.client_tasks[0].task_send_count == 2
    assert bench.ask("site-2") not in ("", "old-1")


def test_the_result_of_an_adopted_client_task_is_taken(bench: CommunicatorBench) -> None:
    bench.observer.adopt = lambda task: [handed_out(task, "site-1", "old-1")]
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    bench.answer("site-1", "old-1")
    bench.check()
    assert task.completion_status is TaskCompletionStatus.OK


def test_an_adopted_client_task_with_a_result_is_not_sent_again(bench: CommunicatorBench) -> None:
    bench.observer.adopt = lambda task: [handed_out(task, "site-1", "old-1", received=1_699_999_001.0)]
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    assert bench.ask("site-1") == ""
    bench.do("site-2")
    bench.check()
    assert task.completion_status is TaskCompletionStatus.OK


def test_a_sent_task_is_offered_to_no_other_client(bench: CommunicatorBench) -> None:
    bench.observer.adopt = lambda task: [handed_out(task, "site-2", "old-2")]
    bench.comm.send(bench.task(), bench.ctx, send_order=SendOrder.ANY)
    assert bench.ask("site-1") == ""
    assert bench.ask("site-2") == "old-2"


@pytest.mark.parametrize("order", list(SendOrder))
def test_a_relay_continues_at_its_position(bench: CommunicatorBench, order: SendOrder) -> None:
    bench.observer.adopt = lambda task: [
        handed_out(task, "site-1", "old-1", received=1_699_999_001.0),
        handed_out(task, "site-2", "old-2"),
    ]
    task = bench.task()
    bench.comm.relay(task, bench.ctx, ["site-1", "site-2", "site-3"], order)
    assert bench.ask("site-3") == ""
    assert bench.ask("site-2") == "old-2"
    bench.answer("site-2", "old-2")
    assert bench.do("site-3")
    bench.check()
    assert task.completion_status is TaskCompletionStatus.OK


def test_a_client_that_joined_before_the_restart_is_a_target_again(bench: CommunicatorBench) -> None:
    bench.observer.adopt = lambda task: [handed_out(task, "late", "old")]
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    assert task.targets == ["site-1", "site-2", "late"]


def test_only_client_tasks_of_the_task_can_be_adopted(bench: CommunicatorBench) -> None:
    bench.observer.adopt = lambda task: [handed_out(bench.task(), "site-1", "old-1")]
    with pytest.raises(ValueError, match="only ClientTasks of"):
        bench.comm.broadcast(bench.task(), bench.ctx)
    assert bench.comm.get_num_standing_tasks() == 0


# -- may_ask -----------------------------------------------------------------------------------------------------------


def test_targets_may_ask_when_a_task_is_scheduled(bench: CommunicatorBench) -> None:
    bench.comm.broadcast(bench.task(), bench.ctx, ["site-1"])
    bench.comm.broadcast(bench.task(), bench.ctx)
    bench.comm.relay(bench.task(), bench.ctx, ["site-1"])
    bench.comm.relay(bench.task(), bench.ctx, ["site-1"], dynamic_targets=False)
    assert take_calls(bench) == [frozenset({"site-1"}), None, None, frozenset({"site-1"})]


def test_clients_that_a_task_has_blocked_may_ask_when_it_ends(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.send(task, bench.ctx, ["site-1", "site-2"])
    assert bench.ask("site-2") == ""
    take_calls(bench)
    bench.comm.cancel_task(task)
    bench.settle(task)
    assert take_calls(bench) == [frozenset({"site-2"})]


def test_the_end_of_a_task_without_blocked_clients_is_no_reason_to_ask(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    bench.do("site-1")
    take_calls(bench)
    bench.comm.cancel_task(task)
    bench.settle(task)
    assert take_calls(bench) == []


def test_clients_that_waited_for_a_send_may_ask_when_another_gets_it(bench: CommunicatorBench) -> None:
    bench.comm.send(bench.task(), bench.ctx, ["site-1", "site-2"])
    bench.comm.broadcast(bench.task("behind"), bench.ctx, ["site-2"])
    assert bench.ask("site-2") == ""
    take_calls(bench)
    bench.ask("site-1")
    assert take_calls(bench) == [frozenset({"site-2"})]
    assert bench.ask_fully("site-2")[0] == "behind"


@pytest.mark.parametrize("callback", [None, lambda client_task, fl_ctx: None])
def test_the_targets_of_a_relay_may_ask_when_a_result_is_in(bench: CommunicatorBench, callback: Any) -> None:
    bench.comm.relay(bench.task(result_received_cb=callback), bench.ctx, ["site-1", "site-2"])
    task_id = bench.ask("site-1")
    assert bench.ask("late") == ""
    take_calls(bench)
    bench.answer("site-1", task_id)
    assert take_calls(bench) == [frozenset({"site-1", "site-2", "late"})]


def test_results_of_a_broadcast_are_no_reason_to_ask(bench: CommunicatorBench) -> None:
    bench.comm.broadcast(bench.task(), bench.ctx)
    take_calls(bench)
    bench.do("site-1")
    assert take_calls(bench) == []


def test_targets_may_ask_when_time_opens_a_window() -> None:
    with CommunicatorBench(["site-1", "site-2"], monitor=True) as bench:
        bench.comm.send(bench.task(), bench.ctx, ["site-1", "site-2"], task_assignment_timeout=10)
        assert bench.ask("site-2") == ""
        # the monitor has seen when the next one's lock is
        standing = next(iter(bench.comm._lifecycle.registry.standing_tasks.values()))
        wait_until(lambda: standing.due == bench.clock.now + 10)
        take_calls(bench)
        bench.clock.now += 10
        wait_until(lambda: bench.observer.asked == [frozenset({"site-1", "site-2"})])
        assert bench.ask("site-2")


def test_the_window_of_a_relay_opens_when_a_client_is_given_up() -> None:
    with CommunicatorBench(["site-1", "site-2"], monitor=True) as bench:
        bench.comm.relay(bench.task(), bench.ctx, ["site-1", "site-2"], task_result_timeout=10, dynamic_targets=False)
        bench.ask("site-1")
        standing = next(iter(bench.comm._lifecycle.registry.standing_tasks.values()))
        wait_until(lambda: standing.due == bench.clock.now + 10)
        take_calls(bench)
        bench.clock.now += 10
        wait_until(lambda: bench.observer.asked)
        assert bench.ask("site-2")


# -- ended -------------------------------------------------------------------------------------------------------------


def test_it_is_notified_of_the_end_and_unanswered_client_tasks_before_task_done(bench: CommunicatorBench) -> None:
    ends_before: list[int] = []
    task = bench.task(task_done_cb=lambda task, fl_ctx: ends_before.append(len(bench.observer.ends)))
    bench.comm.broadcast(task, bench.ctx)
    bench.do("site-1")
    task_id = bench.ask("site-2")
    bench.comm.cancel_task(task)
    bench.settle(task)
    ((ended, unanswered),) = bench.observer.ends
    assert ended is task
    assert [client_task.id for client_task in unanswered] == [task_id]
    assert ends_before == [1]


def test_its_exceptions_are_only_logged(bench: CommunicatorBench, caplog: pytest.LogCaptureFixture) -> None:
    class Bad(CommObserver):
        def may_ask(self, names: Any) -> None:
            raise ConnectionError("not connected")

        def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
            raise ConnectionError("not connected")

    done = threading.Event()
    bench.comm.observer = Bad()
    task = bench.task(task_done_cb=lambda task, fl_ctx: done.set())
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    bench.do("site-1")
    bench.check()
    assert done.wait(10)
    assert task.completion_status is TaskCompletionStatus.OK
    assert caplog.text.count("ConnectionError: not connected") == 2


def test_it_is_called_without_a_lock(bench: CommunicatorBench) -> None:
    problems: list[str] = []

    class Reentrant(CommObserver):
        def look(self) -> None:
            lock = bench.comm._lifecycle.lock
            if lock.acquire(timeout=5):
                lock.release()
            else:
                problems.append("the lock is held")

        def protect(self, task: Task, data: Any) -> Any:
            self.look()
            return super().protect(task, data)

        def scheduled(self, task: Task) -> list[ClientTask]:
            self.look()
            return []

        def may_ask(self, names: Any) -> None:
            self.look()

        def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
            self.look()

        def checkpoint(self, state: dict[str, Any], history: Any) -> None:
            self.look()

    bench.comm.observer = Reentrant()
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["site-1"])
    bench.comm.relay(bench.task("relay"), bench.ctx, ["site-1", "site-2"])
    bench.do("site-1")
    bench.do("site-1", "relay")
    bench.check()
    bench.settle(task)
    bench.comm.checkpoint({})
    assert problems == []
