"""``JobOutcome``: how a job ended, for the server and for each site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from redflare_broker.job_store import record

#: The controller came to its end.
COMPLETED: Final = record.COMPLETED
#: ``abort`` was called, or an operator aborted it.
ABORTED: Final = record.ABORTED
#: A component panicked, or the controller raised.
FAILED: Final = record.EXECUTION_EXCEPTION
#: Another process has taken over, and runs the job.
FENCED: Final = "FENCED"
#: A site was stopped; the job goes on without it.
STOPPED: Final = "STOPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """How a job ended."""

    #: One of the constants above.
    status: str
    #: Why, where the status does not say it all.
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the controller came to its end."""
        return self.status == COMPLETED

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" if self.reason else self.status


#: Of a site whose name a newer process has taken.
TAKEN_OVER: Final = JobOutcome(status=FENCED, reason="a newer process of this site has taken over")


def ended_with(reason: str) -> JobOutcome:
    """Parse the outcome that a server has sent to its sites as ``str(outcome)``."""
    status, _, reason = (reason or COMPLETED).partition(": ")
    return JobOutcome(status=status, reason=reason)
