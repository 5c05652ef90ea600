"""``WatchedTrain``: the user's function, with a time limit for its return once its task is aborted."""

from __future__ import annotations

import faulthandler
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from redflare_workers.processes.exit_code import ExitCode

logger = logging.getLogger(__name__)


class WatchedTrain:
    """Calls the function, and ends the process when the function does not return in time.

    Args:
        train: ``train(task) -> TaskResult``.
        abort_grace: seconds from the abort of the task in which the function must return.
        stop_grace: the same, from ``stop``.
    """

    def __init__(self, train: Callable[[Any], Any], *, abort_grace: float, stop_grace: float) -> None:
        self._train = train
        self._abort_grace = abort_grace
        self._stop_grace = stop_grace
        self._guard = threading.Lock()
        #: The task that the function works on, and an event that is set when it has returned; None between tasks.
        self._current: tuple[Any, threading.Event] | None = None
        self._last: Any = None
        self._stopping = False
        # errors name the user's function
        functools.update_wrapper(self, train, updated=())

    def __call__(self, task: Any) -> Any:
        returned = threading.Event()
        with self._guard:
            last, self._last, self._current = self._last, task, (task, returned)
            stopping = self._stopping
        if last is not None:
            # so that the thread that watches it ends
            last.aborted = True
        if stopping:
            task.aborted = True
        name = f"redflare-abort-{task.task_id}"
        threading.Thread(target=self._watch, args=(task, returned), name=name, daemon=True).start()
        try:
            return self._train(task)
        finally:
            returned.set()
            with self._guard:
                self._current = None

    def stop(self) -> None:
        """Abort the current task; the agent's successor gets it again."""
        with self._guard:
            self._stopping, current = True, self._current
        if current is not None:
            current[0].aborted = True

    def close(self) -> None:
        """End the watching thread of the last task; call it when no task comes any more."""
        if self._last is not None:
            self._last.aborted = True

    def _watch(self, task: Any, returned: threading.Event) -> None:
        task.wait_aborted()
        grace = self._stop_grace if self._stopping else self._abort_grace
        if returned.wait(grace):
            return
        reason = "its agent is stopping" if self._stopping else "its task is aborted"
        logger.error(
            "the trainer has not returned within %.1f s although %s (%s): ending this process", grace, reason, task
        )
        logging.shutdown()
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        os._exit(ExitCode.LEFT if self._stopping else ExitCode.ABORTED)
