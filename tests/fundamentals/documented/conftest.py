"""Fixtures: a link at a real server, with a client job that a test plays; and a communicator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redflare_broker.config.settings import LinkSettings

from tests.fundamentals.documented.links import RealLink
from tests.support.communicator.bench import CommunicatorBench


@pytest.fixture
def link(server_url: str, settings: LinkSettings) -> RealLink:
    return RealLink(server_url, settings)


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    """A communicator with three clients, whose clock the test sets."""
    with CommunicatorBench(["a", "b", "c"]) as made:
        yield made
