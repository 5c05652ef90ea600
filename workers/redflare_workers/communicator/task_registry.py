"""``TaskRegistry``: the open tasks, which client may get which, and which results are awaited. Bookkeeping only.

It runs no callback, does no I/O and takes no lock: its users hold the communicator's. Each step costs about the same
with one client and with a thousand: a client's candidates are found by its name. Tasks with fixed targets are in a
queue per target; all others are in one queue, and each knows the clients that are done with it.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from operator import attrgetter
from typing import Final, NamedTuple

from redflare_workers.apis.client import Client
from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus

from .callbacks import CallbackLock
from .managers.task_manager import TaskCheckStatus, TaskManager
from .scheduling import Schedule, StandingTask, TaskKind

#: The order of scheduling.
_NUMBER: Final = attrgetter("number")
#: Ended ClientTasks with a result that are remembered, so that a late duplicate is known as one.
_REMEMBERED: Final = 10_000
#: Answered ClientTasks that a broadcast without end keeps.
_ANSWERED: Final = 100


class SubmissionCheck(Enum):
    """The result of checking a submission."""

    ACCEPT = auto()
    #: The result is in already.
    DUPLICATE = auto()
    #: Its task has ended.
    FINISHED = auto()
    UNKNOWN = auto()
    WRONG_CLIENT = auto()
    WRONG_NAME = auto()


class Choice(NamedTuple):
    """The ClientTask that a client gets next."""

    standing: StandingTask
    client_task: ClientTask
    resend: bool
    #: Callbacks of this ClientTask are running; it can be decided only after them.
    busy: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that has just ended."""

    standing: StandingTask
    unanswered: list[ClientTask]
    #: Clients that it made wait.
    freed: frozenset[str]


class TaskRegistry:
    """See the module's docstring."""

    def __init__(self) -> None:
        #: By number, in the order of scheduling.
        self.standing_tasks: dict[int, StandingTask] = {}
        #: All that are scheduled and not finished, by task.
        self.by_task: dict[Task, StandingTask] = {}
        #: Tasks whose manager failed during ``choose``, to be ended.
        self.broken: list[tuple[StandingTask, Exception]] = []
        #: Clients that may get something now, because the task that made them wait went to another.
        self.freed: set[str] = set()
        self._numbers = itertools.count(1)
        self._client_tasks: dict[str, ClientTask] = {}
        self._owed: dict[str, dict[str, ClientTask]] = {}
        self._own: dict[str, dict[int, StandingTask]] = {}
        self._wide: dict[int, StandingTask] = {}
        self._completed: OrderedDict[str, tuple[str, str]] = OrderedDict()

    # -- scheduling ----------------------------------------------------------------------------------------------------

    def add(
        self, task: Task, manager: TaskManager, schedule: Schedule, present: Iterable[str], now: float
    ) -> StandingTask:
        """Add a task, not yet visible to requests; ``present``: names of the clients that have joined.

        Raises:
            ValueError: the task was scheduled before.
        """
        if task.schedule_time is not None:
            raise ValueError(f"task {task.name!r} was used already; make a new Task object for each scheduling")
        task.schedule_time = now
        task.targets = list(present if schedule.targets is None else schedule.targets)
        joins = schedule.dynamic and schedule.kind is not TaskKind.RELAY
        callback_lock = CallbackLock()
        task.cb_lock = callback_lock  # type: ignore[assignment]
        standing = StandingTask(
            task=task,
            manager=manager,
            schedule=schedule,
            number=next(self._numbers),
            callback_lock=callback_lock,
            joined=set(task.targets) if joins else None,
        )
        self.by_task[task] = standing
        return standing

    def discard(self, standing: StandingTask) -> None:
        """Remove a task that was added, as if it had never been scheduled."""
        self.by_task.pop(standing.task, None)
        standing.task.schedule_time = None
        standing.task.targets = None

    def publish(self, standing: StandingTask, adopted: Iterable[ClientTask]) -> None:
        """Make it visible to requests; ``adopted`` were handed out before a restart and count as sent."""
        standing.task.is_standing = True
        self.standing_tasks[standing.number] = standing
        if standing.schedule.dynamic:
            self._wide[standing.number] = standing
        else:
            for name in dict.fromkeys(standing.schedule.targets or ()):
                self._own.setdefault(name, {})[standing.number] = standing
        for client_task in adopted:
            self._join(standing, client_task.client.name)
            self._record(standing, client_task)

    # -- requests ------------------------------------------------------------------------------------------------------

    def choose(self, client: Client, now: float) -> Choice | None:
        """Choose what this client gets, and reserve a new ClientTask for it at once; None: nothing."""
        name = client.name
        owed = self._owed.get(name)
        if owed:
            for client_task in owed.values():
                if client_task.task.completion_status is None:
                    standing = self.by_task[client_task.task]
                    return Choice(standing, client_task, True, standing.busy(client_task))
        for standing in self._candidates(name):
            task = standing.task
            if task.completion_status is not None:
                continue
            self._join(standing, name)
            last = task.last_client_task_map.get(name)
            fresh = ClientTask(client, task) if last is None else last
            try:
                status = self._may_have(standing, fresh, now)
            except Exception as exc:
                self.broken.append((standing, exc))
                continue
            if status is TaskCheckStatus.BLOCK:
                standing.blocked.add(name)
                return None
            if status is TaskCheckStatus.SEND:
                client_task = fresh if last is None else ClientTask(client, task)
                client_task.task_sent_time = client_task.first_sent_time = now
                self._record(standing, client_task)
                standing.sending[client_task.id] = False
                return Choice(standing, client_task, False, False)
        return None

    def sent(self, choice: Choice, now: float) -> None:
        """Note that it goes out now."""
        choice.standing.sending.pop(choice.client_task.id, None)
        choice.client_task.task_sent_time = now
        choice.client_task.task_send_count += 1

    # -- submissions ---------------------------------------------------------------------------------------------------

    def check_submission(
        self, client_name: str, task_name: str, task_id: str
    ) -> tuple[SubmissionCheck, ClientTask | None]:
        """Check a submission; return the result and the ClientTask it is for."""
        client_task = self._client_tasks.get(task_id)
        if client_task is None:
            completed = self._completed.get(task_id)
            if completed == (client_name, task_name):
                self._completed.move_to_end(task_id)
                return SubmissionCheck.DUPLICATE, None
            return SubmissionCheck.UNKNOWN, None
        task = client_task.task
        if client_task.client.name != client_name:
            check = SubmissionCheck.WRONG_CLIENT
        elif task.name != task_name:
            check = SubmissionCheck.WRONG_NAME
        elif task.completion_status is not None:
            check = SubmissionCheck.FINISHED
        elif client_task.result_received_time is not None:
            check = SubmissionCheck.DUPLICATE
        else:
            check = SubmissionCheck.ACCEPT
        return check, client_task

    def received(self, standing: StandingTask, client_task: ClientTask, now: float) -> None:
        """Note that a result was handled."""
        standing.receiving.discard(client_task.id)
        client_task.result_received_time = now
        self._settle(client_task)
        if standing.ended:
            self._remember(client_task)
        elif standing.schedule.kind is TaskKind.BROADCAST_FOREVER:
            standing.answered.append(client_task)
            if len(standing.answered) > _ANSWERED:
                self._let_go(standing)

    def find(self, task_id: str) -> ClientTask | None:
        """Return the ClientTask of that id, if its task is open."""
        return self._client_tasks.get(task_id)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def end(self, standing: StandingTask, status: TaskCompletionStatus) -> Ended | None:
        """Close a task; a status that was set before stays. None: it is closed already, or not published yet."""
        task = standing.task
        if standing.ended or not task.is_standing:
            return None
        standing.ended = True
        if task.completion_status is None:
            task.completion_status = status
        task.is_standing = False
        del self.standing_tasks[standing.number]
        self._retire(standing)
        self._drop_unsent(standing)
        unanswered = []
        for client_task in task.client_tasks:
            self._client_tasks.pop(client_task.id, None)
            if client_task.result_received_time is not None:
                self._remember(client_task)
                continue
            self._settle(client_task)
            if client_task.id not in standing.receiving:
                unanswered.append(client_task)
        freed = frozenset(standing.blocked)
        standing.blocked.clear()
        return Ended(standing, unanswered, freed)

    def forget(self, standing: StandingTask) -> None:
        """Remove a finished task and wake those who wait for it."""
        self.by_task.pop(standing.task, None)
        standing.data = None
        standing.release_waiters()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _candidates(self, name: str) -> Iterator[StandingTask] | Iterable[StandingTask]:
        """Tasks that this client may get, in the order of scheduling; they must not change meanwhile."""
        own = self._own.get(name)
        if not self._wide:
            return own.values() if own else ()
        wide = (standing for standing in self._wide.values() if name not in standing.closed)
        return heapq.merge(own.values(), wide, key=_NUMBER) if own else wide

    def _may_have(self, standing: StandingTask, client_task: ClientTask, now: float) -> TaskCheckStatus:
        status = standing.manager.check_task_send(client_task, now)
        # the manager may have given up on a result that is being handled just now, which it cannot see
        if status is TaskCheckStatus.SEND and standing.receiving and standing.schedule.kind is TaskKind.RELAY:
            return TaskCheckStatus.BLOCK
        return status

    def _join(self, standing: StandingTask, name: str) -> None:
        joined = standing.joined
        if joined is not None and name not in joined and standing.task.targets is not None:
            joined.add(name)
            standing.task.targets.append(name)

    def _record(self, standing: StandingTask, client_task: ClientTask) -> None:
        """Assign it to this client for good; others must not get the same."""
        task, name = standing.task, client_task.client.name
        task.client_tasks.append(client_task)
        task.last_client_task_map[name] = client_task
        self._client_tasks[client_task.id] = client_task
        if client_task.result_received_time is None:
            self._owed.setdefault(name, {})[client_task.id] = client_task
        if standing.schedule.kind is TaskKind.SEND:
            self._retire(standing)
            if standing.blocked:
                self.freed |= standing.blocked - {name}
                standing.blocked.clear()
        elif standing.schedule.kind is TaskKind.BROADCAST:
            self._close(standing, name)

    def _close(self, standing: StandingTask, name: str) -> None:
        """Stop offering the task to this client."""
        if standing.schedule.dynamic:
            standing.closed.add(name)
            return
        own = self._own.get(name)
        if own is not None:
            own.pop(standing.number, None)
            if not own:
                del self._own[name]

    def _retire(self, standing: StandingTask) -> None:
        """Stop offering the task to anybody."""
        if standing.schedule.dynamic:
            self._wide.pop(standing.number, None)
            return
        for name in standing.schedule.targets or ():
            self._close(standing, name)

    def _drop_unsent(self, standing: StandingTask) -> None:
        """Remove ClientTasks that were reserved and not sent: they never will be."""
        task = standing.task
        unsent = {task_id for task_id, resend in standing.sending.items() if not resend}
        if not unsent:
            return
        for client_task in [one for one in task.client_tasks if one.id in unsent]:
            task.client_tasks.remove(client_task)
            self._client_tasks.pop(client_task.id, None)
            self._settle(client_task)
            if task.last_client_task_map.get(client_task.client.name) is client_task:
                del task.last_client_task_map[client_task.client.name]

    def _settle(self, client_task: ClientTask) -> None:
        """Stop waiting for the result of a ClientTask."""
        name = client_task.client.name
        owed = self._owed.get(name)
        if owed is not None:
            owed.pop(client_task.id, None)
            if not owed:
                del self._owed[name]

    def _let_go(self, standing: StandingTask) -> None:
        """Drop what was answered first: a broadcast without end would otherwise grow with every result."""
        client_task = standing.answered.popleft()
        standing.task.client_tasks.remove(client_task)
        self._client_tasks.pop(client_task.id, None)
        self._remember(client_task)

    def _remember(self, client_task: ClientTask) -> None:
        self._completed[client_task.id] = (client_task.client.name, client_task.task.name)
        while len(self._completed) > _REMEMBERED:
            self._completed.popitem(last=False)
