"""Messages between a parent process and the process of a job that it has started, at the server and at a site.

``run`` names one process of a job: what is for an earlier one is not obeyed, but answered OTHER_RUN.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import HandlerResult, ReplyCode, Request

from .message import Fields, Message, register

#: rc: the message was for an earlier process of that job.
OTHER_RUN: Final = "OTHER_RUN"
#: For an abort whose sender gives no reason.
NO_REASON: Final = "it was aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobControl(Message, channel="job_control"):
    """A message of a parent to the process of a job."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRun(JobControl, topic="abort"):
    """End in order. An event; a request is answered with ``PingReply``."""

    reason: str = NO_REASON


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRunTask(JobControl, topic="abort_task"):
    """Break off the task in hand (at a site); answered with ``TaskAbortProof``."""

    reason: str = NO_REASON
    #: seconds to wait until its work is over
    grace: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectSites(JobControl, topic="expect"):
    """Begin without any but these sites, because the others have failed (at the server). An event."""

    sites: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PingRun(JobControl, topic="ping"):
    """Ask whether the process is there, and what it does; answered with ``PingReply``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PingReply(Fields):
    """A job's process is there."""

    run: str
    #: name of the task in hand; "": there is none
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus(Message, channel="site", topic="job_status"):
    """How far a job's process is; its event to the site's parent process."""

    job: str
    run: str
    #: ``ClientStatus``
    status: int


C = TypeVar("C", bound=JobControl)


def obey(cell: Cell, parent: str, run: str, message: type[C], handler: Callable[[C], HandlerResult]) -> None:
    """Let a job's process obey a message of its parent's cell, and of no other, if that is for this ``run``."""

    def handle(decoded: C, request: Request) -> HandlerResult:
        if decoded.run != run:
            text = f"this is run {run}, not {decoded.run:.100}"
            request.note_fault(
                "for another run", f"{request.channel}/{request.topic} from {request.origin}: {text}", logging.INFO
            )
            return OTHER_RUN, {"error": text}, None
        return handler(decoded)

    register(cell, message, handle, sender=lambda decoded: parent)


def pong(run: str, task: str = "") -> HandlerResult:
    """Return the answer to ``PingRun``."""
    return ReplyCode.OK, PingReply(run=run, task=task).to_meta(), None
