"""A broadcast goes once to each target, and is done when all, or enough of them, have answered."""

from __future__ import annotations

import pytest
from redflare_workers.apis import TaskCompletionStatus
from redflare_workers.communicator.managers.simple import DOES_NOT_COUNT, BcastTaskManager
from redflare_workers.communicator.managers.task_manager import TaskCheckStatus

from tests.support.communicator.manager_states import Sent, asking, send, standing_task

ANSWERED = Sent("a", 1, 2)


@pytest.mark.parametrize(
    ("name", "sent", "status"),
    [
        pytest.param("a", [], "SEND", id="a target gets it"),
        pytest.param("b", [Sent("a", 1)], "SEND", id="a target gets it while another has it"),
        pytest.param("a", [ANSWERED], "NO_BLOCK", id="a target that has answered gets the task behind it"),
        pytest.param("x", [], "NO_BLOCK", id="a client that is no target gets the task behind it"),
    ],
)
def test_who_gets_a_broadcast(name: str, sent: list[Sent], status: str) -> None:
    task = standing_task(["a", "b"], *sent)
    assert BcastTaskManager().check_task_send(asking(task, name), 5) is TaskCheckStatus[status]


@pytest.mark.parametrize(
    ("targets", "enough", "wait", "sent", "now", "done", "wake"),
    [
        pytest.param(["a"], 0, 0, [], 99, False, None, id="it stays when nothing was sent"),
        pytest.param([], 0, 0, [], 99, False, None, id="it stays when there is no client yet"),
        pytest.param(["a"], 0, 0, [Sent("a", 1)], 99, False, None, id="it stays when no client has answered"),
        pytest.param(["a"], 0, 0, [Sent("a", None)], 99, False, None, id="it stays when it is about to be sent"),
        pytest.param(["a"], 0, 0, [ANSWERED], 2, True, None, id="it is done when all have answered"),
        pytest.param(["a", "b"], 0, 0, [ANSWERED], 99, False, None, id="min 0 needs all: one was not sent to"),
        pytest.param(["a", "b"], 0, 0, [ANSWERED, Sent("b", 1)], 99, False, None, id="min 0 needs all: one has it"),
        pytest.param(["a", "b"], 0, 7, [ANSWERED], 99, False, None, id="min 0 needs all however long the wait is"),
        pytest.param(["a", "b"], 2, 7, [ANSWERED], 99, False, None, id="one of two that are needed is not enough"),
        pytest.param(["a", "b"], 1, 0, [ANSWERED], 2, True, None, id="enough and no wait: done at once"),
        pytest.param(["a", "b"], 1, 7, [ANSWERED], 2, False, 9, id="enough: the wait begins with the result"),
        pytest.param(["a", "b"], 1, 7, [ANSWERED], 8.9, False, 9, id="enough: the wait goes on"),
        pytest.param(["a", "b"], 1, 7, [ANSWERED], 9, True, None, id="enough: done at the end of the wait"),
        pytest.param(["a", "b"], 1, 7, [ANSWERED, Sent("b", 1, 3)], 3, True, None, id="all answered: no wait"),
        pytest.param(
            ["a", "b", "c"], 1, 7, [Sent("b", 1, 6), ANSWERED], 8, False, 9, id="the wait is not begun anew by the next"
        ),
        pytest.param(
            ["a", "b", "c"], 2, 7, [Sent("b", 1, 6), ANSWERED], 9, False, 13, id="the last that was needed begins it"
        ),
        pytest.param(
            None, 0, 0, [ANSWERED, Sent("b", 1)], 9, False, None, id="without targets: one that has it counts"
        ),
        pytest.param(None, 0, 0, [ANSWERED], 9, True, None, id="without targets: all that got it have answered"),
        pytest.param(["a"], 2, 0, [ANSWERED], 99, False, None, id="fewer than needed have joined: it waits for more"),
    ],
)
def test_when_a_broadcast_is_done(
    targets: list[str] | None, enough: int, wait: int, sent: list[Sent], now: float, done: bool, wake: float | None
) -> None:
    task = standing_task(targets, *sent)
    manager = BcastTaskManager(enough, wait)
    assert manager.check_task_exit(task, now) == (done, TaskCompletionStatus.OK if done else None)
    assert manager.next_change(task, now) == wake


def test_the_end_does_not_depend_on_how_often_it_was_asked_for() -> None:
    task = standing_task(["a", "b"], Sent("a", 1, 2))
    asked, fresh = BcastTaskManager(1, 10), BcastTaskManager(1, 10)
    assert [asked.check_task_exit(task, now)[0] for now in (2, 7, 11.9, 12)] == [False, False, False, True]
    assert fresh.check_task_exit(task, 12) == (True, TaskCompletionStatus.OK)


def test_a_client_that_joins_becomes_one_whose_answer_is_needed() -> None:
    task = standing_task(["a"], Sent("a", 1, 2))
    manager = BcastTaskManager()
    assert task.targets is not None
    task.targets.append("b")
    assert manager.check_task_send(asking(task, "b"), 2) is TaskCheckStatus.SEND
    assert manager.check_task_exit(task, 2) == (False, None)
    send(task, Sent("b", 2, 3))
    assert manager.check_task_exit(task, 3) == (True, TaskCompletionStatus.OK)


def test_repr_names_the_numbers() -> None:
    assert repr(BcastTaskManager(3, 10)) == "BcastTaskManager(min_responses=3, wait=10)"


@pytest.mark.parametrize(
    ("enough", "last", "now", "done"),
    [
        pytest.param(2, None, 99, False, id="it is none of those that are enough"),
        pytest.param(2, Sent("c", 1, 5), 5, True, id="another makes up for it"),
        pytest.param(3, Sent("c", 1, 5), 5, True, id="all have answered, and no client is left to replace it"),
        pytest.param(1, None, 9, True, id="enough without it: the wait begins with the first that counts"),
        pytest.param(1, None, 8.9, False, id="enough without it: the wait goes on"),
    ],
)
def test_an_unusable_result_is_an_answer_that_does_not_count(
    enough: int, last: Sent | None, now: float, done: bool
) -> None:
    task = standing_task(["a", "b", "c"])
    send(task, Sent("a", 1, 1.5)).props[DOES_NOT_COUNT] = True
    send(task, Sent("b", 1, 2))
    if last is not None:
        send(task, last)
    expected = (True, TaskCompletionStatus.OK) if done else (False, None)
    assert BcastTaskManager(enough, 7).check_task_exit(task, now) == expected
