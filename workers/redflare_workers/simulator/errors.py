"""What can end a simulation that its workflow did not end."""

from __future__ import annotations

from redflare_broker.errors import RedflareError


class SimulationError(RedflareError):
    """A site or its process ended before the workflow did; the message says which and why."""
