"""``AnyRelayTaskManager``: a relay in the order in which the clients ask. After NVFlare's class of this name."""

from __future__ import annotations

from collections import Counter

from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus

from .relay_manager import RelayTaskManager
from .task_manager import NOT_DONE, TaskCheckStatus, is_answered


class AnyRelayTaskManager(RelayTaskManager):
    """Done when each target has answered as often as it is named.

    One that was given up still owes its answer: it may bring it late, or get the task again.

    Args:
        task: the task that is managed.
        task_result_timeout: seconds after which a client that does not answer is given up; 0 or None: never.
        dynamic_targets: a client that asks and is no target becomes the last target.
    """

    def __init__(self, task: Task, task_result_timeout: float | None, dynamic_targets: bool) -> None:
        super().__init__(task_result_timeout, dynamic_targets)

    def check_task_send(self, client_task: ClientTask, now: float) -> TaskCheckStatus:
        """A target gets it as often as it is named, when no other has it; while one has it, the others wait."""
        task, name = client_task.task, client_task.client.name
        if not self._admit(client_task):
            return TaskCheckStatus.NO_BLOCK
        had = sum(sent.client.name == name for sent in task.client_tasks)
        if had >= (task.targets or []).count(name):
            return TaskCheckStatus.NO_BLOCK
        return TaskCheckStatus.BLOCK if self._is_held(task, now) else TaskCheckStatus.SEND

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """See the class."""
        if not task.targets:
            return NOT_DONE
        answers = Counter(sent.client.name for sent in task.client_tasks if is_answered(sent))
        return (True, TaskCompletionStatus.OK) if Counter(task.targets) <= answers else NOT_DONE
