"""``StandingTask``: one scheduled task and all that the communicator keeps of it beside what a controller sees."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from math import inf
from typing import Final

from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task

from .callback_lock import CallbackLock
from .scheduling import Schedule, TaskKind
from .task_manager import TaskManager

_SHARED: Final = (TaskKind.BROADCAST, TaskKind.BROADCAST_FOREVER)


@dataclass(slots=True, kw_only=True, eq=False)
class StandingTask:
    """A scheduled task, from its scheduling until its task_done_cb has run. Changed under the communicator's lock."""

    task: Task
    manager: TaskManager
    schedule: Schedule
    #: Place in the order of scheduling.
    number: int
    turn: CallbackLock
    #: Names in ``task.targets`` of a task for whoever joins; None: the targets are fixed, or the manager adds them.
    joined: set[str] | None
    #: Clients that can get nothing of it any more, of a task for whoever joins.
    closed: set[str] = field(default_factory=set)
    #: Clients that were told to wait for it: they got nothing, although there may have been something behind it.
    blocked: set[str] = field(default_factory=set)
    #: Ids of ClientTasks whose callbacks around sending run, or wait to; True: it was sent before.
    sending: dict[str, bool] = field(default_factory=dict)
    #: Ids of ClientTasks whose result is being handled.
    receiving: set[str] = field(default_factory=set)
    #: What all clients of a broadcast get, once it is protected.
    data: Shareable | None = None
    #: What that was made of.
    source: Shareable | None = None
    #: When something becomes due by the passing of time alone.
    due: float = inf
    #: It is final, and stands no more.
    ended: bool = False
    #: Its task_done_cb has run, or will not for a long time.
    finished: bool = False
    #: Those that wait until it is finished.
    waiters: list[threading.Event] = field(default_factory=list)

    @property
    def shared(self) -> bool:
        """Whether all clients get the same, protected data; without end, until other data is put in its place."""
        if self.schedule.kind is TaskKind.BROADCAST_FOREVER and self.source is not None and self.task.data is not None:
            return self.task.data is self.source
        return self.schedule.kind in _SHARED

    def needs_turn(self) -> bool:
        """Whether something of its user runs before it is sent to a client."""
        task = self.task
        if task.before_task_sent_cb is not None or task.after_task_sent_cb is not None:
            return True
        return self.data is None and self.shared

    def busy(self, client_task: ClientTask) -> bool:
        """Whether callbacks for that ClientTask run or wait to."""
        return client_task.id in self.sending or client_task.id in self.receiving

    def release_waiters(self) -> None:
        """It is finished, for all who wait."""
        self.finished = True
        for waiter in self.waiters:
            waiter.set()
        self.waiters.clear()

    def __repr__(self) -> str:
        return f"<Standing {self.number} {self.schedule.kind} {self.task!r}>"
