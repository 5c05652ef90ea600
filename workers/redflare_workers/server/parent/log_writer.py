"""``LogWriter``: the one thread that writes lines of jobs' logs into the store."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from redflare_broker.errors import RedflareError
from redflare_broker.job_store.store import JobStore

logger = logging.getLogger(__name__)

#: Lines that may wait for a Redis that is away; more are left out, they stand in the log files.
_MOST: Final = 20_000


class LogWriter:
    """Start and stop it; ``keep`` never blocks.

    Args:
        store: of the jobs; a step of it ends when ``stop`` has been called.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, str, list[str]]] = deque()
        self._lines = 0
        self._left_out = 0
        self._writing = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="redflare-job-logs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Write what waits, as far as there is time."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def keep(self, job_id: str, site: str, lines: Sequence[str]) -> None:
        """These lines were written by a job's process at a site, or the server."""
        if not lines:
            return
        with self._changed:
            if self._lines + len(lines) > _MOST:
                self._left_out += len(lines)
                return
            told = [f"({self._left_out} lines are left out here)"] * bool(self._left_out) + list(lines)
            self._left_out = 0
            self._lines += len(told)
            self._waiting.append((job_id, site, told))
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all is written that was kept before; False: it is not, Redis is away."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._writing, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if not self._waiting:
                    return
                job_id, site, lines = self._waiting.popleft()
                self._lines -= len(lines)
                self._writing = True
            try:
                self._store.append_log(job_id, site, lines)
            except RedflareError as error:
                logger.warning("%d lines of the log of job %s are not kept: %s", len(lines), job_id, error)
            except Exception:
                logger.exception("%d lines of the log of job %s are not kept", len(lines), job_id)

    def __repr__(self) -> str:
        return f"<LogWriter, {self._lines} lines wait>"
