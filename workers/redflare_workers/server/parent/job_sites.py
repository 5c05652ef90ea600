"""``JobSites``: the sites of one job: what they are asked, and how the job stands at each of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from redflare_broker.cell.cell import Reply, ReplyCode
from redflare_broker.job_store.record import SiteState

from redflare_workers.jobs.job_folder import JobDefinition
from redflare_workers.jobs.job_meta import JobMeta
from redflare_workers.processes.how_ended import NOT_RUNNING
from redflare_workers.protocol.parent_messages import ABORT, DEPLOY, SITE, START
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.protocol.site_report import SiteReport

from .job_verdict import shortage
from .runner_context import RunnerContext
from .site_states import CHOSEN, DEPLOYED, FAILED, LIVE, SiteStatusTable

logger = logging.getLogger(__name__)

#: Seconds that a site has to unpack an app, and to launch its process.
DEPLOY_WITHIN: Final = 120.0
START_WITHIN: Final = 60.0
#: Seconds beyond the server's own patience that sites have to confirm an abort: theirs may be longer.
_CONFIRM_WITHIN: Final = 20.0


class JobSites:
    """Used by the job's runner, and told things by other threads.

    Args:
        job: its id.
        meta: that was checked.
        sites: it is given to.
        told: what sites are told of it.
        setting: what is around it.
        changed: notified whenever something is heard; held while the states are read or written.
        interrupted: the job is to end, or to be left: waiting for sites is of no use any more.
    """

    def __init__(
        self,
        job: str,
        meta: JobMeta,
        sites: tuple[str, ...],
        told: Mapping[str, Any],
        setting: RunnerContext,
        changed: threading.Condition,
        interrupted: Callable[[], bool],
    ) -> None:
        self.sites = sites
        self._job = job
        self._meta = meta
        self._told = dict(told)
        self._setting = setting
        self._changed = changed
        self._interrupted = interrupted
        self._states = SiteStatusTable(sites)

    # -- how it stands -------------------------------------------------------------------------------------------------

    def hear(self, report: SiteReport) -> None:
        """A site tells how the job stands there; from any thread."""
        with self._changed:
            if report.site not in self._states or not self._states.hear(report):
                return
            self._changed.notify_all()
        self._setting.store.set_site(
            self._job, report.site, report.status, exit_code=report.exit_code, reason=report.reason, how=report.how
        )

    def recall(self, noted: Mapping[str, SiteState]) -> None:
        """What the last server has heard; what was heard since then counts more."""
        with self._changed:
            for site, state in noted.items():
                if site in self._states and self._states[site].status == CHOSEN:
                    self._states.change(site, state.status, state.reason, exit_code=state.exit_code, how=state.how)

    def begin_anew(self) -> None:
        """Whatever was begun at the sites is ended, and forgotten."""
        self.abort("the server was started again", self.sites)
        with self._changed:
            self._states = SiteStatusTable(self.sites)

    @property
    def lack(self) -> str:
        """Why the job cannot go on with the sites that are left; "": it can."""
        return shortage(self._meta, self.sites, self._states.failed)

    @property
    def size(self) -> int:
        """How many sites take part."""
        return len(self.sites) - len(self._states.failed)

    @property
    def expected(self) -> list[str]:
        """Sites that are there, and will tell that their processes have ended."""
        return [site for site in self._states.live if self._setting.is_alive(site)]

    @property
    def unfinished(self) -> list[str]:
        """Sites where a process runs, or could be started."""
        return self._states.with_status(DEPLOYED, *LIVE)

    # -- what they are asked -------------------------------------------------------------------------------------------

    def deploy(self, definition: JobDefinition) -> None:
        """Give each its app; an app is stored once for all its sites."""
        for app in definition.apps:
            sites = [site for site in self.sites if self._meta.app_for(site) == app]
            asked = {site: {"job": self._job, "app": app, "meta": self._told} for site in sites}
            for site, reply in self._ask(DEPLOY, asked, definition.app_archive(app), DEPLOY_WITHIN).items():
                self._note(site, DEPLOYED, reply)

    def start(self) -> None:
        """Have their processes launched."""
        asked = {site: {"job": self._job, "meta": self._told} for site in self._states.with_status(DEPLOYED)}
        for site, reply in self._ask(START, asked, None, START_WITHIN).items():
            # its own reports may have come first
            if not reply.ok or self._states[site].status == DEPLOYED:
                self._note(site, ClientStatus.STARTING.label, reply)

    def _note(self, site: str, status: str, reply: Reply) -> None:
        if not reply.ok and self._interrupted():
            return
        reason = "" if reply.ok else reply.error.removeprefix("ERROR: ") or f"it gave no answer ({reply.rc})"
        with self._changed:
            self._states.change(site, status if reply.ok else FAILED, reason)
        if not reply.ok:
            logger.error("job %s: site %s fails: %s", self._job, site, reason)
        self._setting.store.set_site(self._job, site, status if reply.ok else FAILED, reason=reason)

    def abort(self, reason: str, sites: Iterable[str]) -> dict[str, str]:
        """Have the job's processes at sites ended; how that came about, of those that have answered."""
        settings = self._setting.settings
        asked = {site: {"job": self._job, "reason": reason} for site in sites}
        within = settings.abort_grace + settings.stop_grace + _CONFIRM_WITHIN
        replies = self._ask(ABORT, asked, None, within, awaited=self._setting.is_alive, surely=True)
        proofs: dict[str, str] = {}
        for site, reply in replies.items():
            if not reply.ok:
                logger.warning(
                    "job %s: site %s has not confirmed its end: %s", self._job, site, reply.error or reply.rc
                )
                continue
            proofs[site] = how = str(reply.meta.get("how", ""))
            code = reply.meta.get("exit_code")
            with self._changed:
                was = self._states[site]
                # one that had ended before keeps what it said
                if how == NOT_RUNNING and not was.live and was.status not in (DEPLOYED, CHOSEN):
                    continue
                self._states.change(site, ClientStatus.STOPPED.label, was.reason, exit_code=code, how=how)
            self._setting.store.set_site(
                self._job,
                site,
                ClientStatus.STOPPED.label,
                exit_code=code if isinstance(code, int) else None,
                reason=f"aborted: {reason}",
                how=how,
            )
        return proofs

    def _ask(
        self,
        topic: str,
        metas: Mapping[str, dict[str, Any]],
        data: object,
        timeout: float,
        *,
        awaited: Callable[[str], bool] = lambda site: True,
        surely: bool = False,
    ) -> dict[str, Reply]:
        """Ask sites at once, and wait.

        Args:
            awaited: sites whose answers are waited for; the others have got the request when they are back.
            surely: wait also when the job is to end.
        """
        if not metas:
            return {}
        replies: dict[str, Reply] = {}

        def on_reply(site: str, reply: Reply) -> None:
            with self._changed:
                replies[site] = reply
                self._changed.notify_all()

        def enough() -> bool:
            if self._interrupted() and not surely:
                return True
            return all(site in replies or not awaited(site) for site in metas)

        targets = {site: (self._setting.cell_of(site), meta) for site, meta in metas.items()}
        asked = self._setting.cell.ask_many(SITE, topic, targets, data, on_reply=on_reply)
        began = time.monotonic()
        deadline = began + timeout
        # a site may vanish without a word
        while not self._wait(enough, min(self._setting.cell.interval, max(deadline - time.monotonic(), 0))):
            if time.monotonic() >= deadline:
                break
        asked.cancel()
        with self._changed:
            nothing = Reply(ReplyCode.TIMEOUT, {"error": f"no answer within {time.monotonic() - began:.1f} s"})
            return {site: replies.get(site, nothing) for site in metas}

    def _wait(self, until: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(until, timeout)

    def __repr__(self) -> str:
        return f"<JobSites of {self._job}, {self.size} of {len(self.sites)} sites>"
