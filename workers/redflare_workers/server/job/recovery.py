"""``Recovery``: what a server that died has left, until the controller that resumes takes it up again.

A restored controller schedules the tasks of its round once more. Each takes up the record of its predecessor: the
client tasks keep their ids, and results that were accepted are given to the controller again, in order. Until then, a
submission for one of these client tasks waits, because its task is not known yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from redflare_broker.job_state.task_store import TaskRecord

Retry = Callable[[], object]


class Recovery:
    """The records that are not taken up yet. Thread-safe.

    Args:
        tasks: in the order in which they were scheduled.
        restored: the controller's state was restored.
    """

    def __init__(self, tasks: Iterable[TaskRecord] = (), *, restored: bool = False) -> None:
        self.restored = restored
        self._guard = threading.Lock()
        self._tasks = list(tasks)
        #: Position of the last of them.
        self.last_order = max((task.order for task in self._tasks), default=0)
        self._awaited = {client.id for task in self._tasks for client in task.client_tasks}
        self._early: dict[str, list[Retry]] = {}
        #: Taken up; the controller gets their accepted results as soon as clients may ask for them.
        self._adopted: list[TaskRecord] = []
        self._behind = 0

    @property
    def has_tasks(self) -> bool:
        """Whether there are records that may still be taken up."""
        with self._guard:
            return bool(self._tasks)

    @property
    def restoring(self) -> bool:
        """Whether the controller still has to get results of a predecessor: hand nothing out meanwhile."""
        return self._behind > 0

    def take_up(self, name: str, kind: str, targets: tuple[str, ...] | None) -> TaskRecord | None:
        """Remove and return the oldest record of a task of this name, kind and targets; None: there is none."""
        with self._guard:
            for index, task in enumerate(self._tasks):
                if (task.name, task.kind, task.targets) == (name, kind, targets):
                    return self._tasks.pop(index)
            return None

    def adopt(self, task: TaskRecord) -> None:
        """Note that a record that was taken up is open again."""
        with self._guard:
            self._adopted.append(task)
            self._behind += 1

    def take_adopted(self) -> list[TaskRecord]:
        """Remove and return the adopted records, whose results the caller gives to the controller."""
        with self._guard:
            adopted, self._adopted = self._adopted, []
            return adopted

    def caught_up(self, tasks: Iterable[TaskRecord]) -> list[Retry]:
        """Note that the controller has the results of these records; return the submissions that can be retried."""
        with self._guard:
            retries = []
            for task in tasks:
                self._behind -= 1
                retries += self._release([client.id for client in task.client_tasks])
            return retries

    def hold(self, client_task_id: str, retry: Retry) -> bool:
        """Let a submission wait if its client task may still be taken up; return False if it need not wait."""
        with self._guard:
            if client_task_id not in self._awaited:
                return False
            self._early.setdefault(client_task_id, []).append(retry)
            return True

    def give_up(self) -> tuple[list[TaskRecord], list[Retry]]:
        """Stop taking up; return the records that are left, and the submissions that waited for them."""
        with self._guard:
            tasks, self._tasks = self._tasks, []
            return tasks, self._release(list(self._awaited))

    def _release(self, ids: list[str]) -> list[Retry]:
        self._awaited.difference_update(ids)
        return [retry for client_task_id in ids for retry in self._early.pop(client_task_id, ())]

    def __repr__(self) -> str:
        return f"<Recovery of {len(self._tasks)} tasks, {len(self._early)} submissions wait>"
