"""``Patience``: a timeout that does not run out while this process cannot see what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: A wait that took so many seconds more than it was meant to: this process was stopped, or too busy to wake up.
_LATE: Final = 0.25
#: Seconds that are left at least after such a wait, for what has come meanwhile.
_FRESH: Final = 1.0


class Patience:
    """What is left of a timeout; of a wait that this process overslept only what was meant counts.

    Args:
        seconds: None: it has no end.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        #: Seconds that are left; infinite without an end.
        self.left = float("inf") if seconds is None else max(seconds, 0.0)

    @contextmanager
    def wait(self, longest: float) -> Iterator[float]:
        """Count the wait in the ``with`` block, which should last for as many seconds as it is given, or less."""
        meant, began = min(self.left, longest), self._clock()
        try:
            yield meant
        finally:
            took = self._clock() - began
            self.left = max(self.left - min(took, meant), 0.0)
            if took > meant + _LATE:
                self.left = max(self.left, _FRESH)

    def __repr__(self) -> str:
        return f"<Patience, {self.left:g} s left>"
