"""``BcastForeverTaskManager``: a task that goes to each target whenever it asks. After NVFlare's class of this name."""

from __future__ import annotations

from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus

from .task_manager import NOT_DONE, TaskCheckStatus, TaskManager, is_target


class BcastForeverTaskManager(TaskManager):
    """Never done: the task stands until it times out or is cancelled."""

    def __repr__(self) -> str:
        return "BcastForeverTaskManager()"

    def check_task_send(self, client_task: ClientTask, now: float) -> TaskCheckStatus:
        """A target gets it, again and again."""
        return TaskCheckStatus.SEND if is_target(client_task) else TaskCheckStatus.NO_BLOCK

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """It is not done."""
        return NOT_DONE
