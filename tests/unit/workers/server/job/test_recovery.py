"""Open tasks of a dead server, until they are resumed or given up."""

from __future__ import annotations

from typing import Any

from redflare_broker.job_state.task_store import ClientTaskRecord, TaskRecord
from redflare_workers.server.job.recovery import Recovery


def left(root_id: str, order: int, *client_tasks: str, **more: Any) -> TaskRecord:
    clients = tuple(ClientTaskRecord(id=each, client="a", sent=1.0) for each in client_tasks)
    given: dict[str, Any] = {"name": "train", "kind": "broadcast", "scheduled": 1.0, "targets": ("a",)}
    return TaskRecord(root_id=root_id, order=order, client_tasks=clients, **{**given, **more})


def test_a_task_takes_the_oldest_record_of_its_name_kind_and_targets() -> None:
    recovery = Recovery([left("1", 1, name="other"), left("2", 2), left("3", 3), left("4", 4, targets=None)])
    taken = [recovery.take_up("train", "broadcast", ("a",)) for _ in range(3)]
    assert [each and each.root_id for each in taken] == ["2", "3", None]
    for_all = recovery.take_up("train", "broadcast", None)
    assert for_all is not None
    assert for_all.root_id == "4"
    assert recovery.last_order == 4


def test_submissions_for_tasks_that_are_not_resumed_yet_wait_until_they_are() -> None:
    one = left("1", 1, "x", "y")
    recovery = Recovery([one])
    assert not recovery.hold("z", lambda: None)
    first, second = (lambda: 1), (lambda: 2)
    assert recovery.hold("x", first)
    assert recovery.hold("x", second)
    assert recovery.take_up("train", "broadcast", ("a",)) is one
    # resumed, but its results have not been passed to the controller yet
    assert recovery.hold("y", first)
    recovery.adopt(one)
    assert recovery.restoring
    assert recovery.take_adopted() == [one]
    assert recovery.caught_up([one]) == [first, second, first]
    assert not recovery.restoring
    assert not recovery.hold("x", first)


def test_giving_up_releases_all_waiting_submissions() -> None:
    recovery = Recovery([left("1", 1, "x"), left("2", 2, "y")])
    retry = lambda: None  # noqa: E731
    recovery.hold("y", retry)
    tasks, retries = recovery.give_up()
    assert ([task.root_id for task in tasks], retries) == (["1", "2"], [retry])
    assert recovery.give_up() == ([], [])
    assert recovery.take_up("train", "broadcast", ("a",)) is None


def test_without_a_predecessor_there_is_nothing() -> None:
    recovery = Recovery()
    assert (recovery.last_order, recovery.restored) == (0, False)
    assert recovery.take_up("train", "send", None) is None
