"""Messengers for tests: each on a cell of its own, with an engine that makes contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import fakeredis
from redflare_broker.cell.cell import Cell
from redflare_broker.config.settings import LinkSettings
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_workers.apis.fl_constant import ProcessType
from redflare_workers.engine.run_engine import RunEngine

from tests.support.cell.cells import RETENTION, SETTINGS, Cells
from tests.support.redis_server.expiry import assert_expires


class Peer(RunEngine):
    """An engine whose peers are those of its ``Peers``.

    Args:
        prepare: called before it receives anything.
        listen: as of ``Messenger.open``.
    """

    def __init__(
        self,
        name: str,
        peers: Peers,
        cell: Cell,
        prepare: Callable[[Peer], object] = lambda peer: None,
        *,
        listen: bool = True,
    ) -> None:
        self._peers = peers
        super().__init__(name, "job-1", {}, ProcessType.CLIENT_JOB, {})
        self.cell = cell
        prepare(self)
        self.messenger.open(cell, listen=listen)
        cell.start()

    def usual_targets(self) -> list[str]:
        return ["server"]

    def find_peer(self, name: str) -> str | None:
        return self._peers.places.get(name)

    def close(self) -> None:
        self.messenger.close()
        self.cell.stop(2.0)


class Peers:
    """Engines by name, at one server; one made later with the same name replaces the earlier."""

    def __init__(self, server: Server, settings: LinkSettings) -> None:
        self.server = server
        self.settings = settings
        #: FQCNs by name
        self.places: dict[str, str] = {}
        self._made: list[Peer] = []

    def make(
        self,
        name: str,
        server: Server | None = None,
        prepare: Callable[[Peer], object] = lambda peer: None,
        *,
        listen: bool = True,
        **changes: Any,
    ) -> Peer:
        """Start an engine; ``server``: another connection; the rest as of ``Peer``."""
        self.places[name] = f"{name}.job-1"
        cell = Cell(server or self.server, self.places[name], replace(self.settings, **changes))
        peer = Peer(name, self, cell, prepare, listen=listen)
        self._made.append(peer)
        return peer

    def keys(self) -> set[str]:
        """All keys of this namespace."""
        return set(self.server.scan(f"{self.settings.namespace}:*"))

    def blobs(self) -> set[str]:
        """Keys of chunks."""
        return {key for key in self.keys() if ":blob" in key}

    def close(self) -> None:
        for peer in self._made:
            peer.close()
        for key in self.keys():
            with self.server.borrow(key) as connection:
                assert_expires(key, connection.call("PTTL", key), RETENTION)


@contextmanager
def server_at(cells: Cells, site: str) -> Iterator[Peer]:
    """The server's parent process, beside the client parent of a site."""
    peers = Peers(cells.server, cells.settings)
    peers.places |= {"server": "server", site: site}
    peer = Peer("server", peers, Cell(cells.server, "server", cells.settings))
    yield peer
    peer.close()


@contextmanager
def peers_on_fakeredis() -> Iterator[Peers]:
    """Engines at a server in this process."""
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=client) as server:
        peers = Peers(server, SETTINGS)
        try:
            yield peers
        finally:
            peers.close()


@contextmanager
def peers_at(url: str, namespace: str, **changes: Any) -> Iterator[Peers]:
    """Engines at a real server."""
    options = ConnectionOptions(socket_timeout=0.5, connect_timeout=0.5)
    settings = replace(SETTINGS, namespace=namespace, connection=options, **changes)
    with Server.connect(url, options) as server:
        peers = Peers(server, settings)
        try:
            yield peers
        finally:
            peers.close()
