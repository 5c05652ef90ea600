"""``CellHost``: the connection, heartbeat thread and cell that all sites of one process share.

A site alone in its process has its own host. A hundred simulated ones share one, so that they cost one reading
connection and one inbox, not a hundred.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import HandlerResult, Request
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import Unavailable
from redflare_broker.fqcn import FQCN
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.runtime.shared_connection import SharedConnection
from redflare_broker.transport.server import Server

from redflare_workers.messaging.switchboard import Switchboard
from redflare_workers.protocol.job_messages import JobEndEvent, ServerEvent, TasksEndEvent
from redflare_workers.protocol.message import refuse_sender, register

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Site:
    """A site whose cell the host is."""

    #: FQCN of the cell of its server
    server: str
    on_event: Callable[[ServerEvent], None]
    #: another process has taken over the cell
    on_fenced: Callable[[], None]


class CellHost:
    """Shared by the client jobs of one process; a context manager, or ``start`` and ``stop``.

    Args:
        name: first part of the cell's FQCN: the site's name, or one for all sites of this process.
        job_id: the job they take part in; the second part. "": the host is a site's client parent.
        redis_url: any form of ``redflare_broker.transport.url``.
        server_name: first part of the FQCN of the server's cells.
        settings: of the connection, the heartbeats and the limits.
        client: a redis-py or fakeredis client to use instead of the URL.
        prepare: called with cell and switchboard before the cell starts, to register handlers.
    """

    def __init__(
        self,
        name: str,
        job_id: str,
        *,
        redis_url: str = "",
        server_name: str = "server",
        settings: LinkSettings | None = None,
        client: Any = None,
        prepare: Callable[[Cell, Switchboard], object] = lambda cell, switchboard: None,
    ) -> None:
        self.settings = settings or LinkSettings()
        self.fqcn = FQCN.join([name, job_id] if job_id else [name])
        self._prepare = prepare
        self._redis_url = redis_url
        self._server_name = server_name
        self._client = client
        self._shared: SharedConnection | None = None
        self._cell: Cell | None = None
        self._switchboard: Switchboard | None = None
        self._guard = threading.Lock()
        self._given_up = False
        self._sites: dict[str, _Site] = {}

    def start(self) -> None:
        """Connect, and open the cell; an older process of that name is fenced from now on.

        Raises:
            ConfigError: a ValueError; a name, the URL or a setting is wrong.
            PreflightError: Redis is not fit.
            ServerError: Redis refuses this user.
            Unavailable: ``give_up`` was called before the server was there.
        """
        if self._shared is not None:
            logger.warning("%r was started before; this start has no effect", self)
            return
        shared = self._shared = SharedConnection.acquire(self._redis_url, self.settings.connection, self._client)
        try:
            cell = Cell(
                shared.server,
                self.fqcn,
                self.settings,
                heartbeats=shared.heartbeats,
                subscribe=shared.subscribe,
                peers=[self._server_name],
            )
            cell.preflight = lambda: shared.preflight_cell(self.settings, self.fqcn)
            cell.on_fenced = self._on_fenced
            register(cell, JobEndEvent, self._on_event, sender=None)
            register(cell, TasksEndEvent, self._on_event, sender=None)
            switchboard = self._switchboard = Switchboard(cell)
            self._prepare(cell, switchboard)
            with self._guard:
                self._cell = cell
                if self._given_up:
                    raise Unavailable(f"{self!r} was given up before Redis was there")
            cell.start()
        except BaseException:
            self._shared = self._cell = self._switchboard = None
            shared.release()
            raise

    def give_up(self) -> None:
        """Stop waiting for Redis, from any thread; ``start`` then raises Unavailable."""
        with self._guard:
            self._given_up, cell = True, self._cell
        if cell is not None and not cell.epoch:
            cell.stop()

    def stop(self) -> None:
        """Close the cell and the connection. A second call has no effect."""
        shared, cell = self._shared, self._cell
        self._shared = self._cell = None
        if cell is not None:
            cell.stop()
        if shared is not None:
            shared.release()

    @property
    def cell(self) -> Cell:
        return self._started(self._cell)

    @property
    def switchboard(self) -> Switchboard:
        """Hands aux messages and streams on to the sites of this process."""
        return self._started(self._switchboard)

    def cell_of(self, name: str) -> str | None:
        """FQCN of the cell of a site of this process; None: the site runs elsewhere."""
        return self.fqcn if name in self._sites else None

    @property
    def shared(self) -> SharedConnection:
        return self._started(self._shared)

    def _started(self, part: T | None) -> T:
        if part is None:
            raise RuntimeError(f"{self!r} is not started; call start() or use it as a context manager")
        return part

    @property
    def server(self) -> Server:
        return self.shared.server

    @property
    def heartbeats(self) -> Heartbeats:
        return self.shared.heartbeats

    def add_site(
        self, name: str, server: str, on_event: Callable[[ServerEvent], None], on_fenced: Callable[[], None]
    ) -> None:
        """Pass events for a site on to it, and call ``on_fenced`` when another process has taken the cell.

        Args:
            server: FQCN of the cell whose events these are; those of others are refused.

        Raises:
            ValueError: a site of that name runs in this process already.
        """
        with self._guard:
            if name in self._sites:
                raise ValueError(f"site {name!r} runs in this process already; names must differ")
            self._sites[name] = _Site(server, on_event, on_fenced)

    def remove_site(self, name: str) -> None:
        with self._guard:
            self._sites.pop(name, None)

    def nudge(self) -> None:
        """Make every waiting call check its flags now."""
        if (cell := self._cell) is not None:
            cell.nudge()

    def _on_event(self, event: ServerEvent, request: Request) -> HandlerResult:
        with self._guard:
            sites = [self._sites[name] for name in event.clients if name in self._sites]
            instance = self._cell.instance if self._cell is not None else ""
        if isinstance(event, JobEndEvent) and not event.is_for(instance):
            logger.debug("%s: the end of another job of this id is no concern of this process", self)
            return None
        for site in sites:
            if request.origin != site.server:
                return refuse_sender(request, site.server)
            site.on_event(event)
        return None

    def _on_fenced(self) -> None:
        with self._guard:
            sites = list(self._sites.values())
        for site in sites:
            site.on_fenced()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<CellHost {self.fqcn} of {len(self._sites)} sites>"
