"""``JobSites``: the sites of one job: the requests to them, and how the job stands at each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from redflare_broker.cell.cell import Reply, ReplyCode
from redflare_broker.errors import BlobMissing, ConfigError, DecodeError, JobUnknown, RedflareError
from redflare_broker.job_store.record import SiteState
from redflare_broker.util import humanize
from redflare_broker.util.patience import Patience

from redflare_workers.audit.audit import about
from redflare_workers.audit.entry import Action
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

from .job_files import fetch_job
from .job_verdict import shortage
from .runner_context import RunnerContext

logger = logging.getLogger(__name__)

#: It has not reported yet.
CHOSEN: Final = "chosen"
#: It has connected while the job ran, and is given it.
DEPLOYING: Final = "deploying"
DEPLOYED: Final = "deployed"
#: The site said bye before the job began there.
LEFT: Final = "left"
#: The site could not take the job, or its process has failed.
FAILED: Final = ClientStatus.EXCEPTION.label
#: A process runs, or may.
LIVE: Final = (ClientStatus.STARTING.label, ClientStatus.STARTED.label)

#: Seconds that a site has to unpack an app, and to launch its process.
DEPLOY_WITHIN: Final = 120.0
START_WITHIN: Final = 60.0
#: Seconds beyond the server's own grace that sites have to confirm an abort: theirs may be longer.
_CONFIRM_WITHIN: Final = 20.0
#: Sites that a reason for waiting names before the rest is counted.
_NAMED: Final = 5


@dataclass(slots=True, eq=False)
class JobSites:
    """Used by the job's runner; other threads hand in the sites' reports."""

    #: the job's id
    job: str
    #: the job's, among those of this id
    submission: str
    meta: JobMeta
    #: that the job is given to
    sites: tuple[str, ...]
    #: the job's meta, as it is sent to sites
    job_meta: Mapping[str, Any]
    context: RunnerContext
    #: notified after each report and reply; held while the states are read or written
    changed: threading.Condition
    #: whether the job must end, or is left to the next server: then waiting for sites is of no use
    interrupted: Callable[[], bool]
    #: by site; the status is CHOSEN, DEPLOYING, DEPLOYED, or ``ClientStatus.label``
    _states: dict[str, SiteState] = field(init=False)
    #: no further sites join
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._states = dict.fromkeys(self.sites, SiteState(status=CHOSEN))

    # -- how it stands -------------------------------------------------------------------------------------------------

    def record(self, report: SiteReport) -> None:
        """Record a site's report; from any thread."""
        state = SiteState(status=report.status, **report.details)
        with self.changed:
            if report.site in self._states:
                self.context.heads.note(report.site, report.audit)
            # of another site, or known already
            if self._states.get(report.site) in (None, state):
                return
            self._states[report.site] = state
            self.changed.notify_all()
        self._write(report.site, state)

    def restore(self, recorded: Mapping[str, SiteState]) -> None:
        """Take over what the last server recorded, for sites that have not reported since."""
        with self.changed:
            for site, state in recorded.items():
                if site in self._states and self._states[site].status == CHOSEN:
                    self._states[site] = replace(state, at=0)

    def states(self) -> dict[str, SiteState]:
        """How it stands now, for the job's record."""
        at = round(time.time() * 1000)
        with self.changed:
            return {site: replace(each, at=at) for site, each in self._states.items() if each.status != CHOSEN}

    def heads(self) -> dict[str, str]:
        """Return the heads of the sites' audit logs, of those that have told them."""
        return self.context.heads.of(self.sites)

    def begin_anew(self) -> None:
        """End whatever was begun at the sites, and forget it."""
        self.abort("the server was started again", self.sites)
        with self.changed:
            self._states = dict.fromkeys(self.sites, SiteState(status=CHOSEN))

    @property
    def shortage(self) -> str:
        """Why the job cannot continue with the sites that are left; "" if it can."""
        return shortage(self.meta, self.sites, self._failed)

    @property
    def participants(self) -> list[str]:
        """The sites that take part: all but those that have failed."""
        failed = self._failed
        return [site for site in self.sites if site not in failed]

    @property
    def expected(self) -> list[str]:
        """The sites that are connected and run a process, whose end they will report."""
        return [site for site in self._with_status(*LIVE) if self.context.is_alive(site)]

    @property
    def unfinished(self) -> list[str]:
        """The sites where a process runs, or could be started."""
        return self._with_status(DEPLOYING, DEPLOYED, *LIVE)

    @property
    def unstarted(self) -> list[str]:
        """The sites that the job is given to, and that were not told to start it."""
        return self._with_status(CHOSEN, DEPLOYING, DEPLOYED)

    @property
    def _failed(self) -> dict[str, str]:
        """The sites that failed and take part no longer, with the reason."""
        return {site: each.reason or each.status for site, each in self._states.items() if each.status == FAILED}

    def _with_status(self, *statuses: str) -> list[str]:
        return [site for site, each in self._states.items() if each.status in statuses]

    # -- requests ------------------------------------------------------------------------------------------------------

    def deploy(self, definition: JobDefinition, sites: Collection[str], *, noted: bool = False) -> None:
        """Send sites their apps; an app is stored once for all its sites.

        Args:
            noted: the job cannot run before: its record and its log say for whom it waits.
        """
        for app in definition.apps:
            some = [site for site in sites if self.meta.app_for(site) == app]
            request = DeployRequest(job=self.job, app=app, meta=self.job_meta, audit=str(self.context.audit.head or ""))
            purpose = "to unpack the job" if noted else ""
            replies = self._ask(
                request, some, definition.app_archive(app), DEPLOY_WITHIN, is_awaited=self._is_awaited, purpose=purpose
            )
            for site, reply in replies.items():
                self._note(site, DEPLOYED, reply)

    def start(self, sites: Collection[str], *, noted: bool = False) -> None:
        """Let those of the sites that have their app launch their processes; ``noted`` as for ``deploy``."""
        request = StartRequest(job=self.job)
        deployed = [site for site in self._with_status(DEPLOYED) if site in sites]
        purpose = "to start the job" if noted else ""
        replies = self._ask(request, deployed, None, START_WITHIN, is_awaited=self._is_awaited, purpose=purpose)
        for site, reply in replies.items():
            # its own reports may have come first
            if not reply.ok or self._states[site].status == DEPLOYED:
                self._note(site, ClientStatus.STARTING.label, reply)

    def join(self, sites: Collection[str]) -> None:
        """Give the job, which runs, to further sites, or again to some that have not started it; in a thread."""
        subject = about(self.job, self.submission)
        self.context.audit.record(Action.DISPATCH, subject, reason="while the job runs", sites=list(sites))
        with self.changed:
            new = [site for site in sites if site not in self._states]
            self.sites = (*self.sites, *new)
            self._states |= dict.fromkeys(new, SiteState(status=DEPLOYING))
        name = f"redflare-joining-{self.job}"
        threading.Thread(target=self._join, args=(sites,), name=name, daemon=True).start()

    def _join(self, sites: Collection[str]) -> None:
        undeployed = [site for site in sites if site not in self._with_status(DEPLOYED)]
        try:
            for site in undeployed:
                self._set(site, DEPLOYING)
            try:
                definition = fetch_job(self.context.store, self.job, self.context.workspace, self.context.settings)
            except (ConfigError, BlobMissing, DecodeError, JobUnknown, OSError) as error:
                for site in undeployed:
                    self._set(site, FAILED, f"the server cannot deploy it: {error}")
            else:
                self.deploy(definition, undeployed)
            self.start(sites)
        except RedflareError as error:
            # this server ends, and the next one gives it to them
            logger.warning("job %s: cannot give it to %s: %s", self.job, ", ".join(sites), error)

    def close(self) -> None:
        """Let no further site join: the job is over."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()

    def _is_over(self) -> bool:
        return self._closed or self.interrupted()

    def _note(self, site: str, status: str, reply: Reply) -> None:
        self.context.heads.note(site, reply.meta.get("audit"))
        if reply.ok:
            self._set(site, status)
        elif reply.rc == ReplyCode.TIMEOUT and not self._is_awaited(site):
            self._do_without(site)
        elif not self._is_over():
            self._set(site, FAILED, reply.error.removeprefix("ERROR: ") or f"no reply ({reply.rc})")

    def _is_awaited(self, site: str) -> bool:
        """Whether the job waits for a site's reply: one that has said bye is not there, unless the job needs it."""
        has_left = self.context.has_left
        left = {each: "it has left" for each in self.sites if has_left(each)}
        return not has_left(site) or bool(shortage(self.meta, self.sites, {**self._failed, **left}))

    def _do_without(self, site: str) -> None:
        """Begin without a site that has left; it may join when it is back, as one that comes late."""
        text = f"{site} has left; the job begins without it, and takes it when it is back"
        logger.info("job %s: %s", self.job, text)
        with self.changed:
            self.sites = tuple(each for each in self.sites if each != site)
            del self._states[site]
            self.changed.notify_all()
        self._write(site, SiteState(status=LEFT, reason="it left before the job began there"))
        self.context.logs.write(self.job, self.context.server_name, [text], self.submission)

    def _set(self, site: str, status: str, reason: str = "") -> None:
        state = SiteState(status=status, reason=reason)
        with self.changed:
            self._states[site] = state
            self.changed.notify_all()
        if status == FAILED:
            logger.error("job %s: site %s failed: %s", self.job, site, reason)
        self._write(site, state)

    def _write(self, site: str, state: SiteState) -> None:
        """Write how the job stands at a site into its record."""
        self.context.store.set_site(self.job, site, state.status, **state.details, submission=self.submission)

    def abort(self, reason: str, sites: Iterable[str]) -> dict[str, SiteState]:
        """End the job's processes at sites; return how each of those ended that have confirmed it."""
        settings = self.context.settings
        timeout = settings.abort_grace + settings.stop_grace + _CONFIRM_WITHIN
        request = AbortRequest(job=self.job, reason=reason)
        replies = self._ask(request, sites, None, timeout, is_awaited=self.context.is_alive, uninterruptible=True)
        confirmed: dict[str, SiteState] = {}
        for site, reply in replies.items():
            try:
                if not reply.ok:
                    raise DecodeError(reply.error or reply.rc)
                proof = AbortProof.from_meta(reply.meta)
            except DecodeError as error:
                logger.warning("job %s: site %s has not confirmed the abort: %s", self.job, site, error)
                continue
            self.context.heads.note(site, proof.audit)
            stopped = confirmed[site] = SiteState(
                status=ClientStatus.STOPPED.label,
                exit_code=proof.exit_code,
                reason=f"aborted: {reason}",
                how=proof.how,
                agents=proof.agents,
            )
            with self.changed:
                # one that had ended before keeps its reason
                if proof.how == NOT_RUNNING and self._states[site].status not in (CHOSEN, DEPLOYING, DEPLOYED, *LIVE):
                    continue
                self._states[site] = stopped
            self._write(site, stopped)
        return confirmed

    def _ask(
        self,
        request: SiteRequest,
        sites: Iterable[str],
        data: object,
        timeout: float,
        *,
        is_awaited: Callable[[str], bool],
        uninterruptible: bool = False,
        purpose: str = "",
    ) -> dict[str, Reply]:
        """Ask sites at once, and wait for their replies.

        Args:
            is_awaited: whether to wait for a site; others find the request when they connect again.
            uninterruptible: wait also when the job must end.
            purpose: what the sites are waited for, if the job's record is to say so.
        """
        targets = {site: (self.context.cell_of(site), request.to_meta()) for site in sites}
        if not targets:
            return {}
        replies: dict[str, Reply] = {}

        def on_reply(site: str, reply: Reply) -> None:
            with self.changed:
                replies[site] = reply
                self.changed.notify_all()

        def enough() -> bool:
            if self._is_over() and not uninterruptible:
                return True
            return all(site in replies or not is_awaited(site) for site in targets)

        asked = self.context.cell.ask_many(request.CHANNEL, request.TOPIC, targets, data, on_reply=on_reply)
        patience, began = Patience(timeout), time.monotonic()
        said = ""
        while True:
            # a site may vanish without a reply
            with self.changed, patience.wait(self.context.cell.interval) as seconds:
                self.changed.wait_for(enough, seconds)
            with self.changed:
                silent = [site for site in targets if site not in replies]
                if enough() or not patience.left:
                    break
            if purpose:
                said = self._note_waiting(said, f"{humanize.first(silent, _NAMED)} {purpose}, {timeout:g} s at most")
        asked.cancel()
        with self.changed:
            nothing = Reply(ReplyCode.TIMEOUT, {"error": f"no reply within {time.monotonic() - began:.1f} s"})
            return {site: replies.get(site, nothing) for site in targets}

    def _note_waiting(self, said: str, what: str) -> str:
        """Say in the job's record and log what it waits for, if that is not ``said`` yet; return the text."""
        text = f"waiting for {what}"
        if text != said:
            logger.info("job %s: %s", self.job, text)
            self.context.store.set_waiting(self.job, text)
            self.context.logs.write(self.job, self.context.server_name, [text], self.submission)
        return text

    def __repr__(self) -> str:
        return f"<JobSites of {self.job}, {len(self.participants)} of {len(self.sites)} sites>"
