"""``CellReporter``: reports to the server how each job of this site stands, and forwards the log of its process."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import Reply, ReplyCode
from redflare_broker.errors import DecodeError, RedflareError

from redflare_workers.protocol.parent_messages import SiteLog, SiteReport, SiteReportReply
from redflare_workers.util.line_queue import LineQueue

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Takes the reports and log lines of a site's jobs. Neither method may block for long."""

    def report(self, report: SiteReport, taken: Callable[[str], object]) -> None:
        """Deliver a report; call ``taken`` once it has arrived, with the reason why the job must not go on, or ""."""

    def log(self, job_id: str, lines: Sequence[str], submission: str = "") -> None:
        """Deliver lines that a job's process has written; ``submission``: which of the jobs of this id."""


@dataclass(slots=True, eq=False)
class _JobLane:
    """What is to be sent of one job, of one submission: one message is on its way, the others wait."""

    lines: LineQueue = field(default_factory=LineQueue)
    reports: deque[tuple[SiteReport, Callable[[str], object]]] = field(default_factory=deque)
    busy: bool = False


@dataclass(slots=True, eq=False)
class CellReporter:
    """Reports over a cell to the server's parent process; while that is away, a message of each job is in its inbox.

    The next message of a job is sent when the last has been answered, so that they arrive in order. A report overtakes
    lines that wait, but the last one of a process comes behind its lines.
    """

    #: this site's
    cell: Cell
    site: str
    #: FQCN of the server's cell
    server: str
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    #: by job and submission
    _lanes: dict[tuple[str, str], _JobLane] = field(default_factory=dict, init=False)

    def report(self, report: SiteReport, taken: Callable[[str], object]) -> None:
        with self._guard:
            self._lanes.setdefault((report.job, report.submission), _JobLane()).reports.append((report, taken))
        self._send_next(report.job, report.submission)

    def log(self, job_id: str, lines: Sequence[str], submission: str = "") -> None:
        with self._guard:
            self._lanes.setdefault((job_id, submission), _JobLane()).lines.add(lines)
        self._send_next(job_id, submission)

    def _send_next(self, job_id: str, submission: str) -> None:
        """Send what is next of a job, unless something is on its way."""
        with self._guard:
            lane = self._lanes.get((job_id, submission))
            if lane is None or lane.busy:
                return
            if not lane.lines and not lane.reports:
                del self._lanes[job_id, submission]
                return
            lane.busy = True
            message: SiteReport | SiteLog
            taken: Callable[[str], object] | None = None
            if lane.reports and not (lane.lines and lane.reports[0][0].final):
                message, taken = lane.reports.popleft()
            else:
                message = SiteLog(site=self.site, job=job_id, submission=submission, lines=lane.lines.take())
        on_reply = partial(self._on_reply, lane, message, taken)
        try:
            self.cell.ask(message.CHANNEL, message.TOPIC, self.server, message.to_meta(), on_reply=on_reply)
        except RedflareError as error:
            logger.warning("cannot tell %s how job %s stands: %s", self.server, job_id, error)
            with self._guard:
                # the cell was stopped; the next client parent reports what is final
                self._lanes.pop((job_id, submission), None)

    def _on_reply(
        self, lane: _JobLane, message: SiteReport | SiteLog, taken: Callable[[str], object] | None, reply: Reply
    ) -> None:
        with self._guard:
            lane.busy = False
        try:
            if not reply.ok and reply.rc != ReplyCode.ABORTED:
                raise DecodeError(reply.error or reply.rc)
            if reply.ok and taken is not None:
                taken(SiteReportReply.from_meta(reply.meta).abort)
        except DecodeError as error:
            what = f"report that it is {message.status}" if isinstance(message, SiteReport) else "log lines"
            logger.warning("job %s: %s rejected its %s: %s", message.job, self.server, what, error)
        if reply.rc != ReplyCode.ABORTED:
            self._send_next(message.job, message.submission)
