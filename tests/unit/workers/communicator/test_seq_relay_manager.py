"""A relay in sequence: a window moves along the targets and grows while no client asks for the task."""

from __future__ import annotations

import pytest
from redflare_workers.apis import ReservedHeaderKey, Shareable, TaskCompletionStatus
from redflare_workers.communicator.managers.relay import SequentialRelayTaskManager
from redflare_workers.communicator.managers.task_manager import TaskCheckStatus

from tests.support.communicator.manager_states import Sent, asking, send, standing_task

OK, TIMEOUT = TaskCompletionStatus.OK, TaskCompletionStatus.TIMEOUT
#: The task is scheduled at 100, an assignment has 10 seconds and a result 30.
A_HAS_IT = [Sent("a", 105)]
A_ANSWERED = [Sent("a", 105, 120)]
ALL_ANSWERED = [*A_ANSWERED, Sent("b", 121, 130), Sent("c", 131, 140)]


@pytest.mark.parametrize(
    ("name", "sent", "now", "status"),
    [
        pytest.param("a", [], 100, "SEND", id="the first target is in the window from scheduling on"),
        pytest.param("b", [], 109.9, "NO_BLOCK", id="the second is not yet: it gets the task behind"),
        pytest.param("b", [], 110, "SEND", id="the second is after one assignment timeout"),
        pytest.param("a", [], 110, "SEND", id="the first still is then"),
        pytest.param("c", [], 110, "NO_BLOCK", id="the third is not yet then"),
        pytest.param("c", [], 120, "SEND", id="the third is one timeout later"),
        pytest.param("c", [], 139.9, "SEND", id="the third is until the end"),
        pytest.param("c", [], 140, "BLOCK", id="past the end everybody waits for it to be over"),
        pytest.param("x", [], 120, "NO_BLOCK", id="a client that is no target never is"),
        pytest.param("b", [Sent("a", None)], 999, "BLOCK", id="the first is about to get it: all wait"),
        pytest.param("b", A_HAS_IT, 134.9, "BLOCK", id="the first has time to answer: all wait"),
        pytest.param("x", A_HAS_IT, 120, "NO_BLOCK", id="the first has it: others than targets do not wait"),
        pytest.param("b", A_ANSWERED, 120, "SEND", id="the first has answered: the second may have it"),
        pytest.param("c", A_ANSWERED, 129.9, "NO_BLOCK", id="the first has answered: not yet the third's"),
        pytest.param("c", A_ANSWERED, 130, "SEND", id="the window grows from the moment of the answer"),
        pytest.param("a", A_ANSWERED, 130, "NO_BLOCK", id="who has had it is behind the window"),
        pytest.param("b", A_HAS_IT, 135, "SEND", id="the first is given up: the second may have it"),
        pytest.param("c", A_HAS_IT, 144.9, "NO_BLOCK", id="the first is given up: not yet the third's"),
        pytest.param("c", A_HAS_IT, 145, "SEND", id="the window grows from the moment of giving up"),
        pytest.param("b", [Sent("c", 120, 125)], 125, "BLOCK", id="a skipped target is not asked again"),
        pytest.param("a", ALL_ANSWERED, 140, "BLOCK", id="all have answered: it is about to end"),
    ],
)
def test_who_gets_it(name: str, sent: list[Sent], now: float, status: str) -> None:
    task = standing_task(["a", "b", "c"], *sent, created=50, scheduled=100)
    manager = SequentialRelayTaskManager(10, 30, dynamic_targets=False)
    assert manager.check_task_send(asking(task, name), now) is TaskCheckStatus[status]
    assert task.targets == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("sent", "now", "done", "wake"),
    [
        pytest.param([], 100, None, 110, id="the window has opened and will grow"),
        pytest.param([], 110, None, 120, id="it has grown and will again"),
        pytest.param([], 120, None, 140, id="all are in it, what comes is the end"),
        pytest.param([], 139.9, None, 140, id="no client asks, just before the end"),
        pytest.param([], 140, TIMEOUT, None, id="no client asked"),
        pytest.param([Sent("a", None)], 999, None, None, id="the first is about to get it"),
        pytest.param(A_HAS_IT, 106, None, 135, id="the first has time to answer"),
        pytest.param(A_HAS_IT, 135, None, 145, id="the first is given up, the window has moved"),
        pytest.param(A_HAS_IT, 145, None, 165, id="the last is in the window"),
        pytest.param(A_HAS_IT, 165, TIMEOUT, None, id="past the end: the last that got it did not answer"),
        pytest.param(A_ANSWERED, 120, None, 130, id="the first has answered, the window has moved"),
        pytest.param(A_ANSWERED, 130, None, 150, id="the last is in the window then"),
        pytest.param(A_ANSWERED, 150, OK, None, id="past the end: the last that got it has answered"),
        pytest.param(ALL_ANSWERED[:2], 130, None, 150, id="only the last target is left"),
        pytest.param([*A_ANSWERED, Sent("c", 131)], 150, None, 161, id="the last target has time to answer"),
        pytest.param([*A_ANSWERED, Sent("c", 131)], 161, TIMEOUT, None, id="the last target is given up"),
        pytest.param([Sent("a", 105), Sent("c", 136, 140)], 140, OK, None, id="the last target has answered, not all"),
        pytest.param(ALL_ANSWERED, 140, OK, None, id="all have answered"),
    ],
)
def test_when_it_is_done(sent: list[Sent], now: float, done: TaskCompletionStatus | None, wake: float | None) -> None:
    task = standing_task(["a", "b", "c"], *sent, created=50, scheduled=100)
    manager = SequentialRelayTaskManager(10, 30, dynamic_targets=False)
    assert manager.check_task_exit(task, now) == (done is not None, done)
    assert manager.next_change(task, now) == wake


@pytest.mark.parametrize("timeout", [0, None])
def test_without_timeouts_it_waits_for_ever_for_the_next_target_and_for_its_answer(timeout: int | None) -> None:
    task = standing_task(["a", "b"])
    manager = SequentialRelayTaskManager(timeout, timeout, dynamic_targets=False)
    assert manager.check_task_send(asking(task, "b"), 1e9) is TaskCheckStatus.NO_BLOCK
    assert manager.check_task_send(asking(task, "a"), 1e9) is TaskCheckStatus.SEND
    assert (manager.check_task_exit(task, 1e9), manager.next_change(task, 1e9)) == ((False, None), None)
    client_task = send(task, Sent("a", 1e9))
    assert manager.check_task_send(asking(task, "b"), 2e9) is TaskCheckStatus.BLOCK
    assert (manager.check_task_exit(task, 2e9), manager.next_change(task, 2e9)) == ((False, None), None)
    client_task.result_received_time = 2e9
    assert manager.check_task_send(asking(task, "b"), 2e9) is TaskCheckStatus.SEND


def test_a_client_that_is_named_twice_has_it_twice_at_its_places() -> None:
    task = standing_task(["a", "b", "a"])
    manager = SequentialRelayTaskManager(0, 0, dynamic_targets=True)
    served = []
    for moment in range(3):
        (name,) = [name for name in "ab" if manager.check_task_send(asking(task, name), moment) is TaskCheckStatus.SEND]
        served.append(name)
        send(task, Sent(name, moment, moment))
    assert served == ["a", "b", "a"]
    assert manager.check_task_exit(task, 3) == (True, OK)


def test_a_name_that_is_in_the_window_twice_takes_its_first_place() -> None:
    task = standing_task(["a", "b", "a"], Sent("a", 25, 26))
    manager = SequentialRelayTaskManager(10, 0, dynamic_targets=False)
    assert manager.check_task_send(asking(task, "b"), 26) is TaskCheckStatus.SEND


def test_a_dead_site_in_the_middle_is_passed_over() -> None:
    task = standing_task(["a", "dead", "c"], Sent("a", 0, 5))
    manager = SequentialRelayTaskManager(10, 30, dynamic_targets=False)
    assert manager.check_task_send(asking(task, "c"), 14) is TaskCheckStatus.NO_BLOCK
    assert manager.check_task_send(asking(task, "c"), 15) is TaskCheckStatus.SEND
    send(task, Sent("c", 15, 20))
    assert manager.check_task_exit(task, 20) == (True, OK)


def test_a_site_that_dies_with_the_task_is_passed_over() -> None:
    task = standing_task(["a", "dies", "c"], Sent("a", 0, 5), Sent("dies", 6))
    manager = SequentialRelayTaskManager(10, 30, dynamic_targets=False)
    assert manager.check_task_send(asking(task, "c"), 35.9) is TaskCheckStatus.BLOCK
    assert manager.check_task_send(asking(task, "c"), 36) is TaskCheckStatus.SEND


@pytest.mark.parametrize("targets", [None, []])
def test_a_dynamic_relay_without_clients_continues(targets: list[str] | None) -> None:
    task = standing_task(targets, scheduled=100)
    manager = SequentialRelayTaskManager(10, 30, dynamic_targets=True)
    for now in (100, 1000):
        assert manager.check_task_exit(task, now) == (False, None)
        assert manager.next_change(task, now) is None
    assert task.targets == targets


@pytest.mark.parametrize("seen_before", [False, True])
def test_the_first_client_of_a_dynamic_relay_gets_it_however_late_it_comes(seen_before: bool) -> None:
    task = standing_task(None, scheduled=100)
    manager = SequentialRelayTaskManager(10, 30, dynamic_targets=True)
    if seen_before:
        assert manager.check_task_exit(task, 100) == (False, None)
    assert manager.check_task_send(asking(task, "late"), 1000) is TaskCheckStatus.SEND
    assert task.targets == ["late"]


def test_the_first_client_of_a_dynamic_relay_has_its_whole_time_also_when_others_add_it() -> None:
    task = standing_task([], scheduled=100)
    manager = SequentialRelayTaskManager(10, 30, dynamic_targets=True)
    assert manager.check_task_exit(task, 100) == (False, None)
    task.targets = ["late", "later"]
    assert manager.next_change(task, 1000) == 1010
    assert manager.check_task_send(asking(task, "later"), 1009) is TaskCheckStatus.NO_BLOCK
    assert manager.check_task_send(asking(task, "later"), 1010) is TaskCheckStatus.SEND
    assert manager.check_task_exit(task, 1029) == (False, None)
    assert manager.check_task_exit(task, 1030) == (True, TIMEOUT)


def test_a_client_that_asks_a_dynamic_relay_becomes_its_last_target_once() -> None:
    task = standing_task(["a"], Sent("a", 1))
    manager = SequentialRelayTaskManager(0, 0, dynamic_targets=True)
    assert manager.check_task_send(asking(task, "b"), 2) is TaskCheckStatus.BLOCK
    assert manager.check_task_send(asking(task, "b"), 3) is TaskCheckStatus.BLOCK
    assert task.targets == ["a", "b"]
    task.client_tasks[0].result_received_time = 4
    assert manager.check_task_exit(task, 4) == (False, None)
    assert manager.check_task_send(asking(task, "b"), 4) is TaskCheckStatus.SEND


def test_without_targets_and_not_dynamic_no_client_gets_it() -> None:
    task = standing_task(None)
    manager = SequentialRelayTaskManager(0, 0, dynamic_targets=False)
    assert manager.check_task_send(asking(task, "a"), 1) is TaskCheckStatus.NO_BLOCK


def test_only_a_result_that_is_not_the_newest_sendings_is_marked_as_late() -> None:
    task = standing_task(["a", "b"], Sent("a", 1), Sent("b", 40))
    manager = SequentialRelayTaskManager(10, 30, dynamic_targets=False)
    late, in_time = Shareable({"w": 1}), Shareable({"w": 2})
    manager.check_task_result(late, task.client_tasks[0], 41)
    manager.check_task_result(in_time, task.client_tasks[1], 41)
    assert late.get_header(ReservedHeaderKey.REPLY_IS_LATE) is True
    assert in_time.get_header(ReservedHeaderKey.REPLY_IS_LATE) is None
    assert late["w"] == 1


def test_decisions_follow_from_the_client_tasks_so_a_new_manager_continues_for_the_old_one() -> None:
    task = standing_task(["a", "b", "c", "b"], Sent("a", 1, 2), Sent("b", 3, 4), Sent("c", 5))
    manager = SequentialRelayTaskManager(10, 30, dynamic_targets=False)
    assert manager.check_task_send(asking(task, "b"), 6) is TaskCheckStatus.BLOCK
    task.client_tasks[-1].result_received_time = 7
    assert manager.check_task_send(asking(task, "b"), 7) is TaskCheckStatus.SEND


def test_at_the_moment_it_names_something_does_change() -> None:
    task = standing_task([f"site-{number}" for number in range(9)], scheduled=0.7)
    manager = SequentialRelayTaskManager(0.1, 0.3, dynamic_targets=False)
    now, moments = 0.7, []
    while (following := manager.next_change(task, now)) is not None:
        assert following > now
        now = following
        moments.append(now)
    assert moments == [0.7 + step * 0.1 for step in (1, 2, 3, 4, 5, 6, 7, 8, 10)]
    assert manager.check_task_exit(task, now) == (True, TIMEOUT)


def test_repr_names_its_arguments() -> None:
    manager = SequentialRelayTaskManager(1, 2, dynamic_targets=True)
    assert repr(manager) == "SequentialRelayTaskManager(result_timeout=2, dynamic=True)"
