"""``ProcessEnding``: lets a job's process end when its parent is gone, on a signal, or when it is asked to.

The parent holds the other end of the standard input. The kernel closes it when the parent dies, however it dies.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

from redflare_workers.util.signals import stopping_signals

logger = logging.getLogger(__name__)

#: Seconds to end in order once the parent is gone; then the process kills its group, and itself.
GRACE: Final = 4.0

#: The reason when the parent died.
PARENT_GONE: Final = "its parent process is gone"


class ProcessEnding:
    """Make one in the main thread, at the start of the process.

    Args:
        not_yet: called with the reason, from a thread, when the process should end before ``attach``; should not
            return.
        grace: seconds from the parent's death to SIGKILL.
        on_input: called with what the parent sends, from a thread.
    """

    def __init__(
        self,
        not_yet: Callable[[str], object],
        *,
        grace: float = GRACE,
        on_input: Callable[[bytes], object] = lambda data: None,
    ) -> None:
        #: The first reason to end; "".
        self.reason = ""
        self.parent_gone = threading.Event()
        self._not_yet = not_yet
        self._grace = grace
        self._on_input = on_input
        self._stop: Callable[[str], object] | None = None
        self._reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._over = threading.Event()

    def watch(self, *, signals: bool = True) -> None:
        """Handle signals, and watch the lifeline; standard input is ``/dev/null`` from now on.

        Args:
            signals: False: leave SIGTERM, SIGINT and SIGHUP to their handlers.
        """
        lifeline = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        for number in stopping_signals() if signals else ():
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._run, name="redflare-ending", daemon=True).start()
        threading.Thread(target=self._watch_parent, args=(lifeline,), name="redflare-lifeline", daemon=True).start()

    def attach(self, stop: Callable[[str], object]) -> None:
        """Call ``stop`` with the reason when the process should end; at once, if it should already."""
        with self._guard:
            self._stop = stop
            reason = self.reason
        if reason:
            stop(reason)

    def ask(self, reason: str) -> None:
        """Let the process end; from any thread, and from a signal handler."""
        self._reasons.put(reason)

    def finish(self) -> None:
        """Stop watching; the last call. If the parent is gone, kill this process and all that it has started."""
        self._over.set()
        if self.parent_gone.is_set():
            _kill_group()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.ask(f"it got {signal.Signals(number).name}")

    def _run(self) -> None:
        while True:
            reason = self._reasons.get()
            with self._guard:
                if self.reason:
                    continue
                self.reason, stop = reason, self._stop
            logger.warning("this process ends: %s", reason)
            (stop or self._not_yet)(reason)

    def _watch_parent(self, lifeline: int) -> None:
        while data := os.read(lifeline, 64):
            self._on_input(data)
        self.parent_gone.set()
        self.ask(PARENT_GONE)
        if not self._over.wait(self._grace):
            _kill_group()


def _kill_group() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
