"""What clients of Sentinels do when another server becomes the primary."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.config.settings import LinkSettings
from redflare_broker.link.session import Session
from redflare_broker.transport.server import Server
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership

from tests.support.redis_server import kinds
from tests.support.redis_server.sentinels import SentinelTrio

SETTINGS = LinkSettings(namespace="ns")


@pytest.fixture
def trio() -> Iterator[SentinelTrio]:
    with kinds.sentinel() as running:
        yield running


def test_goodbyes_go_to_the_primary_of_the_moment(trio: SentinelTrio) -> None:
    """The old primary slept through the failover; idle connections to it work, and it thinks that it is the primary."""
    with Server.connect(trio.url) as server, CellHost("site-2", "job", redis_url=trio.url, settings=SETTINGS) as host:
        session = Session(server, "site-1--trainer", "agent", SETTINGS)
        session.open_connection()
        session.drop_connection()
        cell = Cell(server, "site-1.job", SETTINGS)
        cell.start()
        member = Membership(host, "server.job", "site-2", {}, lambda _: None)
        member.join(lambda: "")
        with server.borrow(session.keys.link), host.server.borrow(member.route):
            pass  # both have an idle connection
        with trio.slept_through_a_failover():
            session.bye()
            cell.stop()
            member.leave()
            with trio.client() as client:
                assert client.hget(session.keys.link, "agent_closed") not in (None, b"0")
                assert client.hget(cell.keys.cell, "closed") not in (None, b"0")
                assert b'"left":0' not in client.hget("ns:{server.job}:clients", "site-2")
