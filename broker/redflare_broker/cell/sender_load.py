"""``SenderLoad``: how many requests of each sender are with a handler here, or wait for one, and how large they are."""

from __future__ import annotations

import threading
from typing import Final

#: Requests of one sender that wait here for a handler, or occupy one; more wait in the stream.
_REQUESTS: Final = 1000
#: Bytes of them, and of those of all senders together.
_BYTES: Final = 8 << 20
_ALL_BYTES: Final = 256 << 20


class SenderLoad:
    """Thread-safe. A request is no load any more when its handler has returned, also when it replies later."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        #: by sender: requests and bytes
        self._waiting: dict[str, tuple[int, int]] = {}
        #: by sender: how many of them a handler has begun
        self._begun: dict[str, int] = {}
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

    def begin(self, sender: str) -> None:
        """Note that a handler has begun with a request that was added; ``end`` takes the place of ``remove`` then."""
        with self._guard:
            self._begun[sender] = self._begun.get(sender, 0) + 1

    def end(self, sender: str, nbytes: int) -> None:
        with self._guard:
            self._begun[sender] -= 1
            if not self._begun[sender]:
                del self._begun[sender]
        self.remove(sender, nbytes)

    def begun(self, sender: str) -> int:
        """Return how many requests handlers have begun, and not returned from."""
        return self._begun.get(sender, 0)

    def of(self, sender: str) -> float:
        """Return how much of a sender's room is taken: 0: nothing, 1 and more: all."""
        requests, size = self._waiting.get(sender, (0, 0))
        return max(requests / _REQUESTS, size / _BYTES, self._bytes / _ALL_BYTES if requests else 0.0)

    def __repr__(self) -> str:
        return f"<SenderLoad of {len(self._waiting)} senders, {self._bytes} bytes>"
