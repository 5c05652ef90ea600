"""The trainer's definitions: tasks, results, return codes, and the interface of an agent.

Names and values follow NVFlare's ``IPCAgent`` and its definitions, so that a trainer moves by changing its imports.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Final, Self

from redflare_broker.constants import (
    CHANNEL,
    JOB_META_KEY_AGENT_ID,
    RC,
    TOPIC_ABORT,
    TOPIC_BYE,
    TOPIC_GET_TASK,
    TOPIC_HEARTBEAT,
    TOPIC_HELLO,
    TOPIC_SUBMIT_RESULT,
    MetaKey,
    MsgHeader,
    PayloadKey,
    TaskResult,
)
from redflare_broker.fqcn import agent_site_fqcn

from .errors import AgentClosed, CallStateError

__all__ = [
    "CHANNEL",
    "JOB_META_KEY_AGENT_ID",
    "RC",
    "TOPIC_ABORT",
    "TOPIC_BYE",
    "TOPIC_GET_TASK",
    "TOPIC_HEARTBEAT",
    "TOPIC_HELLO",
    "TOPIC_SUBMIT_RESULT",
    "AgentClosed",
    "CallStateError",
    "FlareAgent",
    "MetaKey",
    "MsgHeader",
    "PayloadKey",
    "Task",
    "TaskResult",
    "agent_site_fqcn",
]


class Task:
    """A task in an agent's hands.

    Args:
        task_name: "train", "validate", ...
        task_id: unique in the federation.
        meta: rounds, data kind and whatever the controller adds.
        data: a tree of dicts, lists, scalars, bytes, numpy arrays and torch tensors.
        attempt: 1 for the first instance that had the task, more after crashes.
        site: name of the site whose agent has it; "" if no agent gave it.
    """

    NEW: Final = 0
    FETCHED: Final = 1
    PROCESSED: Final = 2

    def __init__(
        self, task_name: str, task_id: str, meta: dict[str, Any], data: Any, *, attempt: int = 1, site: str = ""
    ) -> None:
        self.task_name = task_name
        self.task_id = task_id
        self.meta = meta
        self.data = data
        self.attempt = attempt
        self.site = site
        self.status: int = Task.NEW
        #: The CJ has accepted the result, or has gone on to the next task.
        self.already_received = False
        #: Seconds since the epoch of the last submission of its result; None before the first.
        self.last_send_result_time: float | None = None
        self._aborted = threading.Event()

    @property
    def aborted(self) -> bool:
        """Whether the result is not wanted any more; a training loop may stop early."""
        return self._aborted.is_set()

    @aborted.setter
    def aborted(self, value: bool) -> None:
        if value:
            self._aborted.set()
        else:
            self._aborted.clear()

    def wait_aborted(self, timeout: float | None = None) -> bool:
        """Wait until the task is aborted, like ``Event.wait``; False when ``timeout`` seconds passed first."""
        return self._aborted.wait(timeout)

    def __str__(self) -> str:
        return f"'{self.task_name} {self.task_id}'"

    def __repr__(self) -> str:
        status = ("NEW", "FETCHED", "PROCESSED")[self.status]
        return f"<Task {self.task_name!r} {self.task_id} {status}{' aborted' if self.aborted else ''}>"


class FlareAgent(ABC):
    """The interface of an agent: start, get tasks, submit results, stop. Also a context manager."""

    @abstractmethod
    def start(self) -> None:
        """Begin to receive tasks."""

    @abstractmethod
    def stop(self) -> None:
        """End; every blocked call returns at once."""

    @abstractmethod
    def get_task(self, timeout: float | None = None) -> Task | None:
        """Wait for the next task; None when ``timeout`` seconds passed."""

    def submit_result(self, result: TaskResult) -> bool:
        """Hand in the current task's result; True when it was accepted.

        Raises:
            NotImplementedError: this kind of agent hands in no results.
        """
        raise NotImplementedError(f"{type(self).__name__} hands in no results: it has no submit_result")

    def tasks(self) -> Iterator[Task]:
        """Yield tasks until the agent is closed; submit each one's result before asking for the next."""
        while True:
            try:
                task = self.get_task()
            except AgentClosed:
                return
            if task is not None:
                yield task

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
