"""Messages between the parent processes: the server's (SP) and each site's (CP).

``run`` names one process of a job, so that what was said to, or of, an earlier one of the same job is not taken for
the present one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .message import Fields, Message


class SiteRequest(Message, channel="site"):
    """A request of the SP to a CP."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest(SiteRequest, topic="deploy"):
    """Unpack an app, whose archive is the data (bytes); answered with ``SiteReply``."""

    job: str
    app: str
    #: the job's, with its ``job_id``
    meta: Mapping[str, Any]
    #: the head of the server's audit log
    audit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest(SiteRequest, topic="start"):
    """Launch the process of a job that is deployed; answered with ``StartReply``."""

    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRequest(SiteRequest, topic="abort"):
    """End a job's process; answered with ``AbortProof`` when it is gone."""

    job: str
    reason: str = "aborted by the server"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRunsRequest(SiteRequest, topic="delete_runs"):
    """Remove the folders of the runs of jobs that were deleted; answered with ``SiteReply``."""

    #: by job: the submissions that were deleted; none: whichever the folder is of
    jobs: Mapping[str, list[str]]


# -- replies of a CP ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReply(Fields):
    """What became of a request, in NVFlare's words; the rc is ERROR, and the meta has ``error`` too, when it failed."""

    message: str
    #: the head of the site's audit log
    audit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReply(SiteReply):
    """As ``SiteReply``, with the process that was launched; "": there is none."""

    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortProof(Fields):
    """What became of an abort."""

    #: in NVFlare's words
    message: str = ""
    #: one of ``processes.how_ended``: cooperative: the process ended by itself when it was asked to; terminated: after
    #: SIGTERM; killed: after SIGKILL; not running: there was none
    how: str
    #: when that was sure, in seconds since 1970
    at: float
    #: seconds that it took
    seconds: float = 0.0
    exit_code: int | None = None
    #: what became of the job's agents, by FQCN, see ``agent_abort.notify_agents``
    agents: Mapping[str, str] = field(default_factory=dict)
    #: the head of the site's audit log
    audit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAbortProof(Fields):
    """What became of an abort of a task; a job's process fills in ``task`` and ``how``."""

    #: in NVFlare's words
    message: str = ""
    #: name of the task; "": there was none in hand, or the job's process did not answer
    task: str = ""
    #: cooperative: its work is over; pending: it goes on still; no task; starting; not running; no answer
    how: str = "not running"


# -- a CP to the SP ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReport(Message, channel="server", topic="site_report"):
    """How a job stands at a site; answered with ``SiteReportReply``."""

    site: str
    job: str
    #: names the process
    run: str
    #: ``ClientStatus.label``: starting, started, stopped, exception
    status: str
    #: which of the jobs that were submitted under this id; "": whichever has it now
    submission: str = ""
    #: None while it runs; negative: that of a signal
    exit_code: int | None = None
    #: why, with the end of the log when it has failed
    reason: str = ""
    #: how it was ended: cooperative, terminated, killed; "" when it ended by itself
    how: str = ""
    #: what became of the job's agents when it was aborted, by FQCN: left, killed, connected, silent, gone, never,
    #: unknown
    agents: Mapping[str, str] = field(default_factory=dict)
    #: seconds since 1970
    at: float = 0.0
    #: the head of the site's audit log
    audit: str = ""

    @property
    def details(self) -> dict[str, Any]:
        """What the store keeps beside the status."""
        return {"exit_code": self.exit_code, "reason": self.reason, "how": self.how, "agents": self.agents}

    @property
    def final(self) -> bool:
        """Whether the process is gone."""
        return self.exit_code is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReportReply(Fields):
    """The SP has recorded the report."""

    #: why the job must not go on; "": it may
    abort: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLog(Message, channel="server", topic="site_log"):
    """Lines that a job's process has written; the reply is OK."""

    site: str
    job: str
    lines: list[str]
    #: as in ``SiteReport``
    submission: str = ""
