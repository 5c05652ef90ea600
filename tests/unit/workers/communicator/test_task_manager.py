"""What all task managers have in common: the decisions unless overridden, and the count of passed periods."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redflare_workers.apis import Shareable, Task, TaskCompletionStatus
from redflare_workers.communicator.managers.task_manager import TaskCheckStatus, TaskManager, periods_passed

from tests.support.communicator.manager_states import Sent, asking, standing_task

MOMENTS = st.floats(min_value=0, max_value=2e9)
PERIODS = st.one_of(st.integers(1, 10_000), st.floats(min_value=0.01, max_value=1e4))


class Endless(TaskManager):
    """Overrides what it must and nothing else."""

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        return False, None


@pytest.mark.parametrize(
    ("targets", "sent", "status"),
    [
        pytest.param(["a"], [], "SEND", id="a target gets the task"),
        pytest.param(["b"], [], "NO_BLOCK", id="a client that is no target does not get it"),
        pytest.param(None, [], "SEND", id="without targets everybody gets it"),
        pytest.param([], [], "NO_BLOCK", id="with an empty list of targets no client gets it"),
        pytest.param(["a"], [Sent("a", 1, 2)], "NO_BLOCK", id="a client that has answered does not get it again"),
        pytest.param(["a", "b"], [Sent("b", 1, 2)], "SEND", id="another one's answer changes nothing"),
    ],
)
def test_which_clients_get_a_task_by_default(targets: list[str] | None, sent: list[Sent], status: str) -> None:
    task = standing_task(targets, *sent)
    assert Endless().check_task_send(asking(task, "a"), 10) is TaskCheckStatus[status]
    for client_task in task.client_tasks:
        if client_task.client.name == "a":
            assert Endless().check_task_send(client_task, 10) is TaskCheckStatus[status]


def test_by_default_results_are_left_alone_and_time_changes_nothing() -> None:
    task = standing_task(["a"], Sent("a", 1))
    result = Shareable({"w": 1})
    Endless().check_task_result(result, task.client_tasks[0], 2)
    assert result == Shareable({"w": 1})
    assert Endless().next_change(task, 2) is None


@pytest.mark.parametrize(
    ("since", "period", "now", "count"),
    [
        pytest.param(0, 5, 0, 0, id="none at the beginning"),
        pytest.param(0, 5, 4.999, 0, id="none before the first is over"),
        pytest.param(0, 5, 5, 1, id="one at its end"),
        pytest.param(100, 5, 117, 3, id="whole ones are counted"),
        pytest.param(100, 5, 90, 0, id="none when the clock was set back"),
        pytest.param(0.7, 0.1, 0.7 + 3 * 0.1, 3, id="a division would say two here"),
    ],
)
def test_periods_that_have_passed(since: float, period: float, now: float, count: int) -> None:
    assert periods_passed(since, period, now) == count


@given(since=MOMENTS, period=PERIODS, number=st.integers(0, 1000))
def test_at_the_moment_that_is_waited_for_the_period_has_passed(since: float, period: float, number: int) -> None:
    moment = since + number * period
    count = periods_passed(since, period, moment)
    assert since + count * period <= moment < since + (count + 1) * period
    assert count >= number
