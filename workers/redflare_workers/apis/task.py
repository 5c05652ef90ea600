"""``Task``: work that a controller gives to sites, and ``ClientTask``: its state at one site.

After NVFlare's classes in ``controller_spec``; ``redflare_agent.Task`` is another class.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, Protocol

from redflare_broker.util.plain_function import why_not_plain

from .client import Client
from .fl_context import FLContext
from .shareable import ReservedHeaderKey, Shareable


class TaskCompletionStatus(StrEnum):
    """How a task ended; final once it is set."""

    OK = "ok"
    TIMEOUT = "timeout"
    #: A callback or the task's manager failed; see ``Task.exception``.
    ERROR = "error"
    CANCELLED = "cancelled"
    ABORTED = "aborted"
    IGNORED = "ignored"
    #: Every target that has not answered is disconnected.
    CLIENT_DEAD = "client_dead"


class SendOrder(StrEnum):
    """The order in which targets get a task."""

    #: As they ask.
    ANY = "any"
    #: In the order of the targets, each with some time before the next may get it too.
    SEQUENTIAL = "sequential"


class TaskOperatorKey:
    """Keys of ``Task.operator``, which describes an operation; it is sent as a header and has no effect here."""

    AGGREGATOR: Final = "aggregator"
    DATA_FILTERS: Final = "data_filters"
    METHOD: Final = "method"
    MIN_TARGETS: Final = "min_targets"
    NUM_ROUNDS: Final = "num_rounds"
    OP_ID: Final = "op_id"
    PERSISTOR: Final = "persistor"
    RESULT_FILTERS: Final = "result_filters"
    SHAREABLE_GENERATOR: Final = "shareable_gen"
    TARGETS: Final = "targets"
    TASK_ASSIGNMENT_TIMEOUT: Final = "task_assign_timeout"
    TIMEOUT: Final = "timeout"
    WAIT_TIME_AFTER_MIN_RESPS: Final = "wait_time_after_min_received"


class OperatorMethod:
    """Values of ``TaskOperatorKey.METHOD``."""

    BROADCAST: Final = "bcast"
    RELAY: Final = "relay"


class OperatorConfigKey:
    """Keys of a configuration with descriptions."""

    OPERATORS: Final = "operators"


class ClientTaskCallback(Protocol):
    """Called before and after a task is sent, and with its result; both arguments are given by name."""

    def __call__(self, client_task: ClientTask, fl_ctx: FLContext) -> object:
        """Handle it; an exception ends the task with ERROR."""


class TaskDoneCallback(Protocol):
    """Called once when a task is done; both arguments are given by name."""

    def __call__(self, task: Task, fl_ctx: FLContext) -> object:
        """Handle it."""


class Task:
    """A piece of work, to be scheduled once by broadcast, send or relay.

    Args:
        name: selects the executor at the site.
        data: input of the executor; the header TASK_NAME is set in it.
        props: properties of the application's own.
        timeout: seconds after scheduling at which it ends with TIMEOUT; 0: never.
        before_task_sent_cb: called before the task is sent to a client; what it leaves in ``task.data`` is what this
            client gets, and later ones find. It puts other arrays in the place of those of a broadcast: writing to
            these is a ValueError, because others get them too.
        after_task_sent_cb: called after that, also if sending failed.
        result_received_cb: called with each result; may replace ``client_task.result``.
        task_done_cb: called once, when the task is done.
        operator: description of the operation, sent along as a header.
        secure: without effect; what protects tasks is TLS between each process and Redis.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the timeout is negative.
    """

    #: Targets that are disconnected, or have not joined within the grace period: nobody waits for their turn.
    absent: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        data: Shareable,
        props: dict[str, Any] | None = None,
        timeout: int = 0,
        before_task_sent_cb: ClientTaskCallback | None = None,
        after_task_sent_cb: ClientTaskCallback | None = None,
        result_received_cb: ClientTaskCallback | None = None,
        task_done_cb: TaskDoneCallback | None = None,
        operator: dict[str, Any] | None = None,
        secure: bool = False,
    ) -> None:
        _check("name", name, str)
        _check("data", data, Shareable)
        _check("operator", operator, dict, optional=True)
        _check("props", props, dict, optional=True)
        _check("timeout", timeout, int)
        if timeout < 0:
            raise ValueError(f"timeout must be >= 0 seconds, but is {timeout}; 0 means that the task never times out")
        _check_callable("before_task_sent_cb", before_task_sent_cb)
        _check_callable("after_task_sent_cb", after_task_sent_cb)
        _check_callable("result_received_cb", result_received_cb)
        _check_callable("task_done_cb", task_done_cb)

        self.name = name
        self.data = data
        data.set_header(ReservedHeaderKey.TASK_NAME, name)
        self.props: dict[str, Any] = {} if props is None else props
        self.timeout = timeout
        self.before_task_sent_cb = before_task_sent_cb
        self.after_task_sent_cb = after_task_sent_cb
        self.result_received_cb = result_received_cb
        self.task_done_cb = task_done_cb
        self.operator = operator
        self.secure = secure

        #: One callback of this task runs at a time; reentrant, because a callback may call methods that take it.
        self.cb_lock = threading.RLock()
        #: Names of its target clients; None until it is scheduled.
        self.targets: list[str] | None = None
        #: All ClientTasks, in the order in which they were sent.
        self.client_tasks: list[ClientTask] = []
        #: The newest ClientTask of each client, by name.
        self.last_client_task_map: dict[str, ClientTask] = {}
        self.completion_status: TaskCompletionStatus | None = None
        #: The exception that ended it with ERROR.
        self.exception: Exception | None = None
        self.is_standing = False
        #: Seconds since the epoch, as are all times here.
        self.schedule_time: float | None = None
        self.create_time = time.time()
        self.msg_root_id = str(uuid.uuid4())

    def __repr__(self) -> str:
        ended = f", {self.completion_status}" if self.completion_status else ""
        state = "standing" if self.is_standing else "not standing"
        return f"Task({self.name!r}, {self.msg_root_id}, {state}, sent={len(self.client_tasks)}{ended})"

    def set_prop(self, key: str, value: Any) -> None:
        """Set a property of the application.

        Raises:
            ValueError: the key starts with ``__``.
        """
        if key.startswith("__"):
            raise ValueError(f"keys that start with __ are the system's own: {key!r}; choose another")
        self.props[key] = value

    def get_prop(self, key: str) -> Any:
        """One property, or None."""
        return self.props.get(key)


class ClientTask:
    """A task for one client."""

    def __init__(self, client: Client, task: Task) -> None:
        self.client = client
        self.task = task
        self.id = str(uuid.uuid4())
        self.task_send_count = 0
        #: When it was last sent; None: not yet.
        self.task_sent_time: float | None = None
        #: When it was sent first; None: not yet.
        self.first_sent_time: float | None = None
        self.result_received_time: float | None = None
        #: The submitted result, or the one that result_received_cb has replaced it by.
        self.result: Any = None
        #: For callbacks.
        self.props: dict[str, Any] = {}

    def __repr__(self) -> str:
        answered = self.result_received_time is not None
        return (
            f"ClientTask({self.task.name!r}, {self.id}, client={self.client.name!r}, sent={self.task_send_count}, "
            f"{'answered' if answered else 'unanswered'})"
        )


def _check(what: str, value: object, wanted: type, *, optional: bool = False) -> None:
    if not isinstance(value, wanted) and not (optional and value is None):
        raise TypeError(f"{what} must be of type {wanted.__name__}, but is {value!r} ({type(value).__name__})")


def _check_callable(what: str, value: Callable[..., object] | None) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{what} must be callable or None, but is {value!r} ({type(value).__name__})")
    if why := why_not_plain(value):
        raise TypeError(f"{what} is {why}")
