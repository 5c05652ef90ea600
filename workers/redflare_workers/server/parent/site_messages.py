"""``SiteMessages``: what sites tell the server of its jobs: how each stands there, and what its process has written."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from redflare_broker.cell.cell import Cell, HandlerResult, Request
from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import check_job_id
from redflare_broker.job_store.record import DISPATCHED, RUNNING, JobRecord
from redflare_broker.job_store.store import JobStore

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.protocol.message import refuse, register
from redflare_workers.protocol.parent_messages import SiteLog, SiteReport, SiteReportReply

from .job_runner import JobRunner
from .log_writer import LogWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SiteMessages:
    """Handles the messages of client parents. Each is for one submission of a job, not for another of its id."""

    store: JobStore
    logs: LogWriter
    #: set when the jobs of the last server are recovered
    ready: threading.Event
    #: returns the runner of a job, by its id
    runner_of: Callable[[str], JobRunner | None]

    def register(self, cell: Cell) -> None:
        """Register at the server's cell; the cell of a site's client parent has the site's name."""
        register(cell, SiteReport, self._on_report, sender=lambda report: report.site)
        register(cell, SiteLog, self._on_log, sender=lambda log: log.site)

    def _on_report(self, report: SiteReport, request: Request) -> HandlerResult:
        """Handle a site's report of how a job stands there."""
        self.ready.wait()
        try:
            check_job_id(report.job)
        except ConfigError as error:
            return refuse(request, error)
        runner, record = self._find(report)
        if runner is not None:
            runner.on_report(report)
            return None
        if record is not None and report.site in record.sites:
            self.store.set_site(report.job, report.site, report.status, **report.details, submission=record.submission)
        # a runner that could not record something is about to be made again: that job continues
        if report.final or (record is not None and record.status in (DISPATCHED, RUNNING)):
            return None
        state = "unknown to the server" if record is None else record.status
        return ReturnCode.OK, SiteReportReply(abort=f"the job is {state}").to_meta(), None

    def _on_log(self, log: SiteLog, request: Request) -> HandlerResult:
        """Store lines that a job's process has written at a site."""
        self.ready.wait()
        try:
            check_job_id(log.job)
            runner, record = self._find(log)
            found = runner or record
            if found is None:
                logger.debug("lines of job %s at %s come too late: it is gone", log.job, log.site)
            elif log.site in found.sites:
                self.logs.write(log.job, log.site, log.lines, found.submission)
            else:
                raise ConfigError(f"site {log.site} has no part in job {log.job}, so it has no lines for its log")
        except ConfigError as error:
            return refuse(request, error)
        return None

    def _find(self, message: SiteReport | SiteLog) -> tuple[JobRunner | None, JobRecord | None]:
        """Find the runner, or else the record, of the job that a message is about."""
        runner = self.runner_of(message.job)
        if runner is not None and message.submission in ("", runner.submission):
            return runner, None
        record = self.store.get(message.job)
        return None, record if record is not None and message.submission in ("", record.submission) else None
