"""A site's membership when Redis has lost the job: joined again, with what follows, unless the site has left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
from redflare_broker.config.settings import LinkSettings
from redflare_broker.scripts.script import run_pipeline
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership

from tests.support.waiting import wait_until

#: No heartbeat is due within a test but the first.
SETTINGS = LinkSettings(heartbeat_interval=3600.0, heartbeat_ttl=7200.0, allow_eviction=True)
RECORD = "flare:{server.job}:client:site-1"


@pytest.fixture
def redis() -> Any:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


@pytest.fixture
def host(redis: Any) -> Iterator[CellHost]:
    with CellHost("site-1", "job", client=redis, settings=SETTINGS) as started:
        yield started


def beat(host: CellHost, membership: Membership) -> Any:
    """Send a heartbeat; return its reply, which the membership has not processed yet."""
    with host.server.borrow(membership.route) as connection:
        return run_pipeline(connection, [membership.beat()])[0]


@pytest.fixture
def membership(host: CellHost) -> Membership:
    joined = Membership(host, "server.job", "site-1", {}, lambda news: None)
    joined.join(lambda: "")
    return joined


def test_a_site_that_has_joined_again_posts_its_requests_again(
    redis: Any, host: CellHost, membership: Membership
) -> None:
    """Those that waited at the server may have been lost with the job."""
    pending = host.cell.ask("job", "get_task", "server.job", on_reply=lambda reply: None)
    wait_until(lambda: pending.entry_id)
    attempt = pending.attempt
    redis.delete(RECORD)
    membership.on_beat(beat(host, membership))
    assert redis.exists(RECORD)
    wait_until(lambda: pending.attempt > attempt)


def test_a_site_that_has_left_is_not_joined_again_by_a_late_heartbeat(
    redis: Any, host: CellHost, membership: Membership
) -> None:
    redis.delete(RECORD)
    late = beat(host, membership)
    membership.leave()
    membership.on_beat(late)
    assert not redis.exists(RECORD)
