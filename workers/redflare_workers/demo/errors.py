"""What can end the demo early."""

from __future__ import annotations

from redflare_broker.errors import RedflareError


class DemoError(RedflareError):
    """The demo could not be carried through; the message says which part of it failed and why."""


class DemoStopped(RedflareError):
    """The demo was told to stop by a signal.

    Args:
        signal_number: the one that came.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
