"""``SharedConnection``: what the agents, exchangers and cells of a process share: connections, heartbeats, subscriber.

Two hundred of them in a process make one heartbeat thread, one subscriber and one pool of connections per Redis,
whichever of them starts first or ends last. When Redis is back after a restart, they come back in a few pipelines.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.keys import Keys, LinkKeys
from redflare_broker.transport.server import ConnectionOptions, Server

from .heartbeat import Heartbeats
from .preflight import check
from .subscriber import Subscriber, Subscription


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class SharedConnection:
    """The connections to a Redis and what runs on them; ``acquire`` and ``release`` count their users."""

    server: Server
    heartbeats: Heartbeats
    subscriber: Subscriber
    key: object
    #: kept, so that no other client gets its id
    client: object
    users: int = 0
    #: what was checked: True, also what jobs need
    checked: set[bool] = field(default_factory=set)
    checking: threading.Lock = field(default_factory=threading.Lock)
    #: the process that made it; a forked child makes another
    pid: int = field(default_factory=os.getpid)

    @staticmethod
    def acquire(url: str, options: ConnectionOptions, client: Any = None) -> SharedConnection:
        """Return the connection to this Redis, made on first use; ``release`` it when it is needed no more.

        Raises:
            ConfigError: the URL or an option is wrong.
        """
        key = (url, options, None if client is None else id(client))
        with _guard:
            shared = _connections.get(key)
            if shared is None:
                server = Server.connect(url, options, client=client)
                shared = _connections[key] = SharedConnection(
                    server=server,
                    heartbeats=Heartbeats(server),
                    subscriber=Subscriber(server),
                    key=key,
                    client=client,
                )
            shared.users += 1
            return shared

    def release(self) -> None:
        """End one use; the last one closes the threads and the connections."""
        if self.pid != os.getpid():
            return
        with _guard:
            self.users -= 1
            if self.users:
                return
            del _connections[self.key]
        self.subscriber.stop()
        self.heartbeats.stop()
        self.server.close()

    def subscribe(self, subscription: Subscription) -> Callable[[], None]:
        """Receive channels that share a hash tag; call what is returned to receive them no more.

        On a cluster each node has channels of its own, so there each subscription has a thread.
        """
        if self.server.cluster:
            own = Subscriber(self.server, subscription, name=f"redflare-subscriber-{subscription.channels[0]}")
            own.start()
            return own.stop
        self.subscriber.add(subscription)
        self.subscriber.start()
        return lambda: self.subscriber.remove(subscription)

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
