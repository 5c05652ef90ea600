"""``RecordKeeper``: holds the records in the store to what this server knows of its jobs.

Redis may lose records, and a failover may take them back to an earlier status. What a process of the server holds is
written again: by the runners of the jobs that run, and here for those that have ended. One that waits cannot be: its
archive is in Redis alone. Its loss is told, once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from redflare_broker.errors import RedflareError
from redflare_broker.job_store.record import APPROVED, SUBMITTED, UNFINISHED, JobRecord
from redflare_broker.job_store.store import JobStore

from redflare_workers.workspace.run_folder import RunFolder

from .job_files import keep_result
from .job_runner import JobRunner
from .job_verdict import JobVerdict

logger = logging.getLogger(__name__)

#: Jobs that have ended and are remembered.
_MOST: Final = 1_000


class RecordKeeper:
    """For the thread that reconciles; ``note_end`` from any."""

    def __init__(self, store: JobStore, workspace: Path) -> None:
        self._store = store
        self._workspace = workspace
        #: How jobs have ended, by submission.
        self._ended: dict[str, JobVerdict] = {}
        #: Jobs that had not begun when the records were compared last.
        self._waiting: tuple[JobRecord, ...] = ()

    def note_end(self, runner: JobRunner) -> None:
        """Remember how a job has ended."""
        if runner.ended is not None and runner.submission:
            self._ended[runner.submission] = runner.ended
            while len(self._ended) > _MOST:
                del self._ended[next(iter(self._ended))]

    def compare(self, records: Iterable[JobRecord], runners: Iterable[JobRunner]) -> list[JobRecord]:
        """Write again what was lost or taken back; return the records of jobs that are not over.

        Args:
            records: of all jobs that are not over, as the store has them.
            runners: of all jobs that run.
        """
        listed = {record.id: record for record in records}
        for runner in runners:
            runner.compare(listed.get(runner.id) or self._store.get(runner.id))
        self._tell_of_lost(listed)
        return [record for record in listed.values() if not self._end_again(record)]

    def _tell_of_lost(self, listed: Mapping[str, JobRecord]) -> None:
        """Say which jobs that waited have vanished, and were neither ended nor deleted."""
        gone = [each for each in self._waiting if each.id not in listed and self._store.get(each.id) is None]
        if gone:
            deleted = self._store.deletions()
            for record in gone:
                if record.submission not in deleted:
                    logger.error(
                        "job %s (%s, submitted by %s) was %s and is lost: Redis has forgotten its record and its "
                        "archive, so it does not run; submit it again, with --id %s",
                        *(record.id, record.name, record.submitter, record.status, record.id),
                    )
        self._waiting = tuple(record for record in listed.values() if record.status in (SUBMITTED, APPROVED))

    def _end_again(self, record: JobRecord) -> bool:
        """End a job that has ended already; False: it has not."""
        verdict = self._ended.get(record.submission)
        if verdict is None:
            return False
        logger.warning("job %s: its record had gone back to %s; it is %s", record.id, record.status, verdict.status)
        folder = RunFolder(self._workspace, record.id)
        if record.result is None and folder.is_run:
            try:
                keep_result(self._store, folder, record.submission)
            except (RedflareError, OSError, ValueError) as error:
                logger.error("job %s: cannot store its result again: %s", record.id, error)
        self._store.advance(
            record.id, UNFINISHED, verdict.status, verdict.reason, verdict.by, submission=record.submission
        )
        return True

    def __repr__(self) -> str:
        return f"<RecordKeeper, {len(self._ended)} jobs have ended>"
