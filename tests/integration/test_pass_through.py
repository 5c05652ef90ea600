"""A model is passed from the server to an agent and back, without using memory of the CJ in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.config.settings import LinkSettings
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload, store_payload
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.programs import passing_cj
from tests.programs.passing_cj import PassingCJArgs
from tests.support.link.processes import RETENTION, LinkProcesses
from tests.support.process.child import Child
from tests.support.redis_server.kinds import KINDS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")

MB = 1 << 20
SIZE = 200 * MB
#: Bytes by which the memory of a CJ may grow while it passes a model on.
ALLOWED = 20 * MB
BIG = np.arange(375_000.0)  # 3 MB


class Passing:
    """A CJ that passes payloads on unread, with the test in the place of the SJ.

    Args:
        url, settings: the CJ's.
    """

    def __init__(self, processes: LinkProcesses, server: Server, url: str, settings: LinkSettings) -> None:
        self.processes = processes
        self.server = server
        self._args = {"url": url, "settings": settings}
        self._stored: list[EncodedPayload] = []

    def cj(self, **args: Any) -> Child:
        """Start a CJ; it is connected when this returns."""
        return self.processes.start(passing_cj.main, PassingCJArgs(**{**self._args, **args}))

    def store(self, array: Any) -> EncodedPayload:
        """Store a model as a payload of the SJ's cell."""
        settings = self.processes.settings
        prefix = f"{settings.namespace}:{{server.job-1}}:blob:model-{len(self._stored)}"
        payload = store_payload(self.server, encode_payload({"w": array}), prefix, ttl_ms=settings.policy.retention_ms)
        assert payload.blob is not None
        self._stored.append(payload)
        return payload

    def array(self, payload: EncodedPayload) -> Any:
        return payload.decode(self.server)["w"]

    def ttl(self, payload: EncodedPayload) -> float:
        """The smallest TTL of its chunks in seconds; below 0: a chunk is gone."""
        assert payload.blob is not None
        keys = [f"{payload.blob.prefix}:{number}" for number in range(payload.blob.chunks)]
        return min(float(self.processes.client.pttl(key)) for key in keys) / 1000

    def remove(self, *unwanted: EncodedPayload) -> None:
        for payload in unwanted or self._stored:
            assert payload.blob is not None
            RedisPayloadStore(self.server).remove(payload.blob)


@pytest.fixture
def passing(processes: LinkProcesses) -> Iterator[Passing]:
    with Server.connect(processes.url) as server:
        yield Passing(processes, server, processes.url, processes.settings)


def test_a_cj_that_passes_a_model_of_200_mb_through_needs_little_memory(tmp_path: Path) -> None:
    model = np.arange(SIZE // 4, dtype="f4")
    with (
        EmbeddedServer() as running,
        redis.Redis.from_url(running.url) as client,
        Server.connect(running.url) as server,
        LinkProcesses(running.url, tmp_path, client, policy=RetentionPolicy()) as processes,
    ):
        passing = Passing(processes, server, running.url, processes.settings)
        processes.agent().send("serve")
        cj = passing.cj()
        cj.send("pass_on", "warm", passing.store(BIG))  # imports, buffers, pages
        cj.receive("result")
        cj.send("pass_on", "t", passing.store(model))
        task_id, result, grown = cj.receive("result", timeout=100)
        assert grown < ALLOWED, f"the CJ grew by {grown / MB:.1f} MB"
        assert (task_id, result.buffers) == ("t", ())
        assert np.array_equal(passing.array(result), model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_passes_through_on_every_kind_of_server(kind: str, tmp_path: Path) -> None:
    with KINDS[kind]() as running:
        processes = LinkProcesses(running.url, tmp_path, running.client())  # type: ignore[arg-type]
        as_agent = replace(processes.settings, connection=impatient(running.agent_options))
        as_cj = replace(processes.settings, connection=impatient(running.options))
        with processes, Server.connect(running.url, as_cj.connection) as server:
            passing = Passing(processes, server, running.url, as_cj)
            processes.agent(settings=as_agent).send("serve")
            cj = passing.cj()
            cj.send("pass_on", "t", passing.store(BIG))
            _, result, _ = cj.receive("result")
            cj.send("release", True)
            cj.receive("released")
            assert np.array_equal(passing.array(result), BIG)


def impatient(options: ConnectionOptions) -> ConnectionOptions:
    return replace(options, socket_timeout=2.0, connect_timeout=2.0)


def test_a_cj_killed_before_it_hands_the_result_over_returns_the_same_one_after_its_restart(passing: Passing) -> None:
    payload = passing.store(BIG)
    passing.processes.agent().send("serve")
    doomed = passing.cj(wait_at="after:settle")
    doomed.send("pass_on", "t", payload)
    doomed.receive("at")
    doomed.kill()
    successor = passing.cj()
    successor.send("pass_on", "t", payload)
    _, result, _ = successor.receive("result")
    assert np.array_equal(passing.array(result), BIG)
    successor.send("release", True)
    successor.receive("released")
    successor.send("pass_on", "t2", payload)
    successor.receive("result")
    assert passing.ttl(result) > 0
    assert passing.processes.executions() == [("t", 1), ("t2", 1)]
    passing.remove(result)
    passing.remove()
    passing.processes.assert_nothing_is_left()


def test_a_result_is_kept_until_the_cj_releases_it(passing: Passing) -> None:
    passing.processes.agent().send("serve")
    cj = passing.cj()
    cj.send("pass_on", "t", passing.store(BIG))
    _, result, _ = cj.receive("result")
    wait_until(lambda: passing.ttl(result) < RETENTION - 0.5)
    wait_until(lambda: passing.ttl(result) > RETENTION - 0.5)
    passing.remove()
    passing.processes.assert_nothing_is_left()


def test_a_model_that_redis_lost_is_asked_for_at_the_server_and_sent_again(passing: Passing) -> None:
    cj = passing.cj()
    cj.send("pass_on", "t", passing.store(BIG))
    passing.processes.until("t", "NEW")
    passing.processes.client.flushall()
    passing.processes.agent().send("serve")
    assert cj.receive("failed") == ("t", "BLOB_MISSING")
    cj.send("pass_on", "t", passing.store(BIG))
    _, result, _ = cj.receive("result")
    assert np.array_equal(passing.array(result), BIG)
    assert [task_id for task_id, _ in passing.processes.executions()] == ["t"]
