"""A server for each test module, and a link of its own on it for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer

from tests.support.link.processes import RETENTION, LinkProcesses
from tests.support.waiting import wait_until

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def used_servers() -> Iterator[list[tuple[str, EmbeddedServer]]]:
    """The servers that modules have used. In the end each must be empty: no test has leaked a key."""
    used: list[tuple[str, EmbeddedServer]] = []
    yield used
    with ExitStack() as servers:
        for _, server in used:
            servers.callback(server.stop)
        for module, server in used:
            client = servers.enter_context(redis.Redis.from_url(server.url))
            wait_until(lambda client=client: client.dbsize() == 0, RETENTION + 4, f"no key of {module} is left")  # type: ignore[misc]


@pytest.fixture(scope="module")
def shared_server(
    request: pytest.FixtureRequest, used_servers: list[tuple[str, EmbeddedServer]]
) -> Iterator[tuple[str, redis.Redis]]:
    """URL and client of a server for the tests of a module."""
    server = EmbeddedServer().start()
    used_servers.append((request.node.name, server))
    with redis.Redis.from_url(server.url) as client:
        yield server.url, client


@pytest.fixture
def processes(shared_server: tuple[str, redis.Redis], tmp_path: Path) -> Iterator[LinkProcesses]:
    """The processes of a link in a namespace of its own; they are killed in the end, and all keys must have TTLs."""
    url, client = shared_server
    with LinkProcesses(url, tmp_path, client, f"t{next(_numbers)}") as made:
        yield made
    made.assert_all_keys_expire()
