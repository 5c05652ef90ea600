"""A workflow with all its sites on one machine, in a few processes."""

from __future__ import annotations

from .errors import SimulationError
from .outcome import SimulationOutcome
from .progress import Progress
from .simulate import simulate

__all__ = ["Progress", "SimulationError", "SimulationOutcome", "simulate"]
