"""What a server that died has left, until the controller that goes on takes it up again.

A restored controller schedules the tasks of its round once more. Each takes up the ledger of its predecessor: the
client tasks keep their ids, and results that were accepted are handed to the controller again, in order. Until
then, a submission for one of these client tasks waits: nobody could say yet what it belongs to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from redflare_broker.job_state.task_store import ClientTaskRecord, TaskRecord

__all__ = ["Recovery", "Retry"]

Retry = Callable[[], object]


class Recovery:
    """The ledgers that nobody has taken up yet. Thread-safe.

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

    def take_up(self, name: str, kind: str, targets: tuple[str, ...] | None) -> TaskRecord | None:
        """The oldest ledger of a task of this name, kind and targets, if there is one; it is left to the caller."""
        with self._guard:
            for index, task in enumerate(self._tasks):
                if (task.name, task.kind, task.targets) == (name, kind, targets):
                    return self._tasks.pop(index)
            return None

    def hold(self, client_task_id: str, retry: Retry) -> bool:
        """Let a submission wait if its client task may still be taken up; False: it need not."""
        with self._guard:
            if client_task_id not in self._awaited:
                return False
            self._early.setdefault(client_task_id, []).append(retry)
            return True

    def arrived(self, client_tasks: Iterable[ClientTaskRecord]) -> list[Retry]:
        """These client tasks can be submitted for from now on; the submissions that have waited for it."""
        with self._guard:
            return self._release([client.id for client in client_tasks])

    def give_up(self) -> tuple[list[TaskRecord], list[Retry]]:
        """Nothing more will be taken up: the ledgers that are left, and the submissions that have waited."""
        with self._guard:
            tasks, self._tasks = self._tasks, []
            return tasks, self._release(list(self._awaited))

    def _release(self, ids: list[str]) -> list[Retry]:
        self._awaited.difference_update(ids)
        return [retry for client_task_id in ids for retry in self._early.pop(client_task_id, ())]

    def __repr__(self) -> str:
        return f"<Recovery of {len(self._tasks)} tasks, {len(self._early)} submissions wait>"
