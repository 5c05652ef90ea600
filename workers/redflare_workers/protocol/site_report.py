"""What a client parent tells the server's: how each job of its site stands, and the log of its process."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import Reply, ReplyCode
from redflare_broker.errors import RedflareError

from .parent_messages import SERVER, SITE_LOG, SITE_REPORT

logger = logging.getLogger(__name__)

#: Messages with log lines that may be on their way at once; the server is away if they stay so.
_MOST_ON_THEIR_WAY: Final = 16
_MOST_LINES: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReport:
    """How a job stands at a site."""

    site: str
    job: str
    #: names the process
    run: str
    #: ``ClientStatus.word``: starting, started, stopped, exception
    status: str
    #: None while it runs; negative: that of a signal
    exit_code: int | None = None
    #: why, with the end of the log when it has failed
    reason: str = ""
    #: how it was ended: cooperative, terminated, killed; "" when it ended by itself
    how: str = ""
    #: what became of the job's agents when it was aborted, by FQCN: left, connected, silent, gone, never, unknown
    agents: Mapping[str, str] = field(default_factory=dict)
    #: seconds since 1970
    at: float = 0.0

    @property
    def final(self) -> bool:
        """The process is gone."""
        return self.exit_code is not None

    def to_meta(self) -> dict[str, Any]:
        """As the meta of a message."""
        return asdict(self)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> SiteReport:
        """From the meta of a message.

        Raises:
            TypeError: it is none.
        """
        known = {name: meta[name] for name in cls.__slots__ if name in meta}
        report = cls(**known)
        words = (report.site, report.job, report.run, report.status, report.reason, report.how)
        kinds = isinstance(report.exit_code, int | None) and isinstance(report.agents, dict)
        if not kinds or not all(isinstance(word, str) for word in words):
            raise TypeError(f"this is no report of a site: {known!r:.500}")
        return report


class Reporter(Protocol):
    """Who hears of the jobs of a site. Neither method may block for long."""

    def report(self, report: SiteReport, taken: Callable[[str], object]) -> None:
        """Tell it; ``taken`` is called when it has arrived, with the reason why the job must not go on, or ""."""

    def log(self, job_id: str, lines: Sequence[str]) -> None:
        """Tell of lines that a job's process has written."""


class CellReporter:
    """Tells the server's parent process over a cell; what it cannot hear now waits in its inbox.

    The next report of a job is sent when the last has been answered, so that they are heard in order.

    Args:
        cell: this site's.
        site: its name.
        server: FQCN of the server's cell.
    """

    def __init__(self, cell: Cell, site: str, server: str) -> None:
        self._cell = cell
        self._site = site
        self._server = server
        self._guard = threading.Lock()
        #: by job: the report on its way, and those behind it
        self._reports: dict[str, deque[tuple[SiteReport, Callable[[str], object]]]] = {}
        self._on_their_way = 0
        self._left_out = 0

    def report(self, report: SiteReport, taken: Callable[[str], object]) -> None:
        with self._guard:
            waiting = self._reports.setdefault(report.job, deque())
            waiting.append((report, taken))
            if len(waiting) > 1:
                return
        self._send(report)

    def _send(self, report: SiteReport) -> None:
        def heard(reply: Reply) -> None:
            self._heard(report, reply)

        try:
            self._cell.ask(SERVER, SITE_REPORT, self._server, report.to_meta(), on_reply=heard)
        except RedflareError as error:
            logger.warning("that job %s is %s cannot be told: %s", report.job, report.status, error)
            with self._guard:
                # the cell was stopped; the next client parent tells what is final
                self._reports.pop(report.job, None)

    def _heard(self, report: SiteReport, reply: Reply) -> None:
        with self._guard:
            waiting = self._reports.get(report.job)
            if not waiting or waiting[0][0] is not report:
                return
            _, taken = waiting.popleft()
            following = waiting[0][0] if waiting else None
            if following is None:
                del self._reports[report.job]
        if reply.ok:
            abort = reply.meta.get("abort")
            taken(abort if isinstance(abort, str) else "")
        elif reply.rc != ReplyCode.ABORTED:
            why = reply.error or reply.rc
            logger.warning("%s has not taken in that job %s is %s: %s", self._server, report.job, report.status, why)
        if following is not None:
            self._send(following)

    def log(self, job_id: str, lines: Sequence[str]) -> None:
        with self._guard:
            if self._on_their_way >= _MOST_ON_THEIR_WAY:
                # they stand in the log file
                self._left_out += len(lines)
                return
            self._on_their_way += 1
            left_out, self._left_out = self._left_out, 0
        told = [f"({left_out} lines are left out here)"] * bool(left_out) + list(lines)[:_MOST_LINES]
        if len(lines) > _MOST_LINES:
            told.append(f"({len(lines) - _MOST_LINES} lines are left out here)")
        meta = {"site": self._site, "job": job_id, "lines": told}
        try:
            self._cell.ask(SERVER, SITE_LOG, self._server, meta, on_reply=lambda _: self._arrived())
        except RedflareError as error:
            self._arrived()
            logger.debug("lines of the log of job %s cannot be told: %s", job_id, error)

    def _arrived(self) -> None:
        with self._guard:
            self._on_their_way -= 1
