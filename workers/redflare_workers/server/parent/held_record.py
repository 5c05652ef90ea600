"""``HeldRecord``: the record of a job that this server carries out; written again when Redis has lost it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from redflare_broker.job_store.record import RUNNING, UNFINISHED, JobRecord, SiteState
from redflare_broker.job_store.store import JobStore

from redflare_workers.audit.audit import Audit, about
from redflare_workers.audit.entry import Action

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class HeldRecord:
    """Used by the job's runner; ``compare`` by the thread that reconciles."""

    store: JobStore
    #: as this server has moved it
    known: JobRecord
    #: how the job stands at each site
    states: Callable[[], Mapping[str, SiteState]]
    #: takes how it moves
    audit: Audit = field(default_factory=Audit)
    #: the heads of the sites' audit logs, as they have told
    heads: Callable[[], Mapping[str, str]] = dict
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
            if self._is_behind(record) and self._advance(UNFINISHED, self.known.status, self.known.reason) is not None:
                text = f"its record had gone back to {record.status}"
                logger.warning("job %s: %s", record.id, text)
                self.audit.record(Action.RESTORE, self._about, reason=text, status=self.known.status)
            self._note_sites(record)
        return None

    def _note_sites(self, record: JobRecord) -> None:
        """Write how the job stands at sites of which the record has another status."""
        for site, state in self.states().items():
            noted = record.sites.get(site)
            if noted is None or (noted.status, noted.exit_code) != (state.status, state.exit_code):
                self.store.set_site(record.id, site, state.status, **state.details, submission=record.submission)

    def advance(
        self,
        expected: Iterable[str],
        to: str,
        reason: str,
        by: str = "server",
        faults: Mapping[str, int] | None = None,
    ) -> JobRecord | None:
        """Move the job, as ``JobStore.advance``; one whose record is lost gets it back before.

        Args:
            faults: messages that the job's process here has refused, by kind.
        """
        facts: dict[str, Any] = {"status": to, "heads": self.heads()}
        action = Action.START if to == RUNNING else Action.END
        if action is Action.END:
            facts["sites"] = {site: _ending(state) for site, state in self.states().items()}
            facts |= {"faults": dict(faults)} if faults else {}
        self.audit.record(action, self._about, reason=reason, **facts)
        return self._advance(expected, to, reason, by)

    def note_abort(self, by: str, reason: str) -> None:
        """Keep who wants the job to end."""
        self.audit.record(Action.ABORT, self._about, by=None if self.disowned else by, reason=reason)

    def _advance(self, expected: Iterable[str], to: str, reason: str, by: str = "server") -> JobRecord | None:
        store, job_id, submission = self.store, self.known.id, self.known.submission
        record = store.advance(job_id, expected, to, reason, by, submission=submission)
        if record is None and store.get(job_id) is None and self.restore():
            record = store.advance(job_id, expected, to, reason, by, submission=submission)
        return record

    def restore(self) -> bool:
        """Write the record, which Redis has lost; False: it is not to be, or another job has the id by now."""
        if self.disowned:
            return False
        text = "Redis has lost its record; it is written again"
        logger.warning("job %s: %s", self.known.id, text)
        self.audit.record(Action.RESTORE, self._about, reason=text, status=self.known.status)
        return self.store.restore(replace(self.known, sites=self.states()))

    @property
    def _about(self) -> dict[str, str]:
        return about(self.known.id, self.known.submission)

    def _is_behind(self, record: JobRecord) -> bool:
        return UNFINISHED.index(record.status) < UNFINISHED.index(self.known.status)

    def __repr__(self) -> str:
        return f"<HeldRecord of {self.known.id}, {self.known.status}>"


def _ending(state: SiteState) -> dict[str, object]:
    """Return how a job has ended at a site, without what does not apply."""
    facts = {"status": state.status, "exit_code": state.exit_code, "how": state.how, "agents": dict(state.agents)}
    return {name: value for name, value in facts.items() if value not in (None, "", {})}
