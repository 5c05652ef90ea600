"""The end of a simulation: its outcome with status and numbers, or the error of one that ended early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from redflare_broker.errors import RedflareError

from redflare_workers.protocol.job_outcome import COMPLETED
from redflare_workers.workflow.controller import Controller

C = TypeVar("C", bound=Controller)


class SimulationError(RedflareError):
    """A site or its process ended before the workflow did; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOutcome(Generic[C]):
    """Status and numbers of a simulation that has ended."""

    #: ``FINISHED:COMPLETED``, or as the job ended otherwise; see ``redflare_workers.protocol.job_outcome``.
    status: str
    #: Details of the status; may be "".
    reason: str
    #: The controller that was passed in; holds the results of the workflow.
    controller: C
    #: From the start of the first process to the end of the last.
    seconds: float
    sites: int
    #: Number of results from sites that came before the end of their task.
    results: int
    #: Processes beside the calling one; 0: all sites were threads of it.
    processes: int

    @property
    def ok(self) -> bool:
        """Whether the controller has completed."""
        return self.status == COMPLETED

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.status}{why} ({self.sites} sites, {self.results} results, {self.seconds:.1f} s)"
