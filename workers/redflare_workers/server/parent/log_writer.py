"""``LogWriter``: the one thread that writes lines of jobs' logs into the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from redflare_broker.errors import RedflareError
from redflare_broker.job_store.store import JobStore

from redflare_workers.util.line_queue import MOST_BYTES, LineQueue
from redflare_workers.util.log_format import level_and_text

logger = logging.getLogger(__name__)

#: Bytes of lines that may wait while Redis is unreachable, for all jobs and sites: each has its part of them.
_MOST: Final = 64 << 20


class LogWriter:
    """Writes lines with their levels, and the time at which they come; their own times are in the log files.

    ``write`` queues them without blocking, and a thread stores them, some of each job and site in turn; what ``stop``
    does not wait for may be lost.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._changed = threading.Condition()
        #: by job, submission and site; whose turn it is first
        self._waiting: dict[tuple[str, str, str], LineQueue] = {}
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
            waiting = self._waiting.setdefault((job_id, submission, site), LineQueue())
            waiting.add(lines, min(MOST_BYTES, _MOST // len(self._waiting)))
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
                job_id, submission, site = key = next(iter(self._waiting))
                queue = self._waiting.pop(key)
                lines = queue.take()
                if queue:
                    self._waiting[key] = queue
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
        return f"<LogWriter, {sum(map(len, self._waiting.values()))} lines wait>"
