"""``Monitor``: the thread that looks after standing tasks, when something changed and when something is due."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

#: Seconds until it looks again after a look that failed.
_AFTER_FAILURE: Final = 0.2


class Monitor:
    """Runs ``look`` in one thread.

    Args:
        name: of the thread.
        look: does what is due; returns the seconds until it must look again at the latest, None: not before ``wake``.
            What it raises is logged, and it is asked again soon.
    """

    def __init__(self, name: str, look: Callable[[], float | None]) -> None:
        self._look = look
        self._changed = threading.Condition(threading.Lock())
        self._woken = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to look.

        Raises:
            RuntimeError: it was started before.
        """
        self._thread.start()

    def wake(self) -> None:
        """Have it look soon: something changed."""
        # read without the lock: who set it has notified, and the look that follows has not begun
        if self._woken:
            return
        with self._changed:
            self._woken = True
            self._changed.notify()

    def stop(self, timeout: float = 10.0) -> bool:
        """End the thread, its own one after this look; False: it is still busy after ``timeout`` seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _run(self) -> None:
        pause: float | None = 0.0
        while self._wait(pause):
            try:
                pause = self._look()
            except Exception:
                logger.exception("%s: a look at the standing tasks failed", self._thread.name)
                pause = _AFTER_FAILURE

    def _wait(self, pause: float | None) -> bool:
        """Until it is woken or the pause is over; False: stop."""
        with self._changed:
            if pause != 0.0:
                self._changed.wait_for(lambda: self._woken or self._stopped, pause)
            self._woken = False
            return not self._stopped
