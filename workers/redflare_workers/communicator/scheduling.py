"""What may be scheduled: checks of the arguments, and the form in which the board keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.scheduling_spec import Targets
from redflare_workers.apis.task import SendOrder, Task


class TaskKind(StrEnum):
    """How a task is given to clients."""

    BROADCAST = "broadcast"
    BROADCAST_FOREVER = "broadcast_forever"
    SEND = "send"
    RELAY = "relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How one task was scheduled."""

    kind: TaskKind
    #: Names; None: whoever joins.
    targets: tuple[str, ...] | None
    #: Whether a client that is not in ``targets`` may become one.
    dynamic: bool
    #: The other arguments, in words and numbers.
    options: dict[str, Any] = field(default_factory=dict)


def check_client(client: object) -> None:
    """TypeError: that is no Client."""
    if not isinstance(client, Client):
        raise TypeError(f"client must be a Client, but is {client!r} ({type(client).__name__})")


def check_context(fl_ctx: object) -> None:
    """TypeError: that is no FLContext."""
    if not isinstance(fl_ctx, FLContext):
        raise TypeError(f"fl_ctx must be an FLContext, but is {fl_ctx!r} ({type(fl_ctx).__name__})")


def broadcast_schedule(
    task: Task, fl_ctx: FLContext, targets: Targets, min_responses: int, wait_time_after_min_received: int
) -> Schedule:
    """The schedule of a broadcast.

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
    """The schedule of a broadcast without end; raises as ``SchedulingSpec.broadcast_forever``."""
    names = _checked(task, fl_ctx, targets)
    return Schedule(kind=TaskKind.BROADCAST_FOREVER, targets=names, dynamic=names is None)


def send_schedule(
    task: Task, fl_ctx: FLContext, targets: Targets, send_order: SendOrder, task_assignment_timeout: int
) -> Schedule:
    """The schedule of a send.

    Raises:
        TypeError, ValueError: as ``SchedulingSpec.send``.
    """
    names = _checked(task, fl_ctx, targets)
    _check_timeout("task_assignment_timeout", task_assignment_timeout, task)
    _check_order(send_order)
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
    """The schedule of a relay, which alone may name a target more than once.

    Raises:
        TypeError, ValueError: as ``SchedulingSpec.relay``.
    """
    names = _checked(task, fl_ctx, targets, repeats=True)
    _check_timeout("task_assignment_timeout", task_assignment_timeout, task)
    _check_timeout("task_result_timeout", task_result_timeout, task)
    _check_order(send_order)
    if not isinstance(dynamic_targets, bool):
        raise TypeError(
            f"dynamic_targets must be a bool, but is {dynamic_targets!r} ({type(dynamic_targets).__name__})"
        )
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
    """Names of the targets, each once unless ``repeats``; TypeError: one of the arguments is of the wrong type."""
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task, but is {task!r} ({type(task).__name__})")
    check_context(fl_ctx)
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


def _check_count(what: str, value: object) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{what} must be an int, but is {value!r} ({type(value).__name__})")
    if value < 0:
        raise ValueError(f"{what} must be >= 0, but is {value}")


def _check_timeout(what: str, value: int, task: Task) -> None:
    _check_count(what, value)
    if task.timeout and value > task.timeout:
        raise ValueError(f"{what} is {value} s, longer than the timeout of task {task.name!r}, {task.timeout} s")


def _check_order(send_order: object) -> None:
    if not isinstance(send_order, SendOrder):
        raise TypeError(f"send_order must be a SendOrder, but is {send_order!r} ({type(send_order).__name__})")
