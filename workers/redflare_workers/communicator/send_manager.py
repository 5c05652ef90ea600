"""``SendTaskManager``: a task that goes to one client. After NVFlare's class of this name."""

from __future__ import annotations

from redflare_workers.apis.task import ClientTask, SendOrder, Task, TaskCompletionStatus

from .task_manager import NOT_DONE, TaskCheckStatus, TaskManager, is_answered, is_target, periods_passed


class SendTaskManager(TaskManager):
    """Done when the one that has it has answered.

    Args:
        task: the task that is managed.
        send_order: ANY: whoever asks first gets it. SEQUENTIAL: the first target may have it from the task's creation
            on, each of the others ``task_assignment_timeout`` later than the one before it.
        task_assignment_timeout: in seconds; 0 or None: only the first target may have it.
    """

    def __init__(self, task: Task, send_order: SendOrder, task_assignment_timeout: float | None) -> None:
        self._order = send_order
        self._assignment_timeout = max(0, task_assignment_timeout or 0)

    def __repr__(self) -> str:
        return f"SendTaskManager({self._order}, assignment_timeout={self._assignment_timeout})"

    def check_task_send(self, client_task: ClientTask, now: float) -> TaskCheckStatus:
        """A target gets it if nobody has it yet and its turn has come; before its turn it waits."""
        task = client_task.task
        if task.client_tasks or not is_target(client_task):
            return TaskCheckStatus.NO_BLOCK
        if self._order == SendOrder.ANY or task.targets is None:
            return TaskCheckStatus.SEND
        index = task.targets.index(client_task.client.name)
        return TaskCheckStatus.SEND if index <= self._last_eligible(task, now) else TaskCheckStatus.BLOCK

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """See the class."""
        answered = any(is_answered(client_task) for client_task in task.client_tasks)
        return (True, TaskCompletionStatus.OK) if answered else NOT_DONE

    def next_change(self, task: Task, now: float) -> float | None:
        """When the next target may have it too."""
        if self._order == SendOrder.ANY or not self._assignment_timeout or task.client_tasks:
            return None
        following = self._last_eligible(task, now) + 1
        if following >= len(task.targets or ()):
            return None
        return task.create_time + following * self._assignment_timeout

    def _last_eligible(self, task: Task, now: float) -> int:
        """Index of the last target whose turn has come."""
        if not self._assignment_timeout:
            return 0
        return periods_passed(task.create_time, self._assignment_timeout, now)
