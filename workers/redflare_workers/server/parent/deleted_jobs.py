"""``DeletedJobs``: removes the folders of jobs that were deleted, here and at the sites, also those that were away.

The store remembers deletions: that a record is not there proves nothing, for it may have expired, or Redis has lost it.
"""

from __future__ import annotations

import logging
import queue
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from redflare_broker.cell.cell import Cell
from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import check_job_id
from redflare_broker.job_state.members import Member
from redflare_broker.job_store.store import JobStore

from redflare_workers.audit.audit import Audit, about
from redflare_workers.audit.entry import Action
from redflare_workers.protocol.parent_messages import DeleteRunsRequest
from redflare_workers.workspace.run_folder import RunFolder

logger = logging.getLogger(__name__)

#: By job: its submissions that were deleted; none: whichever a folder is of.
Deletions = Mapping[str, Collection[str]]

_ANY: Final = frozenset[str]()
#: The store does not know which.
_OPERATOR: Final = "an operator"


class DeletedJobs:
    """For the thread that reconciles; ``note`` from any.

    Args:
        connected: returns the sites that are connected.
        is_running: whether a job of this id runs.
    """

    def __init__(
        self,
        store: JobStore,
        workspace: Path,
        cell: Cell,
        connected: Callable[[], list[Member]],
        is_running: Callable[[str], bool],
        audit: Audit | None = None,
    ) -> None:
        self._store = store
        self._workspace = workspace
        self._cell = cell
        self._connected = connected
        self._is_running = is_running
        self._audit = audit or Audit()
        #: submissions whose deletion is in the audit log
        self._kept = self._audit.recorded(Action.DELETE)
        self._noted: queue.SimpleQueue[object] = queue.SimpleQueue()
        #: submissions whose deletion was dealt with here
        self._known: set[str] = set()
        #: the instance of each connected site that was told of them
        self._told: dict[str, str] = {}

    def note(self, job_id: object) -> None:
        """Note that an operator has deleted a job; the store does not remember one that had expired."""
        self._noted.put(job_id)

    def reconcile(self) -> None:
        """Deal with deletions that are new, and tell sites that have connected of all.

        Raises:
            RedflareError: of Redis; repeat it later.
        """
        deletions = self._store.deletions()
        fresh = _by_job({each: job for each, job in deletions.items() if each not in self._known})
        for job_id, submissions in fresh.items():
            for submission in submissions - self._kept:
                self._audit.record(Action.DELETE, about(job_id, submission), by=_OPERATOR)
            self._remove(job_id, submissions)
        self._kept &= deletions.keys()
        fresh |= self._expired(fresh)
        sites = self._connected()
        known = [site for site in sites if self._told.get(site.name) == site.instance]
        self._tell(known, fresh)
        self._tell([site for site in sites if site not in known], _by_job(deletions))
        self._known = set(deletions)
        self._told = {site.name: site.instance for site in sites}

    def _expired(self, deleted: Deletions) -> dict[str, frozenset[str]]:
        """Remove the folders of jobs that were deleted when the store had no record of them any more."""
        expired = {}
        while not self._noted.empty():
            try:
                job_id = check_job_id(self._noted.get())
            except (ConfigError, TypeError) as error:
                logger.warning("cannot delete the folders of a job: %s", error)
                continue
            # the record of one that runs is about to be restored; another may have been submitted under this id
            if job_id not in deleted and not self._is_running(job_id) and self._store.get(job_id) is None:
                expired[job_id] = _ANY
                self._audit.record(Action.DELETE, about(job_id), by=_OPERATOR, reason="its record had expired")
                self._remove(job_id, _ANY)
        return expired

    def _remove(self, job_id: str, submissions: Collection[str]) -> None:
        folder = RunFolder(self._workspace, job_id)
        if folder.is_run and (not submissions or folder.submission in submissions):
            shutil.rmtree(folder.path, ignore_errors=True)
            logger.info("job %s was deleted, and its folder with it", job_id)

    def _tell(self, sites: list[Member], deletions: Deletions) -> None:
        """Tell sites, without waiting; one that vanishes meanwhile is told again when it is back."""
        if sites and deletions:
            message = DeleteRunsRequest(jobs={job: sorted(submissions) for job, submissions in deletions.items()})
            cells = [site.cell for site in sites]
            self._cell.fire_and_forget(message.CHANNEL, message.TOPIC, cells, message.to_meta())

    def __repr__(self) -> str:
        return f"<DeletedJobs, {len(self._known)} deletions>"


def _by_job(deletions: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Group submissions by their job."""
    jobs: defaultdict[str, set[str]] = defaultdict(set)
    for submission, job_id in deletions.items():
        jobs[job_id].add(submission)
    return {job_id: frozenset(submissions) for job_id, submissions in jobs.items()}
