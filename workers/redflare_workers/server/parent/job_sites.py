"""``JobSites``: the sites of one job: the requests to them, and how the job stands at each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from redflare_broker.cell.cell import Reply, ReplyCode
from redflare_broker.errors import DecodeError
from redflare_broker.job_store.record import SiteState

from redflare_workers.jobs.job_folder import JobDefinition
from redflare_workers.jobs.job_meta import JobMeta
from redflare_workers.processes.how_ended import NOT_RUNNING
from redflare_workers.protocol.parent_messages import (
    AbortProof,
    AbortRequest,
    DeployRequest,
    SiteReport,
    SiteRequest,
    StartRequest,
)
from redflare_workers.protocol.site_job_status import ClientStatus

from .job_verdict import shortage
from .runner_context import RunnerContext
from .site_status import CHOSEN, DEPLOYED, FAILED, LIVE, SiteStatusTable

logger = logging.getLogger(__name__)

#: Seconds that a site has to unpack an app, and to launch its process.
DEPLOY_WITHIN: Final = 120.0
START_WITHIN: Final = 60.0
#: Seconds beyond the server's own grace that sites have to confirm an abort: theirs may be longer.
_CONFIRM_WITHIN: Final = 20.0


class JobSites:
    """Used by the job's runner; other threads hand in the sites' reports.

    Args:
        job: the job's id.
        meta: the job's, checked.
        sites: that the job is given to.
        job_meta: the job's, as it is sent to sites.
        context: what is around the runner.
        changed: notified after each report and reply; held while the statuses are read or written.
        interrupted: whether the job must end, or is left to the next server: then waiting for sites is of no use.
    """

    def __init__(
        self,
        job: str,
        meta: JobMeta,
        sites: tuple[str, ...],
        job_meta: Mapping[str, Any],
        context: RunnerContext,
        changed: threading.Condition,
        interrupted: Callable[[], bool],
    ) -> None:
        self.sites = sites
        self._job = job
        self._meta = meta
        self._job_meta = dict(job_meta)
        self._context = context
        self._changed = changed
        self._interrupted = interrupted
        self._statuses = SiteStatusTable(sites)

    # -- how it stands -------------------------------------------------------------------------------------------------

    def record(self, report: SiteReport) -> None:
        """Record a site's report; from any thread."""
        with self._changed:
            if report.site not in self._statuses or not self._statuses.record(report):
                return
            self._changed.notify_all()
        self._context.store.set_site(
            self._job, report.site, report.status, exit_code=report.exit_code, reason=report.reason, how=report.how
        )

    def restore(self, recorded: Mapping[str, SiteState]) -> None:
        """Take over what the last server recorded, for sites that have not reported since."""
        with self._changed:
            for site, state in recorded.items():
                if site in self._statuses and self._statuses[site].status == CHOSEN:
                    self._statuses.change(site, state.status, state.reason, exit_code=state.exit_code, how=state.how)

    def begin_anew(self) -> None:
        """End whatever was begun at the sites, and forget it."""
        self.abort("the server was started again", self.sites)
        with self._changed:
            self._statuses = SiteStatusTable(self.sites)

    @property
    def shortage(self) -> str:
        """Why the job cannot continue with the sites that are left; "" if it can."""
        return shortage(self._meta, self.sites, self._statuses.failed)

    @property
    def size(self) -> int:
        """How many sites take part."""
        return len(self.sites) - len(self._statuses.failed)

    @property
    def expected(self) -> list[str]:
        """The sites that are connected and run a process, whose end they will report."""
        return [site for site in self._statuses.live if self._context.is_alive(site)]

    @property
    def unfinished(self) -> list[str]:
        """The sites where a process runs, or could be started."""
        return self._statuses.with_status(DEPLOYED, *LIVE)

    # -- requests ------------------------------------------------------------------------------------------------------

    def deploy(self, definition: JobDefinition) -> None:
        """Send each site its app; an app is stored once for all its sites."""
        for app in definition.apps:
            sites = [site for site in self.sites if self._meta.app_for(site) == app]
            request = DeployRequest(job=self._job, app=app, meta=self._job_meta)
            for site, reply in self._ask(request, sites, definition.app_archive(app), DEPLOY_WITHIN).items():
                self._note(site, DEPLOYED, reply)

    def start(self) -> None:
        """Let the sites launch their processes."""
        request = StartRequest(job=self._job)
        for site, reply in self._ask(request, self._statuses.with_status(DEPLOYED), None, START_WITHIN).items():
            # its own reports may have come first
            if not reply.ok or self._statuses[site].status == DEPLOYED:
                self._note(site, ClientStatus.STARTING.label, reply)

    def _note(self, site: str, status: str, reply: Reply) -> None:
        if not reply.ok and self._interrupted():
            return
        reason = "" if reply.ok else reply.error.removeprefix("ERROR: ") or f"no reply ({reply.rc})"
        with self._changed:
            self._statuses.change(site, status if reply.ok else FAILED, reason)
        if not reply.ok:
            logger.error("job %s: site %s failed: %s", self._job, site, reason)
        self._context.store.set_site(self._job, site, status if reply.ok else FAILED, reason=reason)

    def abort(self, reason: str, sites: Iterable[str]) -> dict[str, str]:
        """End the job's processes at sites; return how each of those ended that have confirmed it."""
        settings = self._context.settings
        timeout = settings.abort_grace + settings.stop_grace + _CONFIRM_WITHIN
        request = AbortRequest(job=self._job, reason=reason)
        replies = self._ask(request, sites, None, timeout, is_alive=self._context.is_alive, uninterruptible=True)
        confirmed: dict[str, str] = {}
        for site, reply in replies.items():
            try:
                if not reply.ok:
                    raise DecodeError(reply.error or reply.rc)
                proof = AbortProof.from_meta(reply.meta)
            except DecodeError as error:
                logger.warning("job %s: site %s has not confirmed the abort: %s", self._job, site, error)
                continue
            confirmed[site] = proof.how
            with self._changed:
                was = self._statuses[site]
                # one that had ended before keeps its reason
                if proof.how == NOT_RUNNING and not was.live and was.status not in (DEPLOYED, CHOSEN):
                    continue
                self._statuses.change(
                    site, ClientStatus.STOPPED.label, was.reason, exit_code=proof.exit_code, how=proof.how
                )
            self._context.store.set_site(
                self._job,
                site,
                ClientStatus.STOPPED.label,
                exit_code=proof.exit_code,
                reason=f"aborted: {reason}",
                how=proof.how,
            )
        return confirmed

    def _ask(
        self,
        request: SiteRequest,
        sites: Iterable[str],
        data: object,
        timeout: float,
        *,
        is_alive: Callable[[str], bool] = lambda site: True,
        uninterruptible: bool = False,
    ) -> dict[str, Reply]:
        """Ask sites at once, and wait for their replies.

        Args:
            is_alive: whether to wait for a site; others find the request when they connect again.
            uninterruptible: wait also when the job must end.
        """
        targets = {site: (self._context.cell_of(site), request.to_meta()) for site in sites}
        if not targets:
            return {}
        replies: dict[str, Reply] = {}

        def on_reply(site: str, reply: Reply) -> None:
            with self._changed:
                replies[site] = reply
                self._changed.notify_all()

        def enough() -> bool:
            if self._interrupted() and not uninterruptible:
                return True
            return all(site in replies or not is_alive(site) for site in targets)

        asked = self._context.cell.ask_many(request.CHANNEL, request.TOPIC, targets, data, on_reply=on_reply)
        began = time.monotonic()
        deadline = began + timeout
        # a site may vanish without a reply
        while not self._wait(enough, min(self._context.cell.interval, max(deadline - time.monotonic(), 0))):
            if time.monotonic() >= deadline:
                break
        asked.cancel()
        with self._changed:
            nothing = Reply(ReplyCode.TIMEOUT, {"error": f"no reply within {time.monotonic() - began:.1f} s"})
            return {site: replies.get(site, nothing) for site in targets}

    def _wait(self, until: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(until, timeout)

    def __repr__(self) -> str:
        return f"<JobSites of {self._job}, {self.size} of {len(self.sites)} sites>"
