"""What the exchangers and cells of one process share: the connection to a server and the heartbeat thread.

Two hundred exchangers in a process make one heartbeat thread and one pool of connections per server, whoever made them
and in whatever order they come and go.
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
    """A server and the heartbeats of the links to it; open and close count their users."""

    server: Server
    heartbeats: Heartbeats
    key: object
    users: int = 0
    #: what was checked: True, also what jobs need
    checked: set[bool] = field(default_factory=set)
    checking: threading.Lock = field(default_factory=threading.Lock)
    #: the process that made it; a forked child makes its own
    pid: int = field(default_factory=os.getpid)

    def preflight(self, allow_eviction: bool, keys: LinkKeys, *, jobs: bool = False) -> None:
        """Check the server once for all users, with the rights that the first one needs.

        Raises:
            PreflightError, Unavailable: as ``preflight.check``; the next user checks again.
        """
        with self.checking:
            if jobs not in self.checked:
                check(self.server, allow_eviction=allow_eviction, keys=keys, jobs=jobs)
                self.checked |= {jobs, False}

    def preflight_cell(self, settings: LinkSettings, fqcn: str) -> None:
        """``preflight`` for the user of a cell: its keys begin like those of a link of its name."""
        self.preflight(settings.allow_eviction, Keys(settings.namespace).link(fqcn), jobs=True)


_hubs: Final[dict[object, SharedConnection]] = {}
_guard: Final = threading.RLock()


def _forget_in_child() -> None:
    _hubs.clear()
    _guard.release()


# held during a fork, so that it is in no other thread's hands in the child
os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_forget_in_child)


def open_hub(url: str, options: ConnectionOptions, client: Any = None) -> SharedConnection:
    """The hub for this server, made on first use. Every ``open_hub`` needs a ``close_hub``."""
    key = (url, options, None if client is None else id(client))
    with _guard:
        hub = _hubs.get(key)
        if hub is None:
            server = Server.connect(url, options, client=client)
            hub = SharedConnection(server=server, heartbeats=Heartbeats(server, name="redflare-heartbeat-cj"), key=key)
            hub.heartbeats.start()
            _hubs[key] = hub
        hub.users += 1
        return hub


def close_hub(hub: SharedConnection) -> None:
    """End the use of a hub; the last one closes its thread and connections."""
    with _guard:
        hub.users -= 1
        if hub.users:
            return
        del _hubs[hub.key]
    hub.heartbeats.stop()
    hub.server.close()
