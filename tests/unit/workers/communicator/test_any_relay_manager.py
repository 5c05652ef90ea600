"""A relay in any order: one client has the task at a time, each as often as it is named."""

from __future__ import annotations

import pytest
from redflare_workers.apis import ReservedHeaderKey, Shareable, TaskCompletionStatus
from redflare_workers.communicator.managers.relay import AnyRelayTaskManager
from redflare_workers.communicator.managers.task_manager import TaskCheckStatus

from tests.support.communicator.manager_states import Sent, asking, send, standing_task

A_ANSWERED = Sent("a", 1, 2)


@pytest.mark.parametrize(
    ("name", "sent", "now", "status"),
    [
        pytest.param("a", [], 0, "SEND", id="the first client that asks gets it"),
        pytest.param("b", [], 0, "SEND", id="whichever target that is"),
        pytest.param("x", [], 0, "NO_BLOCK", id="a client that is no target does not"),
        pytest.param("b", [Sent("a", None)], 1e9, "BLOCK", id="another one is about to get it: wait"),
        pytest.param("b", [Sent("a", 1)], 30.9, "BLOCK", id="another one has time to answer: wait"),
        pytest.param("x", [Sent("a", 1)], 2, "NO_BLOCK", id="others than targets do not wait"),
        pytest.param("b", [Sent("a", 1)], 31, "SEND", id="the one that had it is given up"),
        pytest.param("b", [A_ANSWERED], 2, "SEND", id="the one that had it has answered"),
        pytest.param("a", [A_ANSWERED], 2, "SEND", id="named twice, had once: it gets it again"),
        pytest.param("b", [Sent("b", 1, 2)], 2, "NO_BLOCK", id="named once, had once: it gets the task behind"),
        pytest.param("b", [Sent("b", 1, 2), Sent("a", 3)], 4, "NO_BLOCK", id="who has had it does not wait for others"),
        pytest.param("a", [A_ANSWERED, Sent("a", 3, 4)], 4, "NO_BLOCK", id="named twice, had twice"),
        pytest.param("a", [A_ANSWERED, Sent("b", 3)], 4, "BLOCK", id="named twice, had once, another one has it"),
    ],
)
def test_who_gets_it(name: str, sent: list[Sent], now: float, status: str) -> None:
    task = standing_task(["a", "b", "a"], *sent)
    manager = AnyRelayTaskManager(30, dynamic_targets=False)
    assert manager.check_task_send(asking(task, name), now) is TaskCheckStatus[status]
    assert task.targets == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("targets", "sent", "now", "done", "wake"),
    [
        pytest.param(None, [], 9, False, None, id="no client has joined"),
        pytest.param([], [], 9, False, None, id="there is no client"),
        pytest.param(["a"], [], 9, False, None, id="no client has it"),
        pytest.param(["a"], [Sent("a", None)], 9, False, None, id="the only one is about to get it"),
        pytest.param(["a"], [Sent("a", 1)], 9, False, 31, id="the only one has it"),
        pytest.param(["a"], [Sent("a", 1)], 31, False, None, id="the only one is given up"),
        pytest.param(["a"], [A_ANSWERED], 9, True, None, id="the only one has answered"),
        pytest.param(["a", "b"], [A_ANSWERED], 9, False, None, id="another one has not had it"),
        pytest.param(["a", "b"], [A_ANSWERED, Sent("b", 3)], 9, False, 33, id="another one has it"),
        pytest.param(["a", "b"], [A_ANSWERED, Sent("b", 3, 4)], 9, True, None, id="all have answered"),
        pytest.param(["a", "a"], [A_ANSWERED], 9, False, None, id="named twice, answered once"),
        pytest.param(["a", "a"], [A_ANSWERED, Sent("a", 3, 4)], 9, True, None, id="named twice, answered twice"),
        pytest.param(["a", "b"], [Sent("a", 1), Sent("b", 32, 33)], 99, False, None, id="one was given up, it owes"),
        pytest.param(
            ["a", "b"], [Sent("a", 1, 40), Sent("b", 32, 33)], 99, True, None, id="one that was given up came late"
        ),
    ],
)
def test_when_it_is_done(
    targets: list[str] | None, sent: list[Sent], now: float, done: bool, wake: float | None
) -> None:
    task = standing_task(targets, *sent)
    manager = AnyRelayTaskManager(30, dynamic_targets=True)
    assert manager.check_task_exit(task, now) == (done, TaskCompletionStatus.OK if done else None)
    assert manager.next_change(task, now) == wake
    assert task.targets == targets


@pytest.mark.parametrize("timeout", [0, None])
def test_without_a_timeout_no_client_is_given_up(timeout: int | None) -> None:
    task = standing_task(["a", "b"], Sent("a", 1))
    manager = AnyRelayTaskManager(timeout, dynamic_targets=False)
    assert manager.check_task_send(asking(task, "b"), 1e9) is TaskCheckStatus.BLOCK
    assert manager.next_change(task, 1e9) is None


def test_a_late_answer_is_not_asked_for_again() -> None:
    task = standing_task(["a", "b"], Sent("a", 1), Sent("b", 32))
    manager = AnyRelayTaskManager(30, dynamic_targets=False)
    task.client_tasks[0].result_received_time = 33
    assert manager.check_task_send(asking(task, "a"), 34) is TaskCheckStatus.NO_BLOCK
    task.client_tasks[1].result_received_time = 35
    assert manager.check_task_exit(task, 35) == (True, TaskCompletionStatus.OK)


@pytest.mark.parametrize("targets", [None, [], ["a"]])
def test_a_client_that_asks_a_dynamic_relay_becomes_a_target(targets: list[str] | None) -> None:
    task = standing_task(targets)
    manager = AnyRelayTaskManager(0, dynamic_targets=True)
    assert manager.check_task_send(asking(task, "b"), 1) is TaskCheckStatus.SEND
    assert task.targets == [*(targets or []), "b"]
    send(task, Sent("b", 1, 2))
    assert manager.check_task_send(asking(task, "b"), 3) is TaskCheckStatus.NO_BLOCK
    assert task.targets == [*(targets or []), "b"]


def test_without_targets_and_not_dynamic_no_client_gets_it() -> None:
    task = standing_task(None)
    manager = AnyRelayTaskManager(0, dynamic_targets=False)
    assert manager.check_task_send(asking(task, "a"), 1) is TaskCheckStatus.NO_BLOCK


def test_only_a_result_that_is_not_the_newest_sendings_is_marked_as_late() -> None:
    task = standing_task(["a", "b"], Sent("a", 1), Sent("b", 40))
    manager = AnyRelayTaskManager(30, dynamic_targets=False)
    late, in_time = Shareable(), Shareable()
    manager.check_task_result(late, task.client_tasks[0], 41)
    manager.check_task_result(in_time, task.client_tasks[1], 41)
    assert late.get_header(ReservedHeaderKey.REPLY_IS_LATE) is True
    assert in_time.get_header(ReservedHeaderKey.REPLY_IS_LATE) is None


def test_an_absent_target_that_never_got_it_owes_no_answer() -> None:
    manager = AnyRelayTaskManager(None, dynamic_targets=False)
    task = standing_task(["a", "b", "c"], Sent("a", 1, 2))
    task.absent = frozenset("bc")
    assert manager.check_task_exit(task, 3) == (True, TaskCompletionStatus.OK)
    # it has it, and may come back with its answer
    task = standing_task(["a", "b"], Sent("a", 1, 2), Sent("b", 2))
    task.absent = frozenset("b")
    assert manager.check_task_exit(task, 3) == (False, None)
    task = standing_task(["b", "c"])
    task.absent = frozenset("bc")
    assert manager.check_task_exit(task, 3) == (False, None)
