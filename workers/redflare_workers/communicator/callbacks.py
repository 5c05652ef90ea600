"""Runs callbacks of tasks, and notices those that take too long."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redflare_workers.apis.task import ClientTask, Task

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Running:
    what: str
    since: float
    warned: bool = False


class Callbacks:
    """The callbacks that run just now.

    Args:
        clock: now, in seconds.
        limit: seconds after which a callback that still runs is worth a warning.
    """

    def __init__(self, clock: Callable[[], float], limit: float) -> None:
        self._clock = clock
        self.limit = limit
        # a dict, as inserting and deleting one key need no lock
        self._running: dict[int, _Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def run(
        self, kind: str, fn: Callable[..., object], task: Task, client_task: ClientTask | None, /, **arguments: Any
    ) -> None:
        """Call ``fn`` with ``arguments``; what it raises, the caller gets."""
        who = "" if client_task is None else f" for client {client_task.client.name} ({client_task.id})"
        running = _Running(f"{kind} of task {task.name!r}{who}", self._clock())
        self._running[id(running)] = running
        try:
            fn(**arguments)
        finally:
            del self._running[id(running)]

    def warn(self, now: float) -> None:
        """Log, once for each, those that run longer than the limit."""
        for running in list(self._running.values()):
            if not running.warned and now - running.since >= self.limit:
                running.warned = True
                logger.warning(
                    "%s has not returned for %.0f s; whoever needs this task's next callback waits for it",
                    running.what,
                    now - running.since,
                )
