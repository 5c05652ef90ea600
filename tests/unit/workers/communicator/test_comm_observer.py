"""What the communicator tells its observer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_workers.apis.client import Client
from redflare_workers.apis.task import ClientTask, SendOrder, Task, TaskCompletionStatus
from redflare_workers.communicator.comm_observer import CommObserver

from tests.support.communicator.scene import Scene
from tests.support.waiting import wait_until


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene(["site-1", "site-2"]) as scene:
        yield scene


def heard(scene: Scene) -> list[frozenset[str] | None]:
    """Who may ask, since the last time."""
    asked, scene.observer.asked = scene.observer.asked, []
    return asked


def handed_out(task: Task, name: str, task_id: str, *, received: float | None = None) -> ClientTask:
    client_task = ClientTask(Client(name, "t"), task)
    client_task.id = task_id
    client_task.task_sent_time = 1_699_999_000.0
    client_task.task_send_count = 1
    client_task.result_received_time = received
    return client_task


# -- scheduled ---------------------------------------------------------------------------------------------------------


def test_it_hears_of_a_task_before_requests_can_see_it(scene: Scene) -> None:
    answers: list[Any] = []

    def look(task: Task) -> list[ClientTask]:
        answers.extend([scene.ask("site-1"), task.is_standing, scene.comm.schedule_of(task) is not None])
        return []

    scene.observer.adopt = look
    scene.comm.broadcast(scene.task(), scene.ctx)
    assert answers == ["", False, True]
    assert scene.ask("site-1")


def test_it_does_not_hear_of_a_task_that_was_refused(scene: Scene) -> None:
    with pytest.raises(ValueError, match="min_responses"):
        scene.comm.broadcast(scene.task(), scene.ctx, ["site-1"], min_responses=2)
    assert scene.observer.schedules == []


def test_what_it_raises_at_a_task_the_scheduler_gets_and_the_task_can_be_used_again(scene: Scene) -> None:
    def refuse(task: Task) -> list[ClientTask]:
        raise ConnectionError("no ledger")

    task = scene.task()
    scene.observer.adopt = refuse
    with pytest.raises(ConnectionError, match="no ledger"):
        scene.comm.broadcast(task, scene.ctx)
    assert scene.comm.get_num_standing_tasks() == 0
    scene.observer.adopt = lambda task: []
    scene.comm.broadcast(task, scene.ctx)
    assert scene.do("site-1")


def test_client_tasks_handed_out_before_a_restart_are_sent_again_under_their_ids(scene: Scene) -> None:
    scene.observer.adopt = lambda task: [handed_out(task, "site-1", "old-1")]
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    assert scene.ask("site-1") == "old-1"
    assert task.client_tasks[0].task_send_count == 2
    assert scene.ask("site-2") not in ("", "old-1")


def test_the_result_of_an_adopted_client_task_is_taken(scene: Scene) -> None:
    scene.observer.adopt = lambda task: [handed_out(task, "site-1", "old-1")]
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    scene.answer("site-1", "old-1")
    scene.check()
    assert task.completion_status is TaskCompletionStatus.OK


def test_an_adopted_client_task_with_a_result_is_not_given_out_again(scene: Scene) -> None:
    scene.observer.adopt = lambda task: [handed_out(task, "site-1", "old-1", received=1_699_999_001.0)]
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    assert scene.ask("site-1") == ""
    scene.do("site-2")
    scene.check()
    assert task.completion_status is TaskCompletionStatus.OK


def test_a_send_that_was_handed_out_goes_to_nobody_else(scene: Scene) -> None:
    scene.observer.adopt = lambda task: [handed_out(task, "site-2", "old-2")]
    scene.comm.send(scene.task(), scene.ctx, send_order=SendOrder.ANY)
    assert scene.ask("site-1") == ""
    assert scene.ask("site-2") == "old-2"


@pytest.mark.parametrize("order", list(SendOrder))
def test_a_relay_goes_on_where_it_was(scene: Scene, order: SendOrder) -> None:
    scene.observer.adopt = lambda task: [
        handed_out(task, "site-1", "old-1", received=1_699_999_001.0),
        handed_out(task, "site-2", "old-2"),
    ]
    task = scene.task()
    scene.comm.relay(task, scene.ctx, ["site-1", "site-2", "site-3"], order)
    assert scene.ask("site-3") == ""
    assert scene.ask("site-2") == "old-2"
    scene.answer("site-2", "old-2")
    assert scene.do("site-3")
    scene.check()
    assert task.completion_status is TaskCompletionStatus.OK


def test_a_client_that_joined_before_the_restart_is_a_target_again(scene: Scene) -> None:
    scene.observer.adopt = lambda task: [handed_out(task, "late", "old")]
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    assert task.targets == ["site-1", "site-2", "late"]


def test_only_client_tasks_of_the_task_can_be_adopted(scene: Scene) -> None:
    scene.observer.adopt = lambda task: [handed_out(scene.task(), "site-1", "old-1")]
    with pytest.raises(ValueError, match="only ClientTasks of"):
        scene.comm.broadcast(scene.task(), scene.ctx)
    assert scene.comm.get_num_standing_tasks() == 0


# -- may_ask -----------------------------------------------------------------------------------------------------------


def test_targets_may_ask_when_a_task_is_scheduled(scene: Scene) -> None:
    scene.comm.broadcast(scene.task(), scene.ctx, ["site-1"])
    scene.comm.broadcast(scene.task(), scene.ctx)
    scene.comm.relay(scene.task(), scene.ctx, ["site-1"])
    scene.comm.relay(scene.task(), scene.ctx, ["site-1"], dynamic_targets=False)
    assert heard(scene) == [frozenset({"site-1"}), None, None, frozenset({"site-1"})]


def test_those_whom_a_task_told_to_wait_may_ask_when_it_ends(scene: Scene) -> None:
    task = scene.task()
    scene.comm.send(task, scene.ctx, ["site-1", "site-2"])
    assert scene.ask("site-2") == ""
    heard(scene)
    scene.comm.cancel_task(task)
    scene.settle(task)
    assert heard(scene) == [frozenset({"site-2"})]


def test_the_end_of_a_task_that_nobody_waited_for_is_no_reason_to_ask(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    scene.do("site-1")
    heard(scene)
    scene.comm.cancel_task(task)
    scene.settle(task)
    assert heard(scene) == []


def test_those_who_waited_for_a_send_may_ask_when_another_gets_it(scene: Scene) -> None:
    scene.comm.send(scene.task(), scene.ctx, ["site-1", "site-2"])
    scene.comm.broadcast(scene.task("behind"), scene.ctx, ["site-2"])
    assert scene.ask("site-2") == ""
    heard(scene)
    scene.ask("site-1")
    assert heard(scene) == [frozenset({"site-2"})]
    assert scene.ask_fully("site-2")[0] == "behind"


@pytest.mark.parametrize("callback", [None, lambda client_task, fl_ctx: None])
def test_the_targets_of_a_relay_may_ask_when_a_result_is_in(scene: Scene, callback: Any) -> None:
    scene.comm.relay(scene.task(result_received_cb=callback), scene.ctx, ["site-1", "site-2"])
    task_id = scene.ask("site-1")
    assert scene.ask("late") == ""
    heard(scene)
    scene.answer("site-1", task_id)
    assert heard(scene) == [frozenset({"site-1", "site-2", "late"})]


def test_results_of_a_broadcast_are_no_reason_to_ask(scene: Scene) -> None:
    scene.comm.broadcast(scene.task(), scene.ctx)
    heard(scene)
    scene.do("site-1")
    assert heard(scene) == []


def test_targets_may_ask_when_time_opens_a_window() -> None:
    with Scene(["site-1", "site-2"], monitor=True) as scene:
        scene.comm.send(scene.task(), scene.ctx, ["site-1", "site-2"], task_assignment_timeout=10)
        assert scene.ask("site-2") == ""
        # the monitor has seen when the next one's lock is
        standing = next(iter(scene.comm._lifecycle.registry.standing_tasks.values()))
        wait_until(lambda: standing.due == scene.clock.now + 10)
        heard(scene)
        scene.clock.now += 10
        wait_until(lambda: scene.observer.asked == [frozenset({"site-1", "site-2"})])
        assert scene.ask("site-2")


def test_the_window_of_a_relay_opens_when_a_client_is_given_up() -> None:
    with Scene(["site-1", "site-2"], monitor=True) as scene:
        scene.comm.relay(scene.task(), scene.ctx, ["site-1", "site-2"], task_result_timeout=10, dynamic_targets=False)
        scene.ask("site-1")
        standing = next(iter(scene.comm._lifecycle.registry.standing_tasks.values()))
        wait_until(lambda: standing.due == scene.clock.now + 10)
        heard(scene)
        scene.clock.now += 10
        wait_until(lambda: scene.observer.asked)
        assert scene.ask("site-2")


# -- ended -------------------------------------------------------------------------------------------------------------


def test_it_hears_of_the_end_before_task_done_and_what_is_unanswered(scene: Scene) -> None:
    heard_before: list[int] = []
    task = scene.task(task_done_cb=lambda task, fl_ctx: heard_before.append(len(scene.observer.ends)))
    scene.comm.broadcast(task, scene.ctx)
    scene.do("site-1")
    task_id = scene.ask("site-2")
    scene.comm.cancel_task(task)
    scene.settle(task)
    ((ended, unanswered),) = scene.observer.ends
    assert ended is task
    assert [client_task.id for client_task in unanswered] == [task_id]
    assert heard_before == [1]


def test_what_it_raises_when_told_is_logged_and_nothing_else(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    class Bad(CommObserver):
        def may_ask(self, names: Any) -> None:
            raise ConnectionError("nobody hears")

        def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
            raise ConnectionError("nobody hears")

    done = threading.Event()
    scene.comm.observer = Bad()
    task = scene.task(task_done_cb=lambda task, fl_ctx: done.set())
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    scene.do("site-1")
    scene.check()
    assert done.wait(10)
    assert task.completion_status is TaskCompletionStatus.OK
    assert caplog.text.count("ConnectionError: nobody hears") == 2


def test_it_is_called_without_a_lock(scene: Scene) -> None:
    problems: list[str] = []

    class Curious(CommObserver):
        def look(self) -> None:
            lock = scene.comm._lifecycle.lock
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

        def checkpoint(self, state: dict[str, Any]) -> None:
            self.look()

    scene.comm.observer = Curious()
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx, ["site-1"])
    scene.comm.relay(scene.task("relay"), scene.ctx, ["site-1", "site-2"])
    scene.do("site-1")
    scene.do("site-1", "relay")
    scene.check()
    scene.settle(task)
    scene.comm.checkpoint({})
    assert problems == []
