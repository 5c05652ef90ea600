"""``CellReporter``: reports to the server how each job of this site stands, and forwards the log of its process."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import Reply, ReplyCode
from redflare_broker.errors import DecodeError, RedflareError

from redflare_workers.protocol.parent_messages import SiteLog, SiteReport, SiteReportReply

logger = logging.getLogger(__name__)

#: Messages with log lines that may be on their way at once; the server is away if they stay so.
_MOST_ON_THEIR_WAY: Final = 16
_MOST_LINES: Final = 500


class Reporter(Protocol):
    """Takes the reports and log lines of a site's jobs. Neither method may block for long."""

    def report(self, report: SiteReport, taken: Callable[[str], object]) -> None:
        """Deliver a report; call ``taken`` once it has arrived, with the reason why the job must not go on, or ""."""

    def log(self, job_id: str, lines: Sequence[str]) -> None:
        """Deliver lines that a job's process has written."""


@dataclass(slots=True, eq=False)
class CellReporter:
    """Reports over a cell to the server's parent process; while that is away, reports wait in its inbox.

    The next report of a job is sent when the last has been answered, so that they arrive in order.
    """

    #: this site's
    cell: Cell
    site: str
    #: FQCN of the server's cell
    server: str
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    #: by job: the report on its way, and those behind it
    _reports: dict[str, deque[tuple[SiteReport, Callable[[str], object]]]] = field(default_factory=dict, init=False)
    _on_their_way: int = field(default=0, init=False)
    _left_out: int = field(default=0, init=False)

    def report(self, report: SiteReport, taken: Callable[[str], object]) -> None:
        with self._guard:
            waiting = self._reports.setdefault(report.job, deque())
            waiting.append((report, taken))
            if len(waiting) > 1:
                return
        self._send(report)

    def _send(self, report: SiteReport) -> None:
        def on_reply(reply: Reply) -> None:
            self._on_reply(report, reply)

        try:
            self.cell.ask(report.CHANNEL, report.TOPIC, self.server, report.to_meta(), on_reply=on_reply)
        except RedflareError as error:
            logger.warning("cannot report that job %s is %s: %s", report.job, report.status, error)
            with self._guard:
                # the cell was stopped; the next client parent reports what is final
                self._reports.pop(report.job, None)

    def _on_reply(self, report: SiteReport, reply: Reply) -> None:
        with self._guard:
            waiting = self._reports.get(report.job)
            if not waiting or waiting[0][0] is not report:
                return
            _, taken = waiting.popleft()
            following = waiting[0][0] if waiting else None
            if following is None:
                del self._reports[report.job]
        try:
            if reply.ok:
                taken(SiteReportReply.from_meta(reply.meta).abort)
            elif reply.rc != ReplyCode.ABORTED:
                raise DecodeError(reply.error or reply.rc)
        except DecodeError as error:
            text = "%s rejected the report that job %s is %s: %s"
            logger.warning(text, self.server, report.job, report.status, error)
        if following is not None:
            self._send(following)

    def log(self, job_id: str, lines: Sequence[str]) -> None:
        with self._guard:
            if self._on_their_way >= _MOST_ON_THEIR_WAY:
                # they are in the log file
                self._left_out += len(lines)
                return
            self._on_their_way += 1
            left_out, self._left_out = self._left_out, 0
        sent = [f"({left_out} lines are left out here)"] * bool(left_out) + list(lines)[:_MOST_LINES]
        if len(lines) > _MOST_LINES:
            sent.append(f"({len(lines) - _MOST_LINES} lines are left out here)")
        message = SiteLog(site=self.site, job=job_id, lines=sent)
        try:
            self.cell.ask(
                message.CHANNEL, message.TOPIC, self.server, message.to_meta(), on_reply=lambda _: self._arrived()
            )
        except RedflareError as error:
            self._arrived()
            logger.debug("cannot forward log lines of job %s: %s", job_id, error)

    def _arrived(self) -> None:
        with self._guard:
            self._on_their_way -= 1
