"""``CommObserver``: hears from the communicator what happens to its tasks; the base does nothing.

The communicator knows no transport. A server job learns here when to try parked requests again, writes the records
that a restarted server resumes from, and stores a broadcast's data once for all clients. Methods are called from any
thread, without a lock of the communicator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Set
from typing import Any

from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task


class CommObserver:
    """Override what you need; see each method for what its exceptions do."""

    def protect(self, task: Task, data: Shareable) -> Shareable:
        """Return the copy of the data that all clients of a broadcast get: changes to ``task.data`` must not reach it.

        An exception ends the task with ERROR.
        """
        return copy.deepcopy(data)

    def scheduled(self, task: Task) -> list[ClientTask]:
        """Note a task that was checked; no request sees it yet. Exceptions reach the caller of ``broadcast`` etc.

        Returns:
            ClientTasks of ``task`` to adopt: handed out before a restart, they count as sent.
        """
        return []

    def may_ask(self, names: Set[str] | None) -> None:
        """Try the requests of these clients (None: all) again: they may get something now. Must be quick."""

    def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
        """Note that a task is final; its task_done_cb runs next. ``unanswered`` were handed out and have no result."""

    def checkpoint(self, state: dict[str, Any], history: Callable[[int], list[Any]]) -> None:
        """Store the state of a controller that can be resumed; ``history`` as ``Controller.appended``.

        Exceptions reach the controller.
        """
