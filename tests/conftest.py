"""Fixtures for every test: a server shared by the whole run, and a namespace of its own for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from redflare_broker.embedded.server import EmbeddedServer


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of an embedded server that all tests share; use ``namespace`` in it, and stop or flush it never."""
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"
