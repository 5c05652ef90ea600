"""``RelayTaskManager``: what both orders of a relay have in common: one client has the task at a time."""

from __future__ import annotations

from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.task import ClientTask, Task

from .task_manager import TaskManager, is_answered


class RelayTaskManager(TaskManager):
    """Base of the managers of a relay.

    Args:
        task_result_timeout: seconds after which a client that does not answer is given up; 0 or None: never.
        dynamic_targets: a client that asks and is no target becomes the last target.
    """

    def __init__(self, task_result_timeout: float | None, dynamic_targets: bool) -> None:
        self._result_timeout = task_result_timeout or 0
        self._dynamic = dynamic_targets

    def __repr__(self) -> str:
        return f"{type(self).__name__}(result_timeout={self._result_timeout}, dynamic={self._dynamic})"

    def check_task_result(self, result: Shareable, client_task: ClientTask, now: float) -> None:
        """Mark the result as late if another client has got the task since; it is delivered all the same."""
        if client_task is not client_task.task.client_tasks[-1]:
            result.set_header(ReservedHeaderKey.REPLY_IS_LATE, True)

    def next_change(self, task: Task, now: float) -> float | None:
        """When the client that has the task is given up."""
        return self._given_up_at(task) if self._is_held(task, now) else None

    def _admit(self, client_task: ClientTask) -> bool:
        """Whether the client is a target, or has become one."""
        task, name = client_task.task, client_task.client.name
        if self._dynamic:
            if task.targets is None:
                task.targets = []
            if name not in task.targets:
                task.targets.append(name)
        return name in (task.targets or ())

    def _is_held(self, task: Task, now: float) -> bool:
        """Whether a client has the task now: it has not answered and is not given up."""
        if not task.client_tasks or is_answered(task.client_tasks[-1]):
            return False
        given_up_at = self._given_up_at(task)
        return given_up_at is None or now < given_up_at

    def _given_up_at(self, task: Task) -> float | None:
        """When the client that got the task last is given up unless it answers; None: never."""
        sent = task.client_tasks[-1].task_sent_time
        return None if sent is None or not self._result_timeout else sent + self._result_timeout
