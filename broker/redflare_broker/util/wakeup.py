"""``WakeupEvent``: wakes the one thread that waits for it.

``threading.Event`` would do but for signal handlers: one that sets an event while its own thread is inside ``wait`` or
``clear`` waits for itself for ever. ``SimpleQueue`` is made for that.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue


class WakeupEvent:
    """An event that any thread or signal handler sets, and one thread waits for and clears."""

    def __init__(self) -> None:
        self._set: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        if self._set.empty():
            self._set.put(None)

    def wait(self, timeout: float) -> bool:
        """Wait until the event is set, and clear it; False when ``timeout`` seconds passed."""
        try:
            self._set.get(timeout=max(0.0, timeout))
        except Empty:
            return False
        self.clear()
        return True

    def clear(self) -> None:
        """Clear the event. Check your flags after clearing, or you may miss a wake-up."""
        try:
            while True:
                self._set.get_nowait()
        except Empty:
            pass

    def __repr__(self) -> str:
        return f"<WakeupEvent {'clear' if self._set.empty() else 'set'}>"
