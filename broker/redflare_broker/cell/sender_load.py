"""``SenderLoad``: how many requests of each sender wait for a handler in this process, and how large they are."""

from __future__ import annotations

import threading
from typing import Final

#: Requests of one sender that wait here for a handler; more wait in the stream.
_REQUESTS: Final = 1000
#: Bytes of them, and of those of all senders together.
_BYTES: Final = 8 << 20
_ALL_BYTES: Final = 256 << 20


class SenderLoad:
    """Thread-safe. A request that a handler has begun is no load any more, however long it takes."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        #: by sender: requests and bytes
        self._waiting: dict[str, tuple[int, int]] = {}
        self._bytes = 0

    def add(self, sender: str, nbytes: int) -> None:
        with self._guard:
            requests, size = self._waiting.get(sender, (0, 0))
            self._waiting[sender] = requests + 1, size + nbytes
            self._bytes += nbytes

    def remove(self, sender: str, nbytes: int) -> None:
        with self._guard:
            requests, size = self._waiting[sender]
            if requests > 1:
                self._waiting[sender] = requests - 1, size - nbytes
            else:
                del self._waiting[sender]
            self._bytes -= nbytes

    def of(self, sender: str) -> float:
        """Return how much of a sender's room is taken: 0: nothing, 1 and more: all."""
        requests, size = self._waiting.get(sender, (0, 0))
        return max(requests / _REQUESTS, size / _BYTES, self._bytes / _ALL_BYTES if requests else 0.0)

    def __repr__(self) -> str:
        return f"<SenderLoad of {len(self._waiting)} senders, {self._bytes} bytes>"
