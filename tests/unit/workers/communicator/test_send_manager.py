"""A send goes to one client: the first that asks, or the first target whose window is open."""

from __future__ import annotations

import pytest
from redflare_workers.apis import SendOrder, TaskCompletionStatus
from redflare_workers.communicator.managers.simple import SendTaskManager
from redflare_workers.communicator.managers.task_manager import TaskCheckStatus

from tests.support.communicator.manager_states import Sent, asking, standing_task

ANY, SEQUENTIAL = SendOrder.ANY, SendOrder.SEQUENTIAL


@pytest.mark.parametrize(
    ("order", "timeout", "name", "sent", "now", "status"),
    [
        pytest.param(ANY, 0, "c", [], 100, "SEND", id="ANY: the first client that asks gets it"),
        pytest.param(ANY, 10, "c", [], 100, "SEND", id="ANY: an assignment timeout changes nothing"),
        pytest.param(ANY, 0, "x", [], 100, "NO_BLOCK", id="ANY: a client that is no target does not"),
        pytest.param(ANY, 0, "b", [Sent("a", 1)], 100, "NO_BLOCK", id="ANY: another one has it"),
        pytest.param(ANY, 0, "b", [Sent("a", None)], 100, "NO_BLOCK", id="ANY: another one is about to get it"),
        pytest.param(ANY, 0, "a", [Sent("a", 1, 2)], 100, "NO_BLOCK", id="ANY: the one that has answered"),
        pytest.param(SEQUENTIAL, 0, "a", [], 100, "SEND", id="no timeout: the first target gets it"),
        pytest.param(SEQUENTIAL, 0, "b", [], 1e9, "BLOCK", id="no timeout: all others wait for ever"),
        pytest.param(SEQUENTIAL, None, "b", [], 1e9, "BLOCK", id="a timeout of None is none"),
        pytest.param(SEQUENTIAL, -1, "b", [], 1e9, "BLOCK", id="a negative timeout is none"),
        pytest.param(SEQUENTIAL, 10, "a", [], 100, "SEND", id="the first target gets it at once"),
        pytest.param(SEQUENTIAL, 10, "b", [], 114.9, "BLOCK", id="the second waits for its window"),
        pytest.param(SEQUENTIAL, 10, "b", [], 115, "SEND", id="the second gets it one timeout after scheduling"),
        pytest.param(SEQUENTIAL, 10, "c", [], 115, "BLOCK", id="the third still waits then"),
        pytest.param(SEQUENTIAL, 10, "c", [], 125, "SEND", id="the third gets it one timeout later"),
        pytest.param(SEQUENTIAL, 10, "a", [], 125, "SEND", id="the first may still come then"),
        pytest.param(SEQUENTIAL, 10, "x", [], 1e9, "NO_BLOCK", id="a client that is no target never gets it"),
        pytest.param(SEQUENTIAL, 10, "b", [Sent("a", 100)], 1e9, "NO_BLOCK", id="once sent no other gets it"),
    ],
)
def test_who_gets_it(
    order: SendOrder, timeout: int | None, name: str, sent: list[Sent], now: float, status: str
) -> None:
    task = standing_task(["a", "b", "c"], *sent, created=100, scheduled=105)
    manager = SendTaskManager(order, timeout)
    assert manager.check_task_send(asking(task, name), now) is TaskCheckStatus[status]


@pytest.mark.parametrize(
    ("name", "absent", "timeout", "now", "status"),
    [
        pytest.param("b", "a", 0, 105, "SEND", id="the second gets it instead of an absent first"),
        pytest.param("c", "a", 0, 1e9, "BLOCK", id="the third waits for the second"),
        pytest.param("c", "ab", 0, 105, "SEND", id="the third gets it when both are absent"),
        pytest.param("c", "a", 10, 115, "SEND", id="it is the second then"),
        pytest.param("a", "a", 0, 105, "SEND", id="an absent one that is back gets it"),
        pytest.param("b", "c", 0, 1e9, "BLOCK", id="an absent one behind it changes nothing"),
    ],
)
def test_absent_targets_are_passed_over(name: str, absent: str, timeout: int, now: float, status: str) -> None:
    task = standing_task(["a", "b", "c"], created=100, scheduled=105)
    task.absent = frozenset(absent)
    assert SendTaskManager(SEQUENTIAL, timeout).check_task_send(asking(task, name), now) is TaskCheckStatus[status]


def test_no_window_opens_for_an_absent_target() -> None:
    task = standing_task(["a", "b", "c"], scheduled=100)
    task.absent = frozenset("c")
    manager = SendTaskManager(SEQUENTIAL, 10)
    assert (manager.next_change(task, 100), manager.next_change(task, 110)) == (110, None)


@pytest.mark.parametrize(
    ("targets", "sent", "done"),
    [
        pytest.param(["a"], [], False, id="no client has it"),
        pytest.param([], [], False, id="there is no client"),
        pytest.param(None, [], False, id="no client has joined"),
        pytest.param(["a"], [Sent("a", 1)], False, id="one has it and has not answered"),
        pytest.param(["a"], [Sent("a", 1, 2)], True, id="the one that has it has answered"),
        pytest.param(["a", "b"], [Sent("b", 1, 2)], True, id="no other has to answer"),
    ],
)
@pytest.mark.parametrize("order", SendOrder)
def test_it_is_done_with_the_result(order: SendOrder, targets: list[str] | None, sent: list[Sent], done: bool) -> None:
    task = standing_task(targets, *sent)
    status = TaskCompletionStatus.OK if done else None
    assert SendTaskManager(order, 10).check_task_exit(task, 1e9) == (done, status)


@pytest.mark.parametrize(
    ("order", "timeout", "sent", "now", "wake"),
    [
        pytest.param(SEQUENTIAL, 10, [], 105, 115, id="the second target's window"),
        pytest.param(SEQUENTIAL, 10, [], 115, 125, id="then the third's"),
        pytest.param(SEQUENTIAL, 10, [], 124.9, 125, id="the third's is yet to come"),
        pytest.param(SEQUENTIAL, 10, [], 125, None, id="all windows are open"),
        pytest.param(SEQUENTIAL, 0, [], 100, None, id="there are no windows without a timeout"),
        pytest.param(SEQUENTIAL, 10, [Sent("a", 100)], 100, None, id="one has it"),
        pytest.param(ANY, 10, [], 100, None, id="there are no windows in any order"),
    ],
)
def test_when_time_alone_changes_something(
    order: SendOrder, timeout: int, sent: list[Sent], now: float, wake: float | None
) -> None:
    task = standing_task(["a", "b", "c"], *sent, created=100, scheduled=105)
    assert SendTaskManager(order, timeout).next_change(task, now) == wake


def test_without_targets_any_client_that_joins_gets_it() -> None:
    task = standing_task(None)
    assert SendTaskManager(ANY, 0).check_task_send(asking(task, "late"), 1) is TaskCheckStatus.SEND


def test_repr_names_order_and_timeout() -> None:
    assert repr(SendTaskManager(ANY, None)) == "SendTaskManager(any, assignment_timeout=0)"
