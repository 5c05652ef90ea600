"""The managers of a broadcast, a broadcast without end, and a send. After NVFlare's classes of these names."""

from __future__ import annotations

from typing import Final

from redflare_workers.apis.task import ClientTask, SendOrder, Task, TaskCompletionStatus

from .task_manager import NOT_DONE, TaskCheckStatus, TaskManager, is_answered, is_target, periods_passed, scheduled_at

#: A result_received_cb that has no use for a result sets this prop of its ClientTask: the result is then an answer, but
#: none of those that are enough.
DOES_NOT_COUNT: Final = "does_not_count"


class BcastTaskManager(TaskManager):
    """Done when all targets have answered, or some time after enough of them have.

    Fewer than ``min_responses`` are never enough, also when nobody else has joined so far.

    Args:
        min_responses: how many results are enough; 0: those of all targets, but for absent ones that never got it.
        wait_time_after_min_received: seconds to wait for more when there are enough.
    """

    def __init__(self, min_responses: int = 0, wait_time_after_min_received: float = 0) -> None:
        self._min_responses = min_responses
        self._wait = wait_time_after_min_received

    def __repr__(self) -> str:
        return f"BcastTaskManager(min_responses={self._min_responses}, wait={self._wait})"

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """Done when all have answered, or when the wait after enough results is over."""
        if not task.client_tasks:
            return NOT_DONE
        enough_at = self._enough_at(task)
        if _all_answered(task):
            # nobody is left who could make up for results that do not count
            done = _answers(task) >= self._min_responses
        else:
            done = enough_at is not None and now >= enough_at + self._wait
        return (True, TaskCompletionStatus.OK) if done else NOT_DONE

    def next_change(self, task: Task, now: float) -> float | None:
        """When the wait for further results ends."""
        enough_at = self._enough_at(task)
        if enough_at is None or _all_answered(task) or enough_at + self._wait <= now:
            return None
        return enough_at + self._wait

    def _enough_at(self, task: Task) -> float | None:
        """When the last result came that was needed; None: some are still needed, or all are."""
        if not self._min_responses or len(task.client_tasks) < self._min_responses:
            return None
        # read once: a result may come in another thread
        times = [sent.result_received_time for sent in task.client_tasks if not sent.props.get(DOES_NOT_COUNT)]
        received = sorted(moment for moment in times if moment is not None)
        return received[self._min_responses - 1] if len(received) >= self._min_responses else None


class BcastForeverTaskManager(TaskManager):
    """Never done: the task stands until it times out or is cancelled."""

    def __repr__(self) -> str:
        return "BcastForeverTaskManager()"

    def check_task_send(self, client_task: ClientTask, now: float) -> TaskCheckStatus:
        """Send it to a target, each time it asks."""
        return TaskCheckStatus.SEND if is_target(client_task) else TaskCheckStatus.NO_BLOCK

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """Keep it open."""
        return NOT_DONE


class SendTaskManager(TaskManager):
    """Done when the one that has it has answered.

    Args:
        send_order: ANY: whoever asks first gets it. SEQUENTIAL: the first target may have it from its scheduling on,
            each of the others ``task_assignment_timeout`` later than the one before it. Absent ones are passed over.
        task_assignment_timeout: in seconds; 0 or None: only the first target that is not absent may have it.
    """

    def __init__(self, send_order: SendOrder, task_assignment_timeout: float | None) -> None:
        self._order = send_order
        self._assignment_timeout = max(0, task_assignment_timeout or 0)

    def __repr__(self) -> str:
        return f"SendTaskManager({self._order}, assignment_timeout={self._assignment_timeout})"

    def check_task_send(self, client_task: ClientTask, now: float) -> TaskCheckStatus:
        """Send it to a target if no client has it yet and its turn has come; before its turn the target waits."""
        task = client_task.task
        if task.client_tasks or not is_target(client_task):
            return TaskCheckStatus.NO_BLOCK
        if self._order == SendOrder.ANY or task.targets is None:
            return TaskCheckStatus.SEND
        name = client_task.client.name
        ahead = task.targets[: task.targets.index(name)]
        position = sum(each not in task.absent for each in ahead)
        return TaskCheckStatus.SEND if position <= self._last_eligible(task, now) else TaskCheckStatus.BLOCK

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """Done when any client that has it has answered."""
        answered = any(is_answered(client_task) for client_task in task.client_tasks)
        return (True, TaskCompletionStatus.OK) if answered else NOT_DONE

    def next_change(self, task: Task, now: float) -> float | None:
        """When the next target may have it too."""
        if self._order == SendOrder.ANY or not self._assignment_timeout or task.client_tasks:
            return None
        following = self._last_eligible(task, now) + 1
        if following >= sum(each not in task.absent for each in task.targets or ()):
            return None
        return scheduled_at(task) + following * self._assignment_timeout

    def _last_eligible(self, task: Task, now: float) -> int:
        """Position of the last target whose turn has come, among those that are not absent."""
        if not self._assignment_timeout:
            return 0
        return periods_passed(scheduled_at(task), self._assignment_timeout, now)


def _all_answered(task: Task) -> bool:
    """Whether all have answered to whom it was sent, and all other targets are absent."""
    newest = task.last_client_task_map
    names = newest if task.targets is None else task.targets
    return all(is_answered(newest[name]) if name in newest else name in task.absent for name in names)


def _answers(task: Task) -> int:
    """How many clients have answered, whatever it was."""
    return sum(is_answered(client_task) for client_task in task.client_tasks)
