"""``MemoryGate``: lets large payloads into memory one after another, without waiting for one that is stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Seconds after which the holder counts as stuck.
_PATIENCE: Final = 10.0


class MemoryGate:
    """A lock that is passed when its holder is stuck.

    A controller's callback that never returns, or waits for another task's results, must not keep everybody out.

    Args:
        patience: seconds after which the next one enters although the holder has not left.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._free = threading.Condition()
        self._holder: object | None = None
        self._since = 0.0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold the gate, once it is free or its holder is stuck."""
        me = object()
        with self._free:
            while self._holder is not None:
                left = self._since + self._patience - time.monotonic()
                if left <= 0:
                    break
                self._free.wait(left)
            self._holder, self._since = me, time.monotonic()
        try:
            yield
        finally:
            with self._free:
                if self._holder is me:
                    self._holder = None
                    self._free.notify()

    def __repr__(self) -> str:
        return f"<MemoryGate, {'free' if self._holder is None else 'taken'}>"
