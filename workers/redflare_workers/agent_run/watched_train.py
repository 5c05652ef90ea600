"""``WatchedTrain``: the user's function, with somebody who looks at the clock while its task is aborted."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from redflare_workers.processes.exit_code import ExitCode

logger = logging.getLogger(__name__)

#: Words of a task that nobody waits for.
_ABORTED: Final = "its task is aborted"
_STOPPED: Final = "its agent is to stop"


class WatchedTrain:
    """Called as the function is. Does not return while it runs, but ends the process when it will not stop.

    Args:
        train: ``train(task) -> TaskResult``.
        abort_grace: seconds to return in, from the abort of the task.
        stop_grace: the same, from ``stop``.
    """

    def __init__(self, train: Callable[[Any], Any], *, abort_grace: float, stop_grace: float) -> None:
        self._train = train
        self._abort_grace = abort_grace
        self._stop_grace = stop_grace
        self._guard = threading.Lock()
        #: In the function's hands, with what is set when it has returned; None while there is none.
        self._now: tuple[Any, threading.Event] | None = None
        self._last: Any = None
        self._stopping = False

    def __call__(self, task: Any) -> Any:
        returned = threading.Event()
        with self._guard:
            last, self._last, self._now = self._last, task, (task, returned)
            stopping = self._stopping
        if last is not None:
            # its watcher may go: nobody waits for it any more
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
                self._now = None

    def stop(self) -> None:
        """Let the function return soon; its task is left to the agent's successor."""
        with self._guard:
            self._stopping, now = True, self._now
        if now is not None:
            now[0].aborted = True

    def close(self) -> None:
        """No task comes any more."""
        if self._last is not None:
            self._last.aborted = True

    def _watch(self, task: Any, returned: threading.Event) -> None:
        task.wait_aborted()
        grace = self._stop_grace if self._stopping else self._abort_grace
        if returned.wait(grace):
            return
        why = _STOPPED if self._stopping else _ABORTED
        logger.error("the trainer has not returned for %.1f s although %s (%s): this process ends", grace, why, task)
        logging.shutdown()
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        os._exit(ExitCode.SUCCESS if self._stopping else ExitCode.ABORTED)
