"""``JobChecks``: checks the jobs that were submitted, each in a thread, and records what the server decides."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from redflare_broker.errors import JobUnknown, RedflareError, Unavailable
from redflare_broker.job_store.record import APPROVED, CAN_NOT_SCHEDULE, SUBMITTED, JobRecord
from redflare_broker.job_store.store import JobStore
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.audit.audit import Audit, about
from redflare_workers.audit.entry import Action
from redflare_workers.workspace.site_settings import SiteSettings

from .admission import refusal

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class JobChecks:
    """Thread-safe."""

    store: JobStore
    workspace: Path
    #: what jobs may do at the server
    settings: SiteSettings
    #: takes what is decided
    audit: Audit
    #: archives may be large
    pool: ElasticThreadPool
    #: called when the server has decided
    on_decision: Callable[[], object]
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    #: ids of those that are being checked
    _checking: set[str] = field(default_factory=set, init=False)

    def begin(self, record: JobRecord) -> None:
        """Check a job, unless that was begun already; it becomes APPROVED, or ends with the reason."""
        with self._guard:
            if record.id in self._checking:
                return
            self._checking.add(record.id)

        def check() -> None:
            decided = False
            try:
                decided = self._decide(record)
            finally:
                with self._guard:
                    self._checking.discard(record.id)
                if decided:
                    self.on_decision()

        self.pool.submit(check)

    def _decide(self, record: JobRecord) -> bool:
        """Approve or reject a job; False: Redis cannot record that, and the next heartbeat tries again."""
        try:
            reason = self._refusal(record)
            if reason:
                logger.error("job %s: rejected: %s", record.id, reason)
            action = Action.REFUSE if reason else Action.APPROVE
            self.audit.record(action, about(record.id, record.submission), reason=reason)
            self.store.advance(record.id, SUBMITTED, CAN_NOT_SCHEDULE if reason else APPROVED, reason)
        except RedflareError as error:
            level = logging.INFO if isinstance(error, JobUnknown | Unavailable) else logging.ERROR
            logger.log(level, "job %s: cannot be checked now; trying again unless it was deleted: %s", record.id, error)
            return False
        return True

    def _refusal(self, record: JobRecord) -> str:
        try:
            return refusal(record, self.store, self.workspace, self.settings)
        except RedflareError:
            raise
        except Exception as error:
            # else it would be checked again and again, and stay SUBMITTED
            logger.exception("job %s: the check failed", record.id)
            return f"the server could not check it: {type(error).__name__}: {error}"

    def __repr__(self) -> str:
        return f"<JobChecks, {len(self._checking)} under way>"
