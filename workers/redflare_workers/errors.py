"""Errors of tasks that end without a result; raised by the plain form of the exchanger."""

from __future__ import annotations

from redflare_broker.errors import RedflareError


class TaskFailed(RedflareError):
    """A task ended without a result of its agent; the message says why."""


class TaskTimeout(TaskFailed, TimeoutError):
    """No result came within the timeout; the task was aborted."""


class TaskAborted(TaskFailed):
    """The task was aborted: by a call of ``abort`` or ``stop``, by an operator, or because the agent is dead."""


class TaskRejected(TaskFailed):
    """The agent could not read the task, or its result could not be read."""
