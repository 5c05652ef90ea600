"""Fixtures: a link at a real server, with a client job that a test plays."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_broker.config.settings import LinkSettings
from redflare_broker.testing import LinkUnderTest
from redflare_broker.transport.server import Server


class RealLink(LinkUnderTest):
    """The link of redflare's pytest plugin, at a real server."""

    def __init__(self, url: str, settings: LinkSettings) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.url = url
        self.settings = settings

    def server(self) -> Server:
        return Server.connect(self.url)

    @property
    def agent_args(self) -> dict[str, Any]:
        return {**super().agent_args, "flare_site_url": self.url}

    @property
    def exchanger_args(self) -> dict[str, Any]:
        return {**super().exchanger_args, "redis_url": self.url}


@pytest.fixture
def link(server_url: str, settings: LinkSettings) -> RealLink:
    return RealLink(server_url, settings)
