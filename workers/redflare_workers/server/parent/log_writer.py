"""``LogWriter``: the one thread that writes lines of jobs' logs into the store."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from redflare_broker.errors import RedflareError
from redflare_broker.job_store.store import JobStore

from redflare_workers.util.log_format import level_and_text

logger = logging.getLogger(__name__)

#: Lines that may wait while Redis is unreachable; more are left out, and are only in the log files.
_MOST: Final = 20_000


class LogWriter:
    """Writes lines with their levels, and the time at which they come; their own times are in the log files.

    ``write`` queues them without blocking, and a thread stores them; what ``stop`` does not wait for may be lost.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, str, str, list[str]]] = deque()
        self._lines = 0
        self._left_out = 0
        self._writing = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="redflare-job-logs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Write what waits, for at most ``timeout`` seconds, and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def write(self, job_id: str, site: str, lines: Sequence[str], submission: str = "") -> None:
        """Queue lines that a job's process has written at a site, or at the server.

        Args:
            submission: of the job; "": lines of whichever has this id.
        """
        if not lines:
            return
        with self._changed:
            if self._lines + len(lines) > _MOST:
                self._left_out += len(lines)
                return
            queued = [f"({self._left_out} lines are left out here)"] * bool(self._left_out) + list(lines)
            self._left_out = 0
            self._lines += len(queued)
            self._waiting.append((job_id, submission, site, queued))
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all lines that were queued are written; False: Redis is unreachable."""
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
                job_id, submission, site, lines = self._waiting.popleft()
                self._lines -= len(lines)
                self._writing = True
            try:
                for level, texts in groupby(map(level_and_text, lines), key=itemgetter(0)):
                    self._store.append_log(
                        job_id, site, [text for _, text in texts], level=level, submission=submission
                    )
            except RedflareError as error:
                logger.warning("cannot store %d log lines of job %s: %s", len(lines), job_id, error)
            except Exception:
                logger.exception("cannot store %d log lines of job %s", len(lines), job_id)

    def __repr__(self) -> str:
        return f"<LogWriter, {self._lines} lines wait>"
