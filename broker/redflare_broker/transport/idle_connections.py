"""Idle connections, kept per node for the next borrower; one that is dead or has unread bytes is never lent."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Final

from .cluster_slots import Address
from .dial import Dialled

#: More than this many idle connections to one node are closed instead of kept; each costs the server some memory.
MAX_IDLE: Final = 32


class IdleConnections:
    """A last-in-first-out pool per node: the connection used last is the likeliest to be alive. Thread-safe."""

    def __init__(self) -> None:
        #: re-entrant: a signal handler that says goodbye borrows a connection while its own thread may be in here
        self._lock = threading.RLock()
        self._connections: defaultdict[Address | None, list[Dialled]] = defaultdict(list)

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._connections.values()))

    def take(self, node: Address | None) -> Dialled | None:
        """Take an idle connection to ``node`` that can be used at once, or None."""
        while True:
            with self._lock:
                try:
                    dialled = self._connections[node].pop()
                except IndexError:
                    return None
            if dialled.silent():
                return dialled
            dialled.connection.close()

    def put(self, node: Address | None, dialled: Dialled) -> None:
        """Keep a connection that is in step; drop a closed one, or one too many."""
        if dialled.connection.closed:
            return
        with self._lock:
            if len(self._connections[node]) < MAX_IDLE:
                self._connections[node].append(dialled)
                return
        dialled.connection.close()

    def drop(self, node: Address | None) -> None:
        """Close all idle connections to ``node``: one failed, so the others are likely to be broken too."""
        with self._lock:
            connections = self._connections.pop(node, [])
        for dialled in connections:
            dialled.connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            nodes = list(self._connections)
        for node in nodes:
            self.drop(node)
