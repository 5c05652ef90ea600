"""A server for each test module, and a scene of its own on it for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer

from tests.support.link.processes import RETENTION, Scene
from tests.support.waiting import wait_until

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[tuple[str, redis.Redis]]:
    """URL and client of a server that holds no key any more after the module's tests: nothing of them has leaked."""
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        yield server.url, client
        wait_until(lambda: client.dbsize() == 0, RETENTION + 4)


@pytest.fixture
def scene(shared_server: tuple[str, redis.Redis], tmp_path: Path) -> Iterator[Scene]:
    """A link in a namespace of its own; its processes are killed in the end, and its keys have TTLs."""
    url, client = shared_server
    with Scene(url, tmp_path, client, f"t{next(_numbers)}") as made:
        yield made
    made.assert_all_keys_end()
