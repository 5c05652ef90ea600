"""A server for all tests here, and a federation on it for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer

from tests.support.federation.commands import OperatedFederation
from tests.support.federation.processes import Federation
from tests.support.link.processes import RETENTION
from tests.support.waiting import wait_until

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def shared_server() -> Iterator[tuple[str, redis.Redis]]:
    """URL and client of a server that holds no key any more after the tests: nothing of them has leaked."""
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        yield server.url, client
        wait_until(lambda: client.dbsize() == 0, RETENTION + 4)


@pytest.fixture
def federation(shared_server: tuple[str, redis.Redis], tmp_path: Path) -> Iterator[Federation]:
    """A federation in its own namespace; its processes are killed in the end, and its keys have TTLs."""
    url, client = shared_server
    with Federation(url, tmp_path, client, f"w{next(_numbers)}") as made:
        yield made
    made.assert_clean()


@pytest.fixture
def operated(tmp_path: Path) -> Iterator[OperatedFederation]:
    """A federation that is run by the ``redflare`` command, on its own server; its processes are killed in the end."""
    with (
        EmbeddedServer() as server,
        redis.Redis.from_url(server.url) as client,
        OperatedFederation(server.url, tmp_path, client) as made,
    ):
        yield made
