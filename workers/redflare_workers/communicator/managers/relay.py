"""The managers of a relay, in which one client has the task at a time. After NVFlare's classes of these names.

Which targets may have the task now is a *window* on the list of targets:

    sent to nobody yet           begins at the first target, opens when the task is scheduled
    sent last to number i        begins at number i + 1, opens with the result of i
    ... which is given up        begins at number i + 1, opens when i is given up
    ... which has time to answer there is none, everybody waits

It has one target when it opens and one more after each assignment timeout; targets that fall behind the next sending
are passed over. When it begins behind the last target, or one assignment timeout has passed since the last target had
one of its own, it is past the end and the task is done.

Targets that are absent are passed over, if they have not had it: the window begins behind them.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus

from .task_manager import NOT_DONE, TaskCheckStatus, TaskManager, is_answered, periods_passed, scheduled_at


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


class AnyRelayTaskManager(RelayTaskManager):
    """Done when each target has answered as often as it is named.

    One that was given up still owes its answer: it may bring it late, or get the task again.
    """

    def check_task_send(self, client_task: ClientTask, now: float) -> TaskCheckStatus:
        """Send it to a target as often as it is named, while no other has it; else the target waits."""
        task, name = client_task.task, client_task.client.name
        if not self._admit(client_task):
            return TaskCheckStatus.NO_BLOCK
        had = sum(sent.client.name == name for sent in task.client_tasks)
        if had >= (task.targets or []).count(name):
            return TaskCheckStatus.NO_BLOCK
        return TaskCheckStatus.BLOCK if self._is_held(task, now) else TaskCheckStatus.SEND

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """Done when each target has answered as often as it is listed, but for absent ones that never got it."""
        if not task.targets or not task.client_tasks:
            return NOT_DONE
        had = task.last_client_task_map
        needed = Counter(name for name in task.targets if name in had or name not in task.absent)
        answers = Counter(sent.client.name for sent in task.client_tasks if is_answered(sent))
        return (True, TaskCompletionStatus.OK) if needed <= answers else NOT_DONE


@dataclass(frozen=True, slots=True)
class _Window:
    """The targets that may have the task now."""

    #: Index of the first of them.
    begin: int
    #: When it opened.
    opened: float
    #: How many assignment timeouts have passed since.
    steps: int
    #: How many targets there are, in the window or not.
    targets: int

    @property
    def end(self) -> int:
        """One more than the index of the last of them."""
        return min(self.begin + 1 + self.steps, self.targets)

    @property
    def is_past_the_end(self) -> bool:
        """Whether nobody can get the task any more."""
        return self.targets > 0 and (self.begin >= self.targets or self.begin + self.steps > self.targets)


class SequentialRelayTaskManager(RelayTaskManager):
    """Done when its window is past the end: with OK if the last client that got it has answered, else with TIMEOUT.

    Args:
        task_assignment_timeout: seconds after which the next target may have it too; 0 or None: never.
    """

    def __init__(
        self, task_assignment_timeout: float | None, task_result_timeout: float | None, dynamic_targets: bool
    ) -> None:
        super().__init__(task_result_timeout, dynamic_targets)
        self._assignment_timeout = task_assignment_timeout or 0
        #: Whether it was seen without any target.
        self._seen_empty = False
        #: When it was seen to have some after that: its window cannot open before.
        self._first_target_at: float | None = None

    def check_task_send(self, client_task: ClientTask, now: float) -> TaskCheckStatus:
        """Send it to a target in the window; all wait while a client has it, and when it is about to end."""
        task = client_task.task
        self._note_first_target(task, now)
        if not self._admit(client_task):
            return TaskCheckStatus.NO_BLOCK
        window = self._window(task, now)
        if window is None or window.is_past_the_end:
            return TaskCheckStatus.BLOCK
        in_window = client_task.client.name in (task.targets or [])[window.begin : window.end]
        return TaskCheckStatus.SEND if in_window else TaskCheckStatus.NO_BLOCK

    def check_task_exit(self, task: Task, now: float) -> tuple[bool, TaskCompletionStatus | None]:
        """Done when the window is past the end: OK if the last client has answered, else TIMEOUT."""
        window = self._window(task, now)
        if window is None or not window.is_past_the_end:
            return NOT_DONE
        if not task.client_tasks and task.absent.issuperset(task.targets or ()):
            # it is not late, there is nobody
            return NOT_DONE
        answered = bool(task.client_tasks) and is_answered(task.client_tasks[-1])
        return True, TaskCompletionStatus.OK if answered else TaskCompletionStatus.TIMEOUT

    def next_change(self, task: Task, now: float) -> float | None:
        """When a client is given up, the window grows, or it is past the end."""
        window = self._window(task, now)
        if window is None:
            return super().next_change(task, now)
        if not self._assignment_timeout or not window.targets or window.is_past_the_end:
            return None
        # once all targets are in it, the next that happens is its end
        waiting = window.targets - window.begin
        steps = window.steps + 1 if window.steps + 1 < waiting else waiting + 1
        return window.opened + steps * self._assignment_timeout

    def _window(self, task: Task, now: float) -> _Window | None:
        """Return the window, or None while a client has the task."""
        self._note_first_target(task, now)
        if self._is_held(task, now):
            return None
        opened = self._opened(task)
        steps = periods_passed(opened, self._assignment_timeout, now) if self._assignment_timeout else 0
        return _Window(begin=_following(task), opened=opened, steps=steps, targets=len(task.targets or ()))

    def _opened(self, task: Task) -> float:
        """When the window opened, given that no client has the task."""
        if not task.client_tasks:
            scheduled = scheduled_at(task)
            return scheduled if self._first_target_at is None else max(scheduled, self._first_target_at)
        answered = task.client_tasks[-1].result_received_time
        given_up = self._given_up_at(task) if answered is None else answered
        assert given_up is not None, "a client that never is given up has the task"
        return given_up

    def _note_first_target(self, task: Task, now: float) -> None:
        """Note when the first target joins: until then a relay does not age, so that it has its whole time."""
        if not task.targets:
            self._seen_empty = True
        elif self._seen_empty:
            self._seen_empty = False
            self._first_target_at = now


def _following(task: Task) -> int:
    """Index of the first target behind the one that got the task last that is not absent.

    It follows from what was sent: the window begins behind the last sending, and a name that stands in it more than
    once means its first place there.
    """
    targets = task.targets or []
    position = 0
    for sent in task.client_tasks:
        with suppress(ValueError):
            position = targets.index(sent.client.name, position) + 1
    while position < len(targets) and targets[position] in task.absent:
        position += 1
    return position
