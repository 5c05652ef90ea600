"""``CallbackLock``: whose callback of a task may run now; a reentrant lock whose waiters can be sent home.

Callbacks of one task run one after another. One that never returns would keep everybody who waits for the next turn
for ever; so when the task ends, its turn is closed, and those who only wanted to take part in the task leave.
"""

from __future__ import annotations

import threading


class CallbackLock:
    """Usable like a ``threading.RLock``; ``take`` is the acquire of those who leave when it is closed."""

    def __init__(self) -> None:
        self._free = threading.Condition(threading.Lock())
        self._owner: int | None = None
        self._depth = 0
        self._closed = False

    @property
    def mine(self) -> bool:
        """Whether it is the calling thread's turn."""
        return self._owner == threading.get_ident()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait for the turn, closed or not; False: it did not come within ``timeout`` seconds (-1: no limit)."""
        me = threading.get_ident()
        with self._free:
            if self._owner not in (None, me):
                limit = None if timeout < 0 else timeout
                if not blocking or not self._free.wait_for(lambda: self._owner is None, limit):
                    return False
            self._owner = me
            self._depth += 1
            return True

    def take(self) -> bool:
        """Wait for the turn until it is closed; False: it is closed, and the turn was not taken."""
        me = threading.get_ident()
        with self._free:
            if self._owner != me:
                self._free.wait_for(lambda: self._closed or self._owner is None)
                if self._closed:
                    return False
            self._owner = me
            self._depth += 1
            return True

    def release(self) -> None:
        """Give the turn to the next one.

        Raises:
            RuntimeError: it is not the calling thread's turn.
        """
        with self._free:
            if self._owner != threading.get_ident():
                raise RuntimeError("a turn can only be released by the thread that holds it")
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._free.notify()

    def close(self) -> None:
        """Send home all who wait in ``take``, now and later."""
        with self._free:
            self._closed = True
            self._free.notify_all()

    def __enter__(self) -> CallbackLock:
        self.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __repr__(self) -> str:
        held = f"held by thread {self._owner}" if self._owner is not None else "free"
        return f"<Turn {held}{', closed' if self._closed else ''}>"
