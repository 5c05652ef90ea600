"""``DeadClients``: clients that were reported dead, or count as disconnected; and whether a job can do without them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(slots=True)
class _Watched:
    reported: float
    disconnected: float | None = None


@dataclass(slots=True, eq=False)
class DeadClients:
    """Decides when a client that was reported dead is disconnected. Thread-safe; the caller gives the time."""

    #: seconds from the first report to the disconnection, in which the client may come back
    grace: float
    #: Clients that count as disconnected; replaced, never changed, so readers need no lock.
    disconnected: frozenset[str] = field(default=frozenset(), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _watched: dict[str, _Watched] = field(default_factory=dict, init=False)
    #: When the clients were last looked at; None: nobody looks, so time alone decides.
    _looked: float | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self._watched)

    def report(self, name: str, now: float) -> bool:
        """Put a client on the list; return False if it is there already: its first report counts."""
        with self._lock:
            if name in self._watched:
                return False
            self._watched[name] = _Watched(now)
            return True

    def active(self, name: str) -> tuple[bool, bool]:
        """Take a client off the list; return whether it was on it, and whether it was disconnected."""
        if name not in self._watched:
            return False, False
        with self._lock:
            watched = self._watched.pop(name, None)
            if watched is None or watched.disconnected is None:
                return watched is not None, False
            self.disconnected -= {name}
            return True, True

    def look(self, at: float, within: float) -> None:
        """Note that the clients were looked at, and all that are back were taken off the list.

        Args:
            within: seconds in which there should be a look; what is more was a pause of those who look, and counts for
                no client.
        """
        with self._lock:
            if self._looked is not None and (pause := at - self._looked - within) > 0:
                for watched in self._watched.values():
                    watched.reported += pause
            self._looked = at if self._looked is None else max(at, self._looked)

    def judged_at(self, now: float) -> float:
        """Return up to which moment it is known who is there: the last look, or now if nobody looks."""
        looked = self._looked
        return now if looked is None else min(now, looked)

    def expire(self, now: float) -> list[str]:
        """Mark clients as disconnected whose grace period was over at the last look; return their names."""
        with self._lock:
            now = self.judged_at(now)
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
        """When the client became disconnected; None: it is not."""
        watched = self._watched.get(name)
        return None if watched is None else watched.disconnected

    def next_change(self, now: float | None = None) -> float | None:
        """When the next grace period ends; None: no client is in one, or it is over and the next look decides."""
        with self._lock:
            waiting = [watched.reported for watched in self._watched.values() if watched.disconnected is None]
            due = min(waiting) + self.grace if waiting else None
            looked = self._looked
        return None if due is not None and now is not None and looked is not None and looked < due <= now else due


#: Keys of a job's meta.
MIN_CLIENTS: Final = "min_clients"
MANDATORY_CLIENTS: Final = "mandatory_clients"


def violation(joined: Iterable[str], disconnected: Set[str], meta: Mapping[str, Any], most: int) -> str:
    """Why the job must be aborted; ``""`` if it can go on.

    Args:
        joined: names of the clients that have joined the job.
        disconnected: names of those that are disconnected.
        meta: the job's meta, with ``min_clients`` and ``mandatory_clients``.
        most: the largest number that had joined so far. Too few alive counts only once enough had joined: clients may
            come late.
    """
    names = set(joined)
    dead = names & disconnected
    if not dead:
        return ""
    alive = len(names) - len(dead)
    if not alive:
        return f"no client is alive: {', '.join(sorted(dead))} are disconnected"
    minimum = meta.get(MIN_CLIENTS)
    minimum = 1 if minimum is None else int(minimum)
    if alive < minimum <= most:
        return f"only {alive} clients are alive, {minimum} are needed: {', '.join(sorted(dead))} are disconnected"
    missing = sorted(dead & set(meta.get(MANDATORY_CLIENTS) or ()))
    return f"mandatory clients are disconnected: {', '.join(missing)}" if missing else ""
