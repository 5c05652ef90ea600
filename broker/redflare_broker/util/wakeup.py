"""A bell wakes the one thread that waits for it.

``threading.Event`` would do but for signal handlers: one that sets an event while its own thread is inside ``wait`` or
``clear`` waits for itself for ever. ``SimpleQueue`` is made for that.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue


class WakeupEvent:
    """Rung by any thread or signal handler, heard by one thread; rings that nobody has heard yet count as one."""

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, timeout: float) -> bool:
        """Until it rings, at once if it has rung since it was last heard; False when ``timeout`` seconds passed."""
        try:
            self._rings.get(timeout=max(0.0, timeout))
        except Empty:
            return False
        self.clear()
        return True

    def clear(self) -> None:
        """Forget that it has rung; look at what it was rung for afterwards, or that is missed."""
        try:
            while True:
                self._rings.get_nowait()
        except Empty:
            pass

    def __repr__(self) -> str:
        return f"<Bell {'silent' if self._rings.empty() else 'rung'}>"
