"""``CommObserver``: what the communicator tells whoever carries its tasks; the base does nothing.

The communicator knows no transport. A server job hears here when parked requests are worth asking again, keeps the
ledger that a restarted server resumes from, and stores a broadcast's data once for all clients. Every method is called
without a lock of the communicator, from whatever thread things happen in.
"""

from __future__ import annotations

import copy
from collections.abc import Set
from typing import Any

from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task


class CommObserver:
    """Override what you need; see each method for what its exceptions do."""

    def protect(self, task: Task, data: Shareable) -> Shareable:
        """What all clients of a broadcast get, taken once: changes to ``task.data`` must not reach it.

        What it raises ends the task with ERROR.
        """
        return copy.deepcopy(data)

    def scheduled(self, task: Task) -> list[ClientTask]:
        """A task was checked and is about to stand; no request sees it yet. What it raises, the scheduler gets.

        Returns:
            ClientTasks of ``task`` to adopt, handed out before a restart: they count as sent.
        """
        return []

    def may_ask(self, names: Set[str] | None) -> None:
        """These clients (None: all) may now get something that they could not get before. Must be quick."""

    def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
        """A task is final; its task_done_cb runs next. ``unanswered`` were handed out and have no result."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Keep the state of a controller that can be resumed. What it raises, the controller gets."""
