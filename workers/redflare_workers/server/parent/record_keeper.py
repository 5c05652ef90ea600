"""``RecordKeeper``: holds the records in the store to what this server knows of its jobs.

Redis may lose records, and a failover may take them back to an earlier status. What a process of the server holds is
written again: by the runners of the jobs that run, and here for those that have ended. One that waits cannot be: its
archive is in Redis alone. Its loss is told, once.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from redflare_broker.errors import ConfigError, RedflareError
from redflare_broker.fqcn import check_job_id
from redflare_broker.job_store.record import ABORTED, APPROVED, DISPATCHED, SUBMITTED, UNFINISHED, JobRecord
from redflare_broker.job_store.store import JobStore

from redflare_workers.audit.audit import Audit, about
from redflare_workers.audit.entry import Action
from redflare_workers.workspace.run_folder import RunFolder

from .job_files import keep_result
from .job_runner import JobRunner
from .job_verdict import JobVerdict

logger = logging.getLogger(__name__)

#: Jobs that have ended and are remembered.
_MOST: Final = 1_000
#: Submissions that are known to be in the audit log.
_REMEMBERED: Final = 100_000


class RecordKeeper:
    """For the thread that reconciles; ``note_end`` from any."""

    def __init__(self, store: JobStore, workspace: Path, audit: Audit | None = None) -> None:
        self._store = store
        self._workspace = workspace
        self._audit = audit or Audit()
        #: Submissions that the audit log has, the newest last.
        self._submitted = dict.fromkeys(self._audit.recorded(Action.SUBMIT))
        #: Jobs that operators have changed, which may be over before they are seen in the list.
        self._changed: queue.SimpleQueue[object] = queue.SimpleQueue()
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

    def note_change(self, job_id: object) -> None:
        """Note that an operator has submitted, aborted or deleted a job."""
        if self._changed.qsize() < _MOST:
            self._changed.put(job_id)

    def compare(self, records: Iterable[JobRecord], runners: Iterable[JobRunner]) -> list[JobRecord]:
        """Write again what was lost or taken back; return the records of jobs that are not over.

        Args:
            records: of all jobs that are not over, as the store has them.
            runners: of all jobs that run.
        """
        listed = {record.id: record for record in records}
        for runner in runners:
            runner.compare(listed.get(runner.id) or self._store.get(runner.id))
        for record in listed.values():
            self._note_submitted(record)
        self._tell_of_lost(listed)
        self._note_changed(listed)
        return [record for record in listed.values() if not self._end_again(record)]

    def _note_submitted(self, record: JobRecord) -> bool:
        """Keep that a job was submitted; False: that is known."""
        if not record.submission or record.submission in self._submitted:
            return False
        self._submitted[record.submission] = None
        if len(self._submitted) > _REMEMBERED:
            del self._submitted[next(iter(self._submitted))]
        facts = {"name": record.name, "fingerprint": record.fingerprint}
        if record.archive is not None:
            facts["archive"] = record.archive.sha256
        self._audit.record(Action.SUBMIT, about(record.id, record.submission), by=record.submitter, **facts)
        return True

    def _note_changed(self, listed: Mapping[str, JobRecord]) -> None:
        """Keep which jobs were aborted before the server had seen them."""
        while not self._changed.empty():
            try:
                job_id = check_job_id(self._changed.get())
            except (ConfigError, TypeError):
                continue
            try:
                record = None if job_id in listed else self._store.get(job_id)
            except RedflareError:
                self._changed.put(job_id)
                raise
            if record is not None and _never_began(record) and self._note_submitted(record):
                self._note_withdrawn(record)

    def _note_withdrawn(self, record: JobRecord) -> None:
        """Keep that an operator has aborted a job which had not begun: it is over without the server."""
        subject = about(record.id, record.submission)
        self._audit.record(Action.ABORT, subject, by=record.abort_by, reason=record.abort_reason)
        self._audit.record(Action.END, subject, reason="it had not begun", status=record.status)

    def _tell_of_lost(self, listed: Mapping[str, JobRecord]) -> None:
        """Say which jobs that waited have vanished, and were neither ended nor deleted."""
        now = {each.id: self._store.get(each.id) for each in self._waiting if each.id not in listed}
        gone = [each for each in self._waiting if each.id in now and now[each.id] is None]
        for record in now.values():
            if record is not None and _never_began(record):
                self._note_withdrawn(record)
        if gone:
            deleted = self._store.deletions()
            for record in gone:
                if record.submission not in deleted:
                    logger.error(
                        "job %s (%s, submitted by %s) was %s and is lost: Redis has forgotten its record and its "
                        "archive, so it does not run; submit it again, with --id %s",
                        *(record.id, record.name, record.submitter, record.status, record.id),
                    )
                    text = f"it was {record.status}; Redis has forgotten its record and its archive"
                    self._audit.record(Action.LOSE, about(record.id, record.submission), reason=text)
        self._waiting = tuple(record for record in listed.values() if record.status in (SUBMITTED, APPROVED))

    def _end_again(self, record: JobRecord) -> bool:
        """End a job that has ended already; False: it has not."""
        verdict = self._ended.get(record.submission)
        if verdict is None:
            return False
        logger.warning("job %s: its record had gone back to %s; it is %s", record.id, record.status, verdict.status)
        text = f"its record had gone back to {record.status}"
        self._audit.record(Action.RESTORE, about(record.id, record.submission), reason=text, status=verdict.status)
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


def _never_began(record: JobRecord) -> bool:
    """Whether a job was aborted before it was dispatched; that is no step of the server's."""
    return record.status == ABORTED and not any(change.status == DISPATCHED for change in record.history)
