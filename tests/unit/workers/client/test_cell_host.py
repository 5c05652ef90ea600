"""A cell host whose start fails leaves nothing open, and may be started again."""

from __future__ import annotations

import threading
from typing import Any

import fakeredis
import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ServerError
from redflare_broker.runtime import shared_connection
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.messaging.switchboard import Switchboard

SETTINGS = LinkSettings(heartbeat_interval=0.2, heartbeat_ttl=2.0, allow_eviction=True)


def test_a_start_that_redis_refuses_leaves_nothing_open_and_can_be_repeated() -> None:
    redis: Any = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    redis.set("flare:{site-1.job}:cell", "in the way")
    before = set(threading.enumerate())
    host = CellHost("site-1", "job", client=redis, settings=SETTINGS)
    with pytest.raises(ServerError, match="WRONGTYPE"):
        host.start()
    assert shared_connection._connections == {}
    assert set(threading.enumerate()) - before == set()
    for part in ("cell", "server"):
        with pytest.raises(RuntimeError, match="is not started"):
            getattr(host, part)
    redis.delete("flare:{site-1.job}:cell")
    with host:
        assert host.cell.epoch
    assert set(threading.enumerate()) - before == set()


def test_a_start_whose_preparation_fails_leaves_nothing_open() -> None:
    def fail(cell: Cell, switchboard: Switchboard) -> None:
        raise ValueError("no handlers today")

    host = CellHost("site-1", "job", client=fakeredis.FakeRedis(), settings=SETTINGS, prepare=fail)
    with pytest.raises(ValueError, match="no handlers today"):
        host.start()
    assert shared_connection._connections == {}
    with pytest.raises(RuntimeError, match="is not started"):
        _ = host.switchboard
