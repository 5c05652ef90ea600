"""How a simulation ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from redflare_workers.protocol.job_outcome import COMPLETED
from redflare_workers.workflow.controller import Controller

C = TypeVar("C", bound=Controller)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOutcome(Generic[C]):
    """How a simulation ended."""

    #: ``FINISHED:COMPLETED``, or as the job ended otherwise; see ``redflare_workers.protocol.job_outcome``.
    status: str
    #: Why, where the status does not say it all.
    reason: str
    #: The one that was given; it holds what the workflow has made.
    controller: C
    #: From the start of the first process to the end of the last.
    seconds: float
    sites: int
    #: How many results of sites the controller was given.
    results: int
    #: Processes beside the calling one; 0: its threads were all.
    processes: int

    @property
    def ok(self) -> bool:
        """The controller came to its end."""
        return self.status == COMPLETED

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.status}{why} ({self.sites} sites, {self.results} results, {self.seconds:.1f} s)"
