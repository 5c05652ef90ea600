"""A Redis that loses all data, freezes or crashes in the middle of a round: the run completes with the right model."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer

from tests.programs.server_job import SMALL
from tests.support.federation.processes import Federation

ROUNDS = 3
#: The round of the fault, from 0.
FATAL = 1
SITES = (1, 2, 3)
OPTIONS: dict[str, Any] = {"min_clients": len(SITES), "num_rounds": ROUNDS, "wait_time_after_min_received": 0}
#: Elements of a model that is too large for an entry.
LARGE = 100_000
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
#: The points of the server at which the fault is injected.
POINTS = [f"checkpointed:{FATAL}", f"taking:{FATAL}:2", f"taken:{FATAL}:2", f"ending:{FATAL}", f"ended:{FATAL}"]


@dataclass
class FaultyServer:
    """A server that faults are injected into, and a federation on it."""

    server: EmbeddedServer
    federation: Federation
    client: redis.Redis

    def forget_everything(self) -> None:
        """FLUSHALL."""
        self.client.flushall()

    def freeze(self) -> None:
        """SIGSTOP for longer than the socket timeouts; commands are resent meanwhile."""
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            never = redis.Redis.from_url(self.server.url, socket_timeout=1.2, retry=None)
            with never, pytest.raises(redis.TimeoutError):
                never.ping()
        finally:
            os.kill(self.server.pid, signal.SIGCONT)

    def crash(self) -> None:
        """SIGKILL, and restart with the data on its disk."""
        self.server.kill()
        self.server.stop()
        self.server.start()


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyServer]:
    with (
        EmbeddedServer(tmp_path / "server", extra={"appendfsync": "always"}) as server,
        redis.Redis.from_url(server.url) as client,
        Federation(server.url, tmp_path, client) as federation,
    ):
        yield FaultyServer(server, federation, client)
        federation.assert_clean()


@SIZES
def test_data_that_redis_loses_while_sites_train_is_written_again(faulty: FaultyServer, size: int) -> None:
    federation = faulty.federation
    federation.sites(SITES, wait_at=f"training:{FATAL}")
    server = federation.server(options=OPTIONS, size=size)
    trainers = [children[0] for children in federation.trainers.values()]
    for trainer in trainers:
        trainer.receive("at")
    faulty.forget_everything()
    for trainer in trainers:
        trainer.send("go")
    federation.model_of(server, ROUNDS)
    federation.assert_all_end()


@SIZES
@pytest.mark.parametrize("point", POINTS)
def test_data_that_redis_loses_while_the_server_works_is_written_again(
    faulty: FaultyServer, point: str, size: int
) -> None:
    federation = faulty.federation
    federation.sites(SITES)
    server = federation.server(options=OPTIONS, size=size, wait_at=point)
    server.receive("at")
    faulty.forget_everything()
    server.send("go")
    federation.model_of(server, ROUNDS)
    federation.assert_all_end()


@SIZES
@pytest.mark.parametrize("hurt", [FaultyServer.freeze, FaultyServer.crash], ids=["frozen", "crashed"])
def test_a_redis_that_is_away_for_a_while_costs_no_training(faulty: FaultyServer, hurt: Any, size: int) -> None:
    federation = faulty.federation
    federation.sites(SITES, wait_at=f"training:{FATAL}")
    server = federation.server(options=OPTIONS, size=size)
    trainers = [children[0] for children in federation.trainers.values()]
    for trainer in trainers:
        trainer.receive("at")
    trainers[0].send("go")
    hurt(faulty)
    for trainer in trainers[1:]:
        trainer.send("go")
    federation.model_of(server, ROUNDS)
    federation.assert_trained_once(SITES, ROUNDS)
    federation.assert_all_end()
