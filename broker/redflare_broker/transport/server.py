"""``Server``: one federation's Redis in any mode (single, Unix, TLS, Sentinel, Cluster), and the connections to it.

``Server`` knows how to open a connection to the node that serves a key. Dedicated connections (``connection``) belong
to their callers and are meant for blocking reads; borrowed ones (``borrow``, ``run``) come from a pool of idle
connections per node. redis-py only opens and authenticates the connections, its own retries off: a command is sent
once, and repeated only by a caller that knows that it may be.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final, Literal, TypeVar, cast

if TYPE_CHECKING:
    from redis.connection import Connection as RawConnection

from redflare_broker.errors import ConfigError, ServerError, Unavailable
from redflare_broker.util.backoff import Backoff
from redflare_broker.util.owed_steps import OwedSteps

from .cluster_slots import Address, Topology
from .connection import Connection
from .dial import Client, Dialer, Dialled, SentinelDialer, abandon, client_dialer, url_dialer
from .idle_connections import IdleConnections
from .lockouts import Lockouts
from .retries import Retries, RetryingConnection
from .url import ConnectionOptions, ServerUrl

__all__ = ["ConnectionOptions", "Server"]

T = TypeVar("T")

_SCAN_COUNT: Final = 500
#: Seconds for which a node that could not be reached is not tried by other threads, which may be a thousand; shorter
#: than the first pause of a thread that tries again.
_AWAY_FOR: Final = 0.02

_log = logging.getLogger(__name__)


class Server:
    """One federation's Redis. Thread-safe; made by ``Server.connect``; a context manager.

    After a fork the child cannot use it: the inherited sockets are closed there (the parent's go on working), and
    every call raises ConfigError.
    """

    def __init__(self, dialer: Dialer, options: ConnectionOptions) -> None:
        #: the server's URL for logs, its password masked
        self.url = dialer.name
        self.cluster = bool(dialer.seeds)
        #: the commands for wake-up messages: sharded on a cluster, where a plain PUBLISH would go to every node
        self.publish: Literal["PUBLISH", "SPUBLISH"] = "SPUBLISH" if self.cluster else "PUBLISH"
        self.subscribe: Literal["SUBSCRIBE", "SSUBSCRIBE"] = "SSUBSCRIBE" if self.cluster else "SUBSCRIBE"
        #: scripts are called as functions that were loaded before
        self.functions = options.functions
        #: what is done as soon as a node is back; heartbeats see to it
        self.owed = OwedSteps()
        #: how steps on borrowed connections, and scans, are tried again while Redis is unavailable; None: they are not
        self.retries: Retries | None = None
        self._dialer = dialer
        self._options = options
        self._idle = IdleConnections()
        self._topology = Topology(dialer.seeds, lambda node: self._open(node).connection) if self.cluster else None
        self._lockouts = Lockouts(options.login_patience)
        #: by node that could not be reached: until when it is not tried again, and text and cause of the failure
        self._away: dict[Address | None, tuple[float, str, str]] = {}
        self._opened: weakref.WeakSet[RawConnection] = weakref.WeakSet()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        #: of what was opened; re-entrant, because a signal handler may open a connection
        self._guard = threading.RLock()
        self._closing = threading.Event()
        self._pid = os.getpid()
        _servers.add(self)

    @classmethod
    def connect(
        cls, url: str | None = None, options: ConnectionOptions | None = None, *, client: Client | None = None
    ) -> Server:
        """Make a server from its URL, or from the settings of a redis-py (or fakeredis) client. No I/O happens yet.

        Args:
            url: any form of ``redflare_broker.transport.url``; not needed with ``client``.
            options: what the URL does not give; of these only the timeouts and ``functions`` matter with ``client``.
            client: connections are made as its pool makes them, but are never taken from it.

        Raises:
            ConfigError: the URL or an option is wrong; the message shows it and what is accepted.
        """
        options = options or ConnectionOptions()
        if client is not None:
            return cls(client_dialer(client), options)
        if url is None:
            raise ConfigError("Redis needs a URL or a client, but got neither")
        return cls(url_dialer(ServerUrl.parse(url), options), options)

    def connection(self, key: str) -> Connection:
        """Open a connection to the node that serves ``key`` now, for the caller alone, who closes it.

        It asks Sentinels or the cluster for that node, so it suits what is tried once: a goodbye on an idle connection
        could reach a primary that was replaced meanwhile.

        Raises:
            Unavailable: it cannot be reached now, or refuses for now a login that it has accepted before.
            ServerError: it refuses the login.
        """
        if self._topology:
            self._check_usable()
            self._topology.refresh()
        node = self.node(key)
        try:
            return self._open(node).connection
        except Unavailable:
            self._failed(node)
            raise

    def node(self, key: str) -> Address | None:
        """Return the node that serves ``key`` as far as is known, for grouping; None unless this is a cluster.

        Raises:
            Unavailable: no node serves it now.
        """
        return self._topology.node(key) if self._topology else None

    def borrow(self, key: str) -> AbstractContextManager[Connection]:
        """Lend a connection to the node that serves ``key``, for the length of a ``with`` block; leave it in step.

        When the block ends with an exception the connection is closed: a reply may be still to come.
        """
        if self.retries is None:
            return self._lend(key)
        retrying = RetryingConnection(self.retries, lambda: self._lend(key), self.url)
        retrying.functions = self.functions
        return nullcontext(retrying)

    @contextmanager
    def _lend(self, key: str) -> Iterator[Connection]:
        self._check_usable()
        node = self.node(key)
        dialled: Dialled | None = None
        try:
            dialled = self._idle.take(node) or self._open(node)
            yield dialled.connection
        except BaseException as error:
            # a server that refused a command for now goes on: nothing is wrong with the way to it
            if isinstance(error, Unavailable) and not (error.cause and dialled and not dialled.connection.closed):
                self._failed(node)
            if dialled:
                dialled.connection.close()
            raise
        self._idle.put(node, dialled)
        if self._closing.is_set():
            self._idle.close()

    def run(
        self,
        key: str,
        fn: Callable[[Connection], T],
        *,
        stop: Callable[[], bool] | None = None,
        deadline: float | None = None,
    ) -> T:
        """Call ``fn`` with a borrowed connection; again, after a pause, while Redis is unavailable.

        ``fn`` may have taken effect although it is called again: it must be safe to run twice.

        Args:
            stop: asked after each failure; True ends the attempts.
            deadline: no attempt begins after this moment of ``time.monotonic()``.

        Raises:
            Unavailable: the last failure, when ``stop`` or ``deadline`` or ``close`` ended the attempts.
        """
        backoff = Backoff()
        while True:
            try:
                with self.borrow(key) as connection:
                    return fn(connection)
            except Unavailable as error:
                delay = backoff.next_delay()
                if (stop and stop()) or (deadline is not None and time.monotonic() + delay > deadline):
                    raise
                level = backoff.level(error, logging.DEBUG)
                _log.log(level, "waiting for Redis: %s", error)
                if self._closing.wait(delay):
                    raise

    @property
    def service(self) -> str:
        """Name of the service that Sentinels watch; "" without any."""
        return self._dialer.service if isinstance(self._dialer, SentinelDialer) else ""

    def sentinels(self) -> Server | None:
        """Make a server of the Sentinels through which this one is found, any of them; None: there are none."""
        return Server(self._dialer.sentinels, self._options) if isinstance(self._dialer, SentinelDialer) else None

    def leave_all_but(self, primary: Address) -> None:
        """End all connections but those to the primary, from any thread; who waits on one gets Unavailable at once."""
        host, port = primary
        with self._guard:
            others = [each for each in self._connections if not each.closed and each.node != f"{host}:{port}"]
        if others:
            _log.warning(
                "%s: the primary is %s:%d now; connections to %s are ended",
                self.url,
                host,
                port,
                ", ".join(sorted({each.node for each in others})),
            )
        for connection in others:
            connection.interrupt()

    def primaries(self) -> Iterator[Connection]:
        """Open a connection to each primary, one after the other; each is closed when the next is taken."""
        self._check_usable()
        for node in self._topology.primaries() if self._topology else [None]:
            connection = self._open(node).connection
            try:
                yield connection
            finally:
                connection.close()

    def scan(self, pattern: str) -> Iterator[str]:
        """Yield the keys that match ``pattern``, of all primaries, for inspection only: it may miss or repeat some."""
        if self.retries is None:
            return self._scan(pattern)
        return iter(self.retries.run(lambda: list(self._scan(pattern))))

    def _scan(self, pattern: str) -> Iterator[str]:
        for connection in self.primaries():
            cursor = b"0"
            while True:
                reply = connection.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
                cursor, keys = cast("tuple[bytes, list[bytes]]", reply)
                yield from (key.decode(errors="replace") for key in keys)
                if int(cursor) == 0:
                    break

    def close(self) -> None:
        """Close the idle connections and end all retries; dedicated ones are closed by their owners. Idempotent."""
        self._closing.set()
        if self._pid == os.getpid():
            self._idle.close()
            if self._topology:
                self._topology.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closing") and not self._closing.is_set() and len(self._idle):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closing.is_set() else f"{len(self._idle)} idle"
        return f"<Server {self.url} {state}>"

    def _open(self, node: Address | None) -> Dialled:
        self._check_usable()
        until, text, cause = self._away.get(node, (0.0, "", ""))
        if time.monotonic() < until:
            raise Unavailable(text, cause=cause)
        try:
            raw = self._dialer.dial(node)
        except Unavailable as error:
            self._away[node] = time.monotonic() + _AWAY_FOR, str(error), error.cause
            raise
        except (ConfigError, ServerError) as error:
            if patience := self._lockouts.refused(node):
                raise Unavailable(
                    f"{error} It was accepted before: this is waited out for {patience:.0f} s more.",
                    cause=str(error).partition(":")[0],
                ) from error
            raise
        self._lockouts.accepted(node)
        self._away.pop(node, None)
        dialled = Dialled.wrap(raw, self._options.socket_timeout, functions=self.functions)
        with self._guard:
            self._opened.add(raw)
            self._connections.add(dialled.connection)
        return dialled

    def _failed(self, node: Address | None) -> None:
        self._idle.drop(node)
        if self._topology:
            self._topology.invalidate()

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise ConfigError(
                f"the connection to {self.url} was made in process {self._pid} and cannot be used in its fork "
                f"{os.getpid()}: make a new Server there"
            )
        if self._closing.is_set():
            raise ConfigError(f"the connection to {self.url} is closed: make a new Server")

    def _abandon(self) -> None:
        """In a forked child: let go of all inherited sockets. Locks may be held by threads that are not here."""
        self._closing.set()
        for raw in list(self._opened):
            abandon(raw)


_servers: Final[weakref.WeakSet[Server]] = weakref.WeakSet()


def _abandon_all() -> None:
    for server in list(_servers):
        server._abandon()


os.register_at_fork(after_in_child=_abandon_all)
