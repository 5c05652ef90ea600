"""``HeldRecord``: the record of a job that this server carries out; written again when Redis has lost it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from redflare_broker.job_store.record import UNFINISHED, JobRecord, SiteState
from redflare_broker.job_store.store import JobStore

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class HeldRecord:
    """Used by the job's runner; ``compare`` by the thread that reconciles."""

    store: JobStore
    #: as this server has moved it
    known: JobRecord
    #: how the job stands at each site
    states: Callable[[], Mapping[str, SiteState]]
    #: somebody else has ended the job, or its id is another job's: the record is no longer this server's
    disowned: bool = field(default=False, init=False)

    def compare(self, record: JobRecord | None) -> tuple[str, str] | None:
        """Compare with the record in the store; one that is lost, or that a failover has taken back, is written again.

        Args:
            record: None: there is none.

        Returns:
            By whom and why the job must end; None: it goes on.
        """
        if record is None:
            self.restore()
        elif record.submission != self.known.submission:
            self.disowned = True
            return "server", "Redis had lost it, and another job was submitted under its id"
        elif record.finished:
            self.disowned = True
            return "server", f"the store says that it is {record.status}"
        elif record.abort_requested:
            return record.abort_by, record.abort_reason
        else:
            # a record that was read before the runner moved it is refused
            if self._is_behind(record) and self.advance(UNFINISHED, self.known.status, self.known.reason) is not None:
                logger.warning("job %s: its record had gone back to %s", record.id, record.status)
            self._note_sites(record)
        return None

    def _note_sites(self, record: JobRecord) -> None:
        """Write how the job stands at sites of which the record has another status."""
        for site, state in self.states().items():
            noted = record.sites.get(site)
            if noted is None or (noted.status, noted.exit_code) != (state.status, state.exit_code):
                self.store.set_site(record.id, site, state.status, **state.details, submission=record.submission)

    def advance(self, expected: Iterable[str], to: str, reason: str, by: str = "server") -> JobRecord | None:
        """Move the job, as ``JobStore.advance``; one whose record is lost gets it back before."""
        store, job_id, submission = self.store, self.known.id, self.known.submission
        record = store.advance(job_id, expected, to, reason, by, submission=submission)
        if record is None and store.get(job_id) is None and self.restore():
            record = store.advance(job_id, expected, to, reason, by, submission=submission)
        return record

    def restore(self) -> bool:
        """Write the record, which Redis has lost; False: it is not to be, or another job has the id by now."""
        if self.disowned:
            return False
        logger.warning("job %s: Redis has lost its record; it is written again", self.known.id)
        return self.store.restore(replace(self.known, sites=self.states()))

    def _is_behind(self, record: JobRecord) -> bool:
        return UNFINISHED.index(record.status) < UNFINISHED.index(self.known.status)

    def __repr__(self) -> str:
        return f"<HeldRecord of {self.known.id}, {self.known.status}>"
