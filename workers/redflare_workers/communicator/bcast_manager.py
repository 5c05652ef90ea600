"""``BcastTaskManager``: a task that goes once to each target. After NVFlare's class of this name."""

from __future__ import annotations

from typing import Final

from redflare_workers.apis.task import Task, TaskCompletionStatus

from .task_manager import NOT_DONE, TaskManager, is_answered

#: A result_received_cb that has no use for a result sets this prop of its ClientTask: the result is then an answer, but
#: none of those that are enough.
DOES_NOT_COUNT: Final = "does_not_count"


class BcastTaskManager(TaskManager):
    """Done when all targets have answered, or some time after enough of them have.

    Fewer than ``min_responses`` are never enough, also when nobody else has joined so far.

    Args:
        task: the task that is managed.
        min_responses: how many results are enough; 0: those of all targets.
        wait_time_after_min_received: seconds to wait for more when there are enough.
    """

    def __init__(self, task: Task, min_responses: int = 0, wait_time_after_min_received: float = 0) -> None:
        self._min_responses = min_responses
        self._wait = wait_time_after_min_received

    def __repr__(self) -> str:
        return f"BcastTaskManager(min_responses={self._min_responses}, wait={self._wait})"

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """See the class."""
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
        """The end of the wait for more than enough."""
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


def _all_answered(task: Task) -> bool:
    """Whether all targets have answered; without targets, all to whom it was sent."""
    newest = task.last_client_task_map
    names = newest if task.targets is None else task.targets
    return all(name in newest and is_answered(newest[name]) for name in names)


def _answers(task: Task) -> int:
    """How many clients have answered, whatever it was."""
    return sum(is_answered(client_task) for client_task in task.client_tasks)
