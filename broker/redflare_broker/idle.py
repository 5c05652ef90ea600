"""Idle lanes, kept per node for the next borrower; one that is dead or has something unread is never handed out."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Final

from .dial import Dialled
from .topology import Address

#: More than this many idle lanes to one node are closed instead of kept; each costs the server some memory.
MAX_IDLE: Final = 32


class IdleLanes:
    """A last-in-first-out pool per node: the lane that was used last is the likeliest to be alive. Thread-safe."""

    def __init__(self) -> None:
        #: re-entrant: a signal handler that says goodbye borrows a lane while its own thread may be in here
        self._lock = threading.RLock()
        self._lanes: defaultdict[Address | None, list[Dialled]] = defaultdict(list)

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._lanes.values()))

    def take(self, node: Address | None) -> Dialled | None:
        """An idle lane to ``node`` that can be used at once, or None."""
        while True:
            with self._lock:
                try:
                    dialled = self._lanes[node].pop()
                except IndexError:
                    return None
            if dialled.silent():
                return dialled
            dialled.lane.close()

    def put(self, node: Address | None, dialled: Dialled) -> None:
        """Keep a lane that is in step; a closed one, or one too many, is dropped."""
        if dialled.lane.closed:
            return
        with self._lock:
            if len(self._lanes[node]) < MAX_IDLE:
                self._lanes[node].append(dialled)
                return
        dialled.lane.close()

    def drop(self, node: Address | None) -> None:
        """Close all idle lanes to ``node``: one failed, so the others are likely to lead into the same hole."""
        with self._lock:
            lanes = self._lanes.pop(node, [])
        for dialled in lanes:
            dialled.lane.close()

    def close(self) -> None:
        """Close all idle lanes."""
        with self._lock:
            nodes = list(self._lanes)
        for node in nodes:
            self.drop(node)
