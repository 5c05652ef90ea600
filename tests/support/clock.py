"""A clock for what counts time."""

from __future__ import annotations


class Clock:
    """Seconds, changed by the test alone."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
