"""A caller that sleeps until ``next_change`` misses no change and is not woken without one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redflare_workers.apis import SendOrder, Task
from redflare_workers.communicator.managers.relay import AnyRelayTaskManager, SequentialRelayTaskManager
from redflare_workers.communicator.managers.simple import BcastForeverTaskManager, BcastTaskManager, SendTaskManager
from redflare_workers.communicator.managers.task_manager import TaskManager

from tests.support.communicator.manager_states import Sent, asking, standing_task

NAMES = "abcd"
FAR = 1e6
SECONDS = st.floats(0, 200, allow_nan=False).map(lambda value: round(value, 2))
PERIODS = st.sampled_from([0, 0.1, 3, 7.5, 40])


@st.composite
def histories(draw: st.DrawFn, repeat: bool) -> tuple[Task, float]:
    """Generate a task with some sendings, one after the other, and a time after them."""
    names = st.sampled_from(NAMES)
    targets = draw(st.lists(names, min_size=1, max_size=5, unique=not repeat))
    moment, sendings = draw(SECONDS), []
    for name in draw(st.lists(st.sampled_from(targets), max_size=4, unique=True)):
        sent = moment = moment + draw(SECONDS)
        answered = sent + draw(SECONDS) if draw(st.booleans()) else None
        moment = max(moment, answered or 0)
        sendings.append(Sent(name, sent, answered))
    scheduled = draw(SECONDS)
    now = max(moment, scheduled) + draw(SECONDS)
    return standing_task(targets, *sendings, created=min(scheduled, 1), scheduled=scheduled), now


def decisions(manager: TaskManager, task: Task, now: float) -> object:
    """Return all decisions of the manager at a time, for all clients."""
    newest = task.last_client_task_map
    may_ask = [name for name in NAMES if name not in newest or newest[name].result_received_time is not None]
    sends = {name: manager.check_task_send(asking(task, name), now) for name in may_ask}
    return manager.check_task_exit(task, now), sends


def check(manager: TaskManager, task: Task, now: float) -> None:
    at_first = decisions(manager, task, now)
    following = manager.next_change(task, now)
    if following is None:
        assert decisions(manager, task, FAR) == at_first
        return
    assert following > now
    assert decisions(manager, task, (now + following) / 2) == at_first
    assert decisions(manager, task, math.nextafter(following, now)) == at_first


@given(history=histories(repeat=False), enough=st.integers(0, 5), wait=PERIODS)
def test_of_a_broadcast(history: tuple[Task, float], enough: int, wait: float) -> None:
    task, now = history
    manager = BcastTaskManager(enough, wait)
    check(manager, task, now)
    following = manager.next_change(task, now)
    assert following is None or manager.check_task_exit(task, following)[0]


@given(history=histories(repeat=False))
def test_of_a_broadcast_for_ever(history: tuple[Task, float]) -> None:
    check(BcastForeverTaskManager(), *history)


@given(history=histories(repeat=False), timeout=PERIODS)
@pytest.mark.parametrize("order", SendOrder)
def test_of_a_sending(order: SendOrder, history: tuple[Task, float], timeout: float) -> None:
    task, now = history
    manager = SendTaskManager(order, timeout)
    check(manager, task, now)
    following = manager.next_change(task, now)
    assert following is None or decisions(manager, task, following) != decisions(manager, task, now)


@given(history=histories(repeat=True), assignment=PERIODS, result=PERIODS)
def test_of_a_relay_in_sequence(history: tuple[Task, float], assignment: float, result: float) -> None:
    task, now = history
    check(SequentialRelayTaskManager(assignment, result, dynamic_targets=False), task, now)


@given(history=histories(repeat=True), result=PERIODS)
def test_of_a_relay_in_any_order(history: tuple[Task, float], result: float) -> None:
    task, now = history
    check(AnyRelayTaskManager(result, dynamic_targets=False), task, now)
