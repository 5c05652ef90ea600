"""A server for each test module, and a scene of its own on it for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer

from tests.support.link.processes import RETENTION, Scene
from tests.support.waiting import wait_until

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def used_servers() -> Iterator[list[tuple[str, EmbeddedServer]]]:
    """The servers that modules have used. Nothing of their tests has leaked: in the end each of them holds no key."""
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
def scene(shared_server: tuple[str, redis.Redis], tmp_path: Path) -> Iterator[Scene]:
    """A link in a namespace of its own; its processes are killed in the end, and its keys have TTLs."""
    url, client = shared_server
    with Scene(url, tmp_path, client, f"t{next(_numbers)}") as made:
        yield made
    made.assert_all_keys_end()
