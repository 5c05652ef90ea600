"""The error that ends a simulation early."""

from __future__ import annotations

from redflare_broker.errors import RedflareError


class SimulationError(RedflareError):
    """A site or its process ended before the workflow did; the message says which and why."""
