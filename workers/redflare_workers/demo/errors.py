"""Errors that end the demo early."""

from __future__ import annotations

from redflare_broker.errors import RedflareError


class DemoError(RedflareError):
    """A part of the demo failed; the message says which and why."""


class DemoStopped(RedflareError):
    """The demo was stopped by a signal."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
