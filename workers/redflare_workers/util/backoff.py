"""``Backoff``: a pause before the next attempt, longer each time, that ends at once when it must."""

from __future__ import annotations

import random
import threading
from typing import Final

_FIRST: Final = 0.05
_LONGEST: Final = 5.0


class Backoff:
    """Pauses of one thread; ``end`` from any other.

    Args:
        first: seconds of the first pause.
        longest: seconds of the longest.
    """

    def __init__(self, first: float = _FIRST, longest: float = _LONGEST) -> None:
        self._first = first
        self._longest = longest
        self._next = first
        self._over = threading.Event()

    def wait(self) -> None:
        """Pause."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        self._over.wait(pause * random.uniform(0.5, 1.0))

    def reset(self) -> None:
        """It has succeeded: the next pause is short again."""
        self._next = self._first

    def end(self) -> None:
        """Pause no more, now and later."""
        self._over.set()

    def __repr__(self) -> str:
        return f"<Backoff, next {self._next:g} s{', over' if self._over.is_set() else ''}>"
