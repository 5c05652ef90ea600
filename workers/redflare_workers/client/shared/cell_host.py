"""``CellHost``: what the sites that one process runs share: a connection, a heartbeat thread, and a cell.

A site alone in its process has a host of its own. A hundred simulated ones share one, so that they cost one connection
that reads and one inbox, not a hundred.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import Request
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import Unavailable
from redflare_broker.fqcn import FQCN
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.transport.server import Server

from redflare_workers.ipc.shared_connection import SharedConnection
from redflare_workers.messaging.switchboard import Switchboard
from redflare_workers.protocol.job_messages import CHANNEL

logger = logging.getLogger(__name__)


class CellHost:
    """Shared by the client jobs of one process; a context manager, or ``start`` and ``stop``.

    Args:
        name: first part of the cell's FQCN: the site's name, or one for all sites of this process.
        job_id: the job they take part in; the second part. "": the host is a site's client parent.
        redis_url: any form of ``redflare_broker.transport.url``.
        settings: of the connection, the heartbeats and the limits.
        client: a redis-py or fakeredis client to use instead of the URL.
    """

    def __init__(
        self, name: str, job_id: str, *, redis_url: str = "", settings: LinkSettings | None = None, client: Any = None
    ) -> None:
        self.settings = settings or LinkSettings()
        self.fqcn = FQCN.join([name, job_id] if job_id else [name])
        #: Called with the cell before it starts, to register what it answers.
        self.prepare: Callable[[Cell], object] = lambda cell: None
        self._redis_url = redis_url
        self._client = client
        self._hub: SharedConnection | None = None
        self._cell: Cell | None = None
        self._switchboard: Switchboard | None = None
        self._guard = threading.Lock()
        self._given_up = False
        #: by name: who hears the server's events for a site, and that another process has taken the cell over
        self._sites: dict[str, tuple[Callable[[Request], None], Callable[[], None]]] = {}

    def start(self) -> None:
        """Connect, and open the cell; an older process of that name is fenced from now on.

        Raises:
            ConfigError: a ValueError; a name, the URL or a setting is wrong.
            PreflightError: the server is not fit.
            ServerError: the server refuses this user.
            Unavailable: ``give_up`` was called before the server was there.
        """
        if self._hub is not None:
            logger.warning("%r was started before; this start has no effect", self)
            return
        hub = self._hub = SharedConnection.acquire(self._redis_url, self.settings.connection, self._client)
        try:
            cell = Cell(hub.server, self.fqcn, self.settings, heartbeats=hub.heartbeats)
            cell.preflight = lambda: hub.preflight_cell(self.settings, self.fqcn)
            cell.on_fenced = self._on_fenced
            cell.register_request_cb(CHANNEL, "*", self._on_event)
            self._switchboard = Switchboard(cell)
            self.prepare(cell)
            with self._guard:
                self._cell = cell
                if self._given_up:
                    raise Unavailable(f"{self!r} was given up before Redis was there")
            cell.start()
        except BaseException:
            self._hub = self._cell = None
            hub.release()
            raise

    def give_up(self) -> None:
        """From any thread: do not wait for a Redis that is not there yet; ``start`` raises Unavailable then."""
        with self._guard:
            self._given_up, cell = True, self._cell
        if cell is not None and not cell.epoch:
            cell.stop()

    def stop(self) -> None:
        """Close the cell and the connection. Again is allowed."""
        hub, cell = self._hub, self._cell
        self._hub = self._cell = None
        if cell is not None:
            cell.stop()
        if hub is not None:
            hub.release()

    @property
    def cell(self) -> Cell:
        if self._cell is None:
            raise RuntimeError(f"{self!r} is not started; call start() or use it as a context manager")
        return self._cell

    @property
    def switchboard(self) -> Switchboard:
        """Hands aux messages and streams on to the sites of this process."""
        if self._switchboard is None:
            raise RuntimeError(f"{self!r} is not started; call start() or use it as a context manager")
        return self._switchboard

    def cell_of(self, name: str) -> str | None:
        """FQCN of the cell of a site of this process; None: it is none."""
        return self.fqcn if name in self._sites else None

    @property
    def hub(self) -> SharedConnection:
        if self._hub is None:
            raise RuntimeError(f"{self!r} is not started; call start() or use it as a context manager")
        return self._hub

    @property
    def server(self) -> Server:
        return self.hub.server

    @property
    def heartbeats(self) -> Heartbeats:
        return self.hub.heartbeats

    def add_site(self, name: str, on_event: Callable[[Request], None], on_fenced: Callable[[], None]) -> None:
        """Hand the server's events for a site on to it, and tell it when another process has taken over the cell.

        Raises:
            ValueError: there is a site of that name in this process.
        """
        with self._guard:
            if name in self._sites:
                raise ValueError(f"site {name!r} runs in this process already; names must differ")
            self._sites[name] = on_event, on_fenced

    def remove_site(self, name: str) -> None:
        with self._guard:
            self._sites.pop(name, None)

    def nudge(self) -> None:
        """Let every call that waits look at its flags now."""
        if (cell := self._cell) is not None:
            cell.nudge()

    def _on_event(self, request: Request) -> None:
        named = request.meta.get("clients")
        with self._guard:
            sites = [self._sites[name] for name in named if name in self._sites] if isinstance(named, list) else []
        for on_event, _ in sites:
            on_event(request)

    def _on_fenced(self) -> None:
        with self._guard:
            sites = list(self._sites.values())
        for _, on_fenced in sites:
            on_fenced()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<CellHost {self.fqcn} of {len(self._sites)} sites>"
