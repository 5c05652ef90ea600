"""A pool of daemon threads that grows when all are busy.

Work here may block for as long as a user's callback likes, and one that waits may be waiting for the next piece of work:
a pool of a fixed size would deadlock. So there is always a thread for what was submitted; those that have had nothing
to do for a while end. The threads are daemons: a callback that never returns does not keep its process alive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

#: Seconds after which a thread without work ends.
_IDLE: Final = 10.0


class Pool:
    """Runs functions in threads; thread-safe.

    Args:
        name: what the threads' names begin with.
        idle: seconds after which a thread without work ends.
    """

    def __init__(self, name: str, idle: float = _IDLE) -> None:
        self.name = name
        self._idle = idle
        self._work: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._waiting = 0
        self._threads: set[threading.Thread] = set()
        self._made = 0
        self._closed = False

    def submit(self, work: Callable[[], object]) -> bool:
        """Run ``work`` in a thread, soon; what it raises is logged. False, and nothing is run, once closed."""
        with self._changed:
            if self._closed:
                return False
            self._work.append(work)
            if self._waiting >= len(self._work):
                self._changed.notify()
                return True
            self._made += 1
            thread = threading.Thread(target=self._run, name=f"{self.name}-{self._made}", daemon=True)
            self._threads.add(thread)
        thread.start()
        return True

    def close(self, timeout: float = 10.0) -> list[str]:
        """Run what was submitted, and end; names of threads that are still busy after ``timeout`` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        return [thread.name for thread in threads if thread.is_alive()]

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:
                logger.exception("%s: a piece of work failed: %r", threading.current_thread().name, work)
            # what it held must not live until the next one comes
            del work

    def _next(self) -> Callable[[], object] | None:
        """The next piece of work; None: end, there was none for a while."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._work or self._closed, self._idle)
            finally:
                self._waiting -= 1
            if self._work:
                return self._work.popleft()
            self._threads.discard(threading.current_thread())
            return None

    def __repr__(self) -> str:
        return f"<Pool {self.name} of {len(self._threads)} threads, {self._waiting} waiting, {len(self._work)} to do>"
