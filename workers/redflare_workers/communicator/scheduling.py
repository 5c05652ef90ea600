"""``Schedule``: the checked arguments with which a task was scheduled; ``StandingTask``: the task from then on."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any, Final

from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.scheduling_spec import Targets
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, SendOrder, Task

from .callbacks import CallbackLock
from .data_snapshot import DataSnapshot
from .managers.task_manager import TaskManager


class TaskKind(StrEnum):
    """How a task is given to clients."""

    BROADCAST = "broadcast"
    BROADCAST_FOREVER = "broadcast_forever"
    SEND = "send"
    RELAY = "relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The arguments with which a task was scheduled."""

    kind: TaskKind
    #: Names; None: whoever joins.
    targets: tuple[str, ...] | None
    #: Whether a client that is not in ``targets`` may become one.
    dynamic: bool
    #: The other arguments, in words and numbers.
    options: dict[str, Any] = field(default_factory=dict)


def check_type(what: str, value: object, wanted: type, article: str = "a") -> None:
    """Raise TypeError unless an argument is of that type."""
    if not isinstance(value, wanted):
        raise TypeError(f"{what} must be {article} {wanted.__name__}, but is {value!r} ({type(value).__name__})")


def check_request(client: object, fl_ctx: object) -> None:
    """Raise TypeError unless these are a Client and an FLContext."""
    check_type("client", client, Client)
    check_type("fl_ctx", fl_ctx, FLContext, "an")


def broadcast_schedule(
    task: Task, fl_ctx: FLContext, targets: Targets, min_responses: int, wait_time_after_min_received: int
) -> Schedule:
    """Check the arguments of a broadcast.

    Raises:
        TypeError, ValueError: as ``SchedulingSpec.broadcast``.
    """
    names = _checked(task, fl_ctx, targets)
    _check_count("min_responses", min_responses)
    _check_count("wait_time_after_min_received", wait_time_after_min_received)
    if names and min_responses > len(names):
        raise ValueError(
            f"min_responses is {min_responses}, but task {task.name!r} has only {len(names)} targets: lower it"
        )
    return Schedule(
        kind=TaskKind.BROADCAST,
        targets=names,
        dynamic=names is None,
        options={"min_responses": min_responses, "wait_time_after_min_received": wait_time_after_min_received},
    )


def forever_schedule(task: Task, fl_ctx: FLContext, targets: Targets) -> Schedule:
    """Check the arguments of a broadcast without end; raises as ``SchedulingSpec.broadcast_forever``."""
    names = _checked(task, fl_ctx, targets)
    return Schedule(kind=TaskKind.BROADCAST_FOREVER, targets=names, dynamic=names is None)


def send_schedule(
    task: Task, fl_ctx: FLContext, targets: Targets, send_order: SendOrder, task_assignment_timeout: int
) -> Schedule:
    """Check the arguments of a send.

    Raises:
        TypeError, ValueError: as ``SchedulingSpec.send``.
    """
    names = _checked(task, fl_ctx, targets)
    _check_timeout("task_assignment_timeout", task_assignment_timeout, task)
    check_type("send_order", send_order, SendOrder)
    if send_order is SendOrder.SEQUENTIAL and not names:
        raise ValueError(f"a SEQUENTIAL send needs targets, but task {task.name!r} was given {targets!r}")
    return Schedule(
        kind=TaskKind.SEND,
        targets=names,
        dynamic=names is None,
        options={"send_order": send_order.value, "task_assignment_timeout": task_assignment_timeout},
    )


def relay_schedule(
    task: Task,
    fl_ctx: FLContext,
    targets: Targets,
    send_order: SendOrder,
    task_assignment_timeout: int,
    task_result_timeout: int,
    dynamic_targets: bool,
) -> Schedule:
    """Check the arguments of a relay, which alone may name a target more than once.

    Raises:
        TypeError, ValueError: as ``SchedulingSpec.relay``.
    """
    names = _checked(task, fl_ctx, targets, repeats=True)
    _check_timeout("task_assignment_timeout", task_assignment_timeout, task)
    _check_timeout("task_result_timeout", task_result_timeout, task)
    check_type("send_order", send_order, SendOrder)
    check_type("dynamic_targets", dynamic_targets, bool)
    if names is None and not dynamic_targets:
        raise ValueError(f"relay of task {task.name!r}: targets must be given when dynamic_targets is False")
    return Schedule(
        kind=TaskKind.RELAY,
        targets=names,
        dynamic=dynamic_targets,
        options={
            "send_order": send_order.value,
            "task_assignment_timeout": task_assignment_timeout,
            "task_result_timeout": task_result_timeout,
            "dynamic_targets": dynamic_targets,
        },
    )


def _checked(task: object, fl_ctx: object, targets: object, repeats: bool = False) -> tuple[str, ...] | None:
    """Return the names of the targets, each once unless ``repeats``; TypeError: an argument is of the wrong type."""
    check_type("task", task, Task)
    check_type("fl_ctx", fl_ctx, FLContext, "an")
    if targets is None:
        return None
    if not isinstance(targets, list):
        raise TypeError(f"targets must be a list of Client or str, or None, but is {targets!r}")
    for target in targets:
        if not isinstance(target, Client | str):
            raise TypeError(
                f"each of targets must be a Client or a str, but one is {target!r} ({type(target).__name__})"
            )
    names = [target.name if isinstance(target, Client) else target for target in targets]
    return tuple(names if repeats else dict.fromkeys(names))


def _check_count(what: str, value: int) -> None:
    check_type(what, value, int, "an")
    if value < 0:
        raise ValueError(f"{what} must be >= 0, but is {value}")


def _check_timeout(what: str, value: int, task: Task) -> None:
    _check_count(what, value)
    if task.timeout and value > task.timeout:
        raise ValueError(f"{what} is {value} s, longer than the timeout of task {task.name!r}, {task.timeout} s")


_SHARED: Final = (TaskKind.BROADCAST, TaskKind.BROADCAST_FOREVER)


@dataclass(slots=True, kw_only=True, eq=False)
class StandingTask:
    """A scheduled task, from its scheduling until its task_done_cb has run. Changed under the communicator's lock."""

    task: Task
    manager: TaskManager
    schedule: Schedule
    #: Position in the order of scheduling.
    number: int
    callback_lock: CallbackLock
    #: Names in ``task.targets`` of a task without fixed targets; None: they are fixed, or the manager adds them.
    joined: set[str] | None
    #: Clients that cannot get it any more, of a task without fixed targets.
    closed: set[str] = field(default_factory=set)
    #: Clients that it made wait: they got nothing, although tasks behind it may have been for them.
    blocked: set[str] = field(default_factory=set)
    #: Ids of ClientTasks whose callbacks around sending run, or wait to; True: it was sent before.
    sending: dict[str, bool] = field(default_factory=dict)
    #: Ids of ClientTasks whose result is being handled.
    receiving: set[str] = field(default_factory=set)
    #: Answered ClientTasks of a broadcast without end, the oldest first.
    answered: deque[ClientTask] = field(default_factory=deque)
    #: The protected copy of the data that all clients of a broadcast get.
    data: Shareable | None = None
    #: The object that was copied, and how it was then, if a callback may change it.
    source: Shareable | None = None
    snapshot: DataSnapshot | None = None
    #: Arrays that callbacks have put into the data, by their ids: a callback may write to its own for each client.
    put_in: dict[int, object] = field(default_factory=dict)
    #: When it must be checked next although nothing changes.
    due: float = inf
    #: It is final and no longer open.
    ended: bool = False
    #: Its task_done_cb has run, or is held up by a stuck callback.
    finished: bool = False
    #: Events of those who wait until it is finished.
    waiters: list[threading.Event] = field(default_factory=list)

    @property
    def shared(self) -> bool:
        """Whether all clients get the same protected copy, as long as the data is not changed."""
        return self.schedule.kind in _SHARED

    def differs(self, now: DataSnapshot | None) -> bool:
        """Whether a client must get other data than the protected copy; ``now``: how it is, if callbacks change it."""
        if now is not None and now.holds_any(self.put_in):
            return True
        data = self.task.data
        if self.data is None or data is None:
            # nothing is protected yet, or it was taken away after it was sent
            return False
        if now is not None and self.snapshot is not None:
            return not now.equals(self.snapshot)
        return self.schedule.kind is TaskKind.BROADCAST_FOREVER and data is not self.source

    def needs_callback_lock(self) -> bool:
        """Whether user code runs, or data is protected, before it is sent to a client."""
        task = self.task
        if task.before_task_sent_cb is not None or task.after_task_sent_cb is not None:
            return True
        return self.shared and (self.data is None or self.differs(None))

    def busy(self, client_task: ClientTask) -> bool:
        """Whether callbacks for that ClientTask run or wait to."""
        return client_task.id in self.sending or client_task.id in self.receiving

    def release_waiters(self) -> None:
        """Mark it finished, and wake all who wait for it."""
        self.finished = True
        for waiter in self.waiters:
            waiter.set()
        self.waiters.clear()

    def __repr__(self) -> str:
        return f"<StandingTask {self.number} {self.schedule.kind} {self.task!r}>"
