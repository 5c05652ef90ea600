"""``SharedConnection``: what the exchangers and cells of a process share: connections to Redis, the heartbeat thread.

Two hundred exchangers in a process make one heartbeat thread and one pool of connections per Redis, whichever of them
starts first or ends last.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.keys import Keys, LinkKeys
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.runtime.preflight import check
from redflare_broker.transport.server import ConnectionOptions, Server


@dataclass(slots=True, kw_only=True, eq=False)
class SharedConnection:
    """The connections to a Redis and the heartbeats of the links; ``acquire`` and ``release`` count their users."""

    server: Server
    heartbeats: Heartbeats
    key: object
    users: int = 0
    #: what was checked: True, also what jobs need
    checked: set[bool] = field(default_factory=set)
    checking: threading.Lock = field(default_factory=threading.Lock)
    #: the process that made it; a forked child makes another
    pid: int = field(default_factory=os.getpid)

    @staticmethod
    def acquire(url: str, options: ConnectionOptions, client: Any = None) -> SharedConnection:
        """Return the connection to this Redis, made on first use; ``release`` it when it is needed no more."""
        key = (url, options, None if client is None else id(client))
        with _guard:
            shared = _connections.get(key)
            if shared is None:
                server = Server.connect(url, options, client=client)
                heartbeats = Heartbeats(server, name="redflare-heartbeat-cj")
                shared = _connections[key] = SharedConnection(server=server, heartbeats=heartbeats, key=key)
                heartbeats.start()
            shared.users += 1
            return shared

    def release(self) -> None:
        """End one use; the last one closes the thread and the connections."""
        with _guard:
            self.users -= 1
            if self.users:
                return
            del _connections[self.key]
        self.heartbeats.stop()
        self.server.close()

    def preflight(self, allow_eviction: bool, keys: LinkKeys, *, jobs: bool = False) -> None:
        """Check Redis once for all users, with the rights that the first one needs.

        Raises:
            PreflightError, Unavailable: as ``preflight.check``; the next user checks again.
        """
        with self.checking:
            if jobs not in self.checked:
                check(self.server, allow_eviction=allow_eviction, keys=keys, jobs=jobs, wait=True)
                self.checked |= {jobs, False}

    def preflight_cell(self, settings: LinkSettings, fqcn: str) -> None:
        """``preflight`` for the user of a cell: its keys begin like those of a link of its name."""
        self.preflight(settings.allow_eviction, Keys(settings.namespace).link(fqcn), jobs=True)


_connections: Final[dict[object, SharedConnection]] = {}
_guard: Final = threading.RLock()


def _forget_in_child() -> None:
    _connections.clear()
    _guard.release()


# held during a fork, so that it is in no other thread's hands in the child
os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_forget_in_child)
