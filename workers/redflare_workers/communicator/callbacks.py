"""``Callbacks`` runs callbacks of tasks and warns of slow ones; ``CallbackLock`` lets one run at a time for each task.

Callbacks of one task run one after another. One that never returns would block everybody who waits for the lock; so
the lock is closed when the task ends, and those who only wanted to take part in the task give up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redflare_workers.apis.task import ClientTask, Task

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Running:
    what: str
    since: float
    warned: bool = False


@dataclass(slots=True, eq=False)
class Callbacks:
    """The callbacks that are running now."""

    #: the current time in seconds
    clock: Callable[[], float]
    #: seconds after which a callback that still runs is warned of
    limit: float
    # a dict, as inserting and deleting one key need no lock
    _running: dict[int, _Running] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._running)

    def run(
        self, kind: str, fn: Callable[..., object], task: Task, client_task: ClientTask | None, /, **arguments: Any
    ) -> None:
        """Call ``fn`` with ``arguments``; its exceptions reach the caller."""
        who = "" if client_task is None else f" for client {client_task.client.name} ({client_task.id})"
        running = _Running(f"{kind} of task {task.name!r}{who}", self.clock())
        self._running[id(running)] = running
        try:
            fn(**arguments)
        finally:
            del self._running[id(running)]

    def warn(self, now: float) -> None:
        """Log callbacks that run longer than the limit, each once."""
        for running in list(self._running.values()):
            if not running.warned and now - running.since >= self.limit:
                running.warned = True
                logger.warning(
                    "%s has not returned for %.0f s; all other callbacks of this task wait for it",
                    running.what,
                    now - running.since,
                )


class CallbackLock:
    """A reentrant lock like ``threading.RLock`` that can be closed: ``acquire_unless_closed`` gives up then."""

    def __init__(self) -> None:
        self._free = threading.Condition(threading.Lock())
        self._owner: int | None = None
        self._depth = 0
        self._closed = False

    @property
    def held(self) -> bool:
        """Whether any thread holds it."""
        return self._owner is not None

    @property
    def held_by_me(self) -> bool:
        """Whether the calling thread holds it."""
        return self._owner == threading.get_ident()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire it, closed or not; return False if that takes longer than ``timeout`` seconds (-1: no limit)."""
        me = threading.get_ident()
        with self._free:
            if self._owner not in (None, me):
                limit = None if timeout < 0 else timeout
                if not blocking or not self._free.wait_for(lambda: self._owner is None, limit):
                    return False
            self._owner = me
            self._depth += 1
            return True

    def acquire_unless_closed(self) -> bool:
        """Acquire it; return False as soon as it is closed."""
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
        """Release it once.

        Raises:
            RuntimeError: another thread holds it, or none.
        """
        with self._free:
            if self._owner != threading.get_ident():
                raise RuntimeError("a callback lock can only be released by the thread that holds it")
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._free.notify()

    def close(self) -> None:
        """Make all who wait in ``acquire_unless_closed`` give up, now and later."""
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
        return f"<CallbackLock {held}{', closed' if self._closed else ''}>"
