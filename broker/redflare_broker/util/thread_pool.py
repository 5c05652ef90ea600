"""``ElasticThreadPool``: daemon threads, few while work flows, more as soon as all of them are stuck.

Work here may block for as long as a user's callback likes, and what it waits for may be the next piece of work: a pool
of a fixed size would deadlock. A thread for each piece would make hundreds for one broadcast, which slow each other
down. So there are a few, and a spare one: it takes work itself, and another becomes the spare, when none of the others
has taken any for a moment. The threads are daemons: a callback that never returns does not keep its process alive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from .fair_queue import FairQueue

logger = logging.getLogger(__name__)

#: Threads that take work at once.
_EAGER: Final = 4
#: Seconds without progress after which the busy ones count as stuck.
_PATIENCE: Final = 0.01
#: Seconds after which a thread without work ends.
_IDLE: Final = 10.0


class ElasticThreadPool:
    """Runs functions in threads; thread-safe.

    Args:
        name: what the threads' names begin with.
        eager: how many threads take work at once; more do when these are stuck.
        idle: seconds after which a thread without work ends.
    """

    def __init__(self, name: str, *, eager: int = _EAGER, idle: float = _IDLE) -> None:
        self.name = name
        self._eager = eager
        self._idle = idle
        self._work: FairQueue[Callable[[], object]] = FairQueue()
        self._guard = threading.RLock()
        self._changed = threading.Condition(self._guard)
        self._busy = 0
        self._threads: set[threading.Thread] = set()
        self._made = 0
        #: when work was last taken
        self._taken = time.monotonic()
        self._closed = False

    def submit(self, work: Callable[[], object], of: str = "") -> bool:
        """Run ``work`` in a thread, soon; what it raises is logged. False, and nothing is run, once closed.

        Args:
            of: for whom it is; work of each is begun in turn.
        """
        with self._guard:
            if self._closed:
                return False
            first = not self._work
            if first:
                # what waits from now on has not waited longer
                self._taken = time.monotonic()
            self._work.append(work, of)
            if len(self._threads) <= self._busy:
                self._add_thread()
            elif first or self._busy < self._eager:
                # else the spare one watches already, and cannot do more
                self._changed.notify()
        return True

    def close(self, timeout: float = 10.0) -> list[str]:
        """Run what was submitted, and end; names of threads that are still busy after ``timeout`` seconds."""
        with self._guard:
            self._closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        joined = {threading.current_thread()}
        # one that takes the last but one piece of work may have made another meanwhile
        while threads := self._others(joined):
            for thread in threads:
                thread.join(max(deadline - time.monotonic(), 0.0))
            joined |= threads
        return sorted(thread.name for thread in joined - {threading.current_thread()} if thread.is_alive())

    def _others(self, known: set[threading.Thread]) -> set[threading.Thread]:
        with self._guard:
            return self._threads - known

    def _add_thread(self) -> None:
        self._made += 1
        thread = threading.Thread(target=self._run, name=f"{self.name}-{self._made}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self) -> None:
        work = self._next(done=0)
        while work is not None:
            try:
                work()
            except (Exception, SystemExit):
                # a callback that calls sys.exit ends neither this thread nor the process
                logger.exception("%s: a piece of work failed: %r", threading.current_thread().name, work)
            # what it held must not live until the next one comes
            del work
            work = self._next(done=1)

    def _next(self, done: int) -> Callable[[], object] | None:
        """Note that this thread has ``done`` so many pieces of work, and wait for the next one; None: end."""
        with self._guard:
            self._busy -= done
            idle_since = time.monotonic()
            while True:
                now = time.monotonic()
                if self._work:
                    stuck_at = self._taken + _PATIENCE
                    if self._busy < self._eager or now >= stuck_at or self._closed:
                        return self._take(now)
                    self._changed.wait(stuck_at - now)
                elif self._closed:
                    # ``close`` joins it
                    return None
                elif now - idle_since >= self._idle:
                    self._threads.discard(threading.current_thread())
                    return None
                else:
                    self._changed.wait(idle_since + self._idle - now)

    def _take(self, now: float) -> Callable[[], object]:
        self._busy += 1
        self._taken = now
        work = self._work.popleft()
        if self._work and len(self._threads) == self._busy:
            # another thread must watch over what is left
            self._add_thread()
        return work

    def __repr__(self) -> str:
        threads, waiting = len(self._threads), len(self._work)
        return f"<ElasticThreadPool {self.name} of {threads} threads, {self._busy} busy, {waiting} to do>"
