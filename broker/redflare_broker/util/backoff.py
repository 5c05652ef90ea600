"""``Backoff``: how long to wait before the next attempt, longer each time."""

from __future__ import annotations

import logging
import random

from redflare_broker.errors import RedflareError


class Backoff:
    """The delays of one loop of attempts; the caller waits, in a way that its own end interrupts.

    Args:
        first: seconds of the first delay; each further one is twice as long.
        longest: seconds of the longest.
        jitter: share of each delay that is random, so that those who failed together do not try again together.
    """

    def __init__(self, first: float = 0.05, longest: float = 1.0, *, jitter: float = 0.5) -> None:
        self._first = self._next = min(first, longest)
        self._longest = longest
        self._jitter = jitter
        #: Attempts that failed since the last success.
        self.failures = 0
        self._causes: set[tuple[type[RedflareError], str]] = set()

    def level(self, error: RedflareError, first: int) -> int:
        """Return the level at which to log a failure: each cause is told once until a success, the rest is DEBUG.

        Args:
            first: the level of one that the server has not explained; one that it has is a WARNING at least.
        """
        cause = type(error), error.cause
        if cause in self._causes:
            return logging.DEBUG
        self._causes.add(cause)
        return max(first, logging.WARNING) if error.cause else first

    def next_delay(self) -> float:
        """Count a failure; return the seconds to wait before the next attempt."""
        self.failures += 1
        delay, self._next = self._next, min(self._next * 2, self._longest)
        return delay * random.uniform(1.0 - self._jitter, 1.0)

    def reset(self) -> None:
        """Begin again with the first delay: an attempt succeeded."""
        self.failures = 0
        self._causes.clear()
        self._next = self._first

    def __repr__(self) -> str:
        return f"<Backoff, {self.failures} failures, next delay up to {self._next:g} s>"
