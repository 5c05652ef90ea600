"""Fixtures: a link, and a client parent with its server, at a real Redis; and a communicator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redflare_broker.config.settings import LinkSettings
from redflare_workers import ClientEngine, Site, SiteArgs

from tests.fundamentals.documented.links import RealLink
from tests.support.cell.cells import Cells, cells_at
from tests.support.cell.messengers import Peer, server_at
from tests.support.communicator.bench import CommunicatorBench
from tests.support.federation.client_parents import SITE_1, at_a_cell


@pytest.fixture
def link(server_url: str, settings: LinkSettings) -> RealLink:
    return RealLink(server_url, settings)


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    """A communicator with three clients, whose clock the test sets."""
    with CommunicatorBench(["a", "b", "c"]) as made:
        yield made


@pytest.fixture
def live() -> Iterator[CommunicatorBench]:
    """A communicator with two clients, that checks its tasks by itself."""
    with CommunicatorBench(["a", "b"], monitor=True) as made:
        yield made


@pytest.fixture
def engine(tmp_path: Path) -> ClientEngine:
    """A client parent that has no cell."""
    return ClientEngine(Site(name=SITE_1), SiteArgs(workspace=tmp_path), 0)


@pytest.fixture
def cells(server_url: str, namespace: str) -> Iterator[Cells]:
    with cells_at(server_url, namespace) as made:
        yield made


@pytest.fixture
def served(engine: ClientEngine, cells: Cells) -> Iterator[ClientEngine]:
    """A client parent whose cell runs."""
    with at_a_cell(engine, cells) as made:
        yield made


@pytest.fixture
def server(cells: Cells) -> Iterator[Peer]:
    """The server's parent process."""
    with server_at(cells, SITE_1) as peer:
        yield peer
