"""``TaskManager``: decides for one standing task who may have it now, and when it is done.

A manager decides and does nothing else: no I/O, no lock, no clock. All it needs to know is in the task:
its targets, the ClientTasks in the order in which they were sent, and the newest ClientTask of each client. One that is
there without a ``task_sent_time`` is about to be sent, which counts as sent.

    asked                 answered by             the communicator then
    a client wants work   ``check_task_send``     sends it, tries the next task, or lets the client wait
    a result has come     ``check_task_result``   delivers the result
    something changed     ``check_task_exit``     ends the task, or not
    how long to sleep     ``next_change``         asks again at that moment, and not before unless something changes

A client whose newest ClientTask of this task has no answer gets that one again, and no manager is asked about it.

After NVFlare's class of this name, whose managers read the clock themselves and are asked five times a second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum

from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus


class TaskCheckStatus(Enum):
    """Whether a client that asks for work gets this task."""

    #: It gets this task.
    SEND = 1
    #: It gets nothing now: this task may need it soon.
    BLOCK = 2
    #: It does not get this task; the next one may do.
    NO_BLOCK = 3


#: The task goes on.
NOT_DONE: tuple[bool, TaskCompletionStatus | None] = (False, None)


class TaskManager(ABC):
    """The decisions about one task. Moments are in seconds on the communicator's clock, as are the task's times."""

    def check_task_send(self, client_task: ClientTask, now: float) -> TaskCheckStatus:
        """Whether a client gets the task: unless overridden, a target that has not answered yet does.

        Args:
            client_task: the newest that this client has of the task, which is answered, or a new one.
            now: the current moment.
        """
        if is_answered(newest_of(client_task)):
            return TaskCheckStatus.NO_BLOCK
        return TaskCheckStatus.SEND if is_target(client_task) else TaskCheckStatus.NO_BLOCK

    @abstractmethod
    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """Whether the task is done, and then with which status; ``(False, None)`` while it is not."""

    # empty on purpose: most managers take any result as it is
    def check_task_result(self, result: Shareable, client_task: ClientTask, now: float) -> None:  # noqa: B027
        """Put into the headers of a result what the controller should know of it, before it is delivered."""

    def next_change(self, task: Task, now: float) -> float | None:
        """The moment after ``now`` at which a decision changes although nothing has happened; None: there is none."""
        return None


def is_target(client_task: ClientTask) -> bool:
    """Whether the task is for this client; before it has targets, it is for all."""
    targets = client_task.task.targets
    return targets is None or client_task.client.name in targets


def is_answered(client_task: ClientTask) -> bool:
    """Whether the client's result is in."""
    return client_task.result_received_time is not None


def scheduled_at(task: Task) -> float:
    """When the task was scheduled."""
    return task.create_time if task.schedule_time is None else task.schedule_time


def newest_of(client_task: ClientTask) -> ClientTask:
    """Return the newest ClientTask that this client has of this task; the given one if it has none."""
    return client_task.task.last_client_task_map.get(client_task.client.name, client_task)


def periods_passed(since: float, period: float, now: float) -> int:
    """How many whole periods have passed: the greatest n >= 0 with ``since + n * period <= now``, in just these floats.

    A division alone could be one off at the very moment that ``since + n * period`` names, and whoever was woken for
    it would find that nothing has changed.
    """
    count = max(0, int((now - since) / period))
    while since + (count + 1) * period <= now:
        count += 1
    while count and since + count * period > now:
        count -= 1
    return count
