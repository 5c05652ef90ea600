"""The watch list: clients that were reported dead, and those of them that count as disconnected by now."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(slots=True)
class _Watched:
    reported: float
    disconnected: float | None = None


class DeadClients:
    """Decides when a client that was reported dead is disconnected; thread-safe, and knows no clock of its own.

    Args:
        grace: seconds from the first report to the disconnection, in which the client may come back.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        #: Clients that count as disconnected; replaced, never changed, so readers need no lock.
        self.disconnected: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._watched)

    def report(self, name: str, now: float) -> bool:
        """Put a client on the list; False: it is there already, and its first report counts."""
        with self._lock:
            if name in self._watched:
                return False
            self._watched[name] = _Watched(now)
            return True

    def active(self, name: str) -> tuple[bool, bool]:
        """Take a client off the list: whether it was on it, and whether it was disconnected."""
        if name not in self._watched:
            return False, False
        with self._lock:
            watched = self._watched.pop(name, None)
            if watched is None or watched.disconnected is None:
                return watched is not None, False
            self.disconnected -= {name}
            return True, True

    def look(self, now: float) -> list[str]:
        """Those whose grace is over and who are disconnected from now on."""
        with self._lock:
            over = [
                name
                for name, watched in self._watched.items()
                if watched.disconnected is None and now - watched.reported >= self.grace
            ]
            for name in over:
                self._watched[name].disconnected = now
            if over:
                self.disconnected |= frozenset(over)
        return over

    def disconnect_time(self, name: str) -> float | None:
        """When the client was deemed disconnected; None: it is not."""
        watched = self._watched.get(name)
        return None if watched is None else watched.disconnected

    def next_change(self) -> float | None:
        """When the next grace ends; None: nobody is in it."""
        with self._lock:
            waiting = [watched.reported for watched in self._watched.values() if watched.disconnected is None]
        return min(waiting) + self.grace if waiting else None
