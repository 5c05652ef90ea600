"""Cells work the same on every kind of server, a failover included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
from redflare_broker.cell.cell import HandlerResult, Request

from tests.support.cell.cells import Cells, Parking, Replies, cells_at
from tests.support.redis_server.cluster import Cluster
from tests.support.redis_server.kinds import KINDS, AnyServer
from tests.support.redis_server.sentinels import SentinelTrio
from tests.support.waiting import wait_until

BIG = np.arange(100_000.0)
SITES = [f"site-{number}" for number in range(8)]


@pytest.fixture(scope="module", params=list(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    with KINDS[request.param]() as running:
        yield running


@pytest.fixture
def cells(server: AnyServer) -> Iterator[Cells]:
    def scan() -> list[str]:
        # of the users of the TLS server only the administrator may look for keys
        with contextlib.closing(server.client()) as admin:
            return [key.decode() for key in admin.scan_iter("flare:*")]

    with cells_at(server.url, "flare", server.options) as made:
        made.scan = scan
        yield made


def echo(request: Request) -> HandlerResult:
    return "OK", {"from": request.origin}, request.data


def test_requests_events_and_payloads_between_many_cells(cells: Cells) -> None:
    origins: list[str] = []
    server = cells.make("server", {"echo": echo, "note": lambda request: origins.append(request.origin)})
    sites = [cells.make(name, {"echo": echo}) for name in SITES]
    for site, data in zip(sites, [BIG, 1] * 4, strict=True):
        reply = site.send_request("c", "echo", "server", None, data, timeout=20)
        np.testing.assert_equal(reply.data, data)
        assert reply.meta == {"from": site.fqcn}
        site.fire_and_forget("c", "note", "server")
    replies = server.broadcast_request("c", "echo", SITES, None, BIG, timeout=20)
    assert {site: float(reply.data.sum()) for site, reply in replies.items()} == dict.fromkeys(SITES, BIG.sum())
    wait_until(lambda: sorted(origins) == SITES)
    wait_until(lambda: not any(cells.entries(fqcn) for fqcn in ["server", *SITES]) and not cells.blobs())


def test_commands_run_with_the_reply(cells: Cells) -> None:
    parking = Parking()
    server = cells.make("server", {"park": parking})
    replies = Replies()
    for name in SITES:
        cells.make(name).ask("c", "park", "server", on_reply=replies)
    parking.wait(len(SITES))
    key = f"{server.keys.prefix}:order"
    for number, request in enumerate(parking.parked):
        script = "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return redis.call('PEXPIRE', KEYS[1], 5000)"
        request.reply(with_commands=[["EVAL", script, 1, key, request.origin, number]])
    wait_until(lambda: len(replies.all) == len(SITES))
    assert cells.redis("HGET", key, SITES[0]) is not None
    wait_until(lambda: not cells.entries("server"))


def test_a_failover_loses_no_request(server: AnyServer, cells: Cells) -> None:
    if not isinstance(server, Cluster | SentinelTrio):
        pytest.skip("this kind has no failover")
    cells.make("server", {"echo": echo})
    site = cells.make("site-1")
    assert site.send_request("c", "echo", "server", None, 0, timeout=20).ok
    if isinstance(server, Cluster):
        server.failover("flare:{server}:cell")
    else:
        server.failover()
    for number in range(20):
        assert site.send_request("c", "echo", "server", None, number, timeout=60).data == number
