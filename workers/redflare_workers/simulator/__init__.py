"""Run a workflow with all its sites on one machine, in a few processes, by the code that runs distributed.

Start at: ``simulate``. A ``Simulation`` runs the controller in this process and starts ``SiteProcess``es, each with the
client jobs and agents of some ``Sites``.

May import: client, server, workspace, jobs, workflow, ipc, engine, processes, protocol, apis, util, the broker and the
agent.
"""

from __future__ import annotations

from .outcome import SimulationError, SimulationOutcome
from .progress import Progress
from .simulation import simulate

__all__ = ["Progress", "SimulationError", "SimulationOutcome", "simulate"]
