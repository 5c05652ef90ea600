"""A model goes from the server to an agent and back without being held by the client job in between."""

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
from tests.support.link.processes import RETENTION, Scene
from tests.support.process.child import Child
from tests.support.redis_server.kinds import KINDS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")

MB = 1 << 20
SIZE = 200 * MB
#: By which a CJ may grow while a model goes through it, in bytes.
ALLOWED = 20 * MB
BIG = np.arange(375_000.0)  # 3 MB


class Passing:
    """The server's part, played by the test, and a CJ that passes on what it is given.

    Args:
        url, settings: the CJ's.
    """

    def __init__(self, scene: Scene, server: Server, url: str, settings: LinkSettings) -> None:
        self.scene = scene
        self.server = server
        self._args = {"url": url, "settings": settings}
        self._stored: list[EncodedPayload] = []

    def cj(self, **args: Any) -> Child:
        """Start a CJ; it is connected when this returns."""
        return self.scene.start(passing_cj.main, PassingCJArgs(**{**self._args, **args}))

    def store(self, array: Any) -> EncodedPayload:
        """Write a model under the name of a cell's payload."""
        settings = self.scene.settings
        prefix = f"{settings.namespace}:{{server.job-1}}:blob:model-{len(self._stored)}"
        payload = store_payload(self.server, encode_payload({"w": array}), prefix, ttl_ms=settings.policy.retention_ms)
        assert payload.blob is not None
        self._stored.append(payload)
        return payload

    def array(self, payload: EncodedPayload) -> Any:
        return payload.decode(self.server)["w"]

    def life(self, payload: EncodedPayload) -> float:
        """Seconds that its chunks live at least; below 0: a chunk is gone."""
        assert payload.blob is not None
        keys = [f"{payload.blob.prefix}:{number}" for number in range(payload.blob.chunks)]
        return min(float(self.scene.client.pttl(key)) for key in keys) / 1000

    def remove(self, *unwanted: EncodedPayload) -> None:
        for payload in unwanted or self._stored:
            assert payload.blob is not None
            RedisPayloadStore(self.server).remove(payload.blob)


@pytest.fixture
def passing(scene: Scene) -> Iterator[Passing]:
    with Server.connect(scene.url) as server:
        yield Passing(scene, server, scene.url, scene.settings)


def test_a_model_of_200_mb_costs_the_cj_that_passes_it_through_next_to_nothing(tmp_path: Path) -> None:
    model = np.arange(SIZE // 4, dtype="f4")
    with (
        EmbeddedServer() as running,
        redis.Redis.from_url(running.url) as client,
        Server.connect(running.url) as server,
        Scene(running.url, tmp_path, client, policy=RetentionPolicy()) as scene,
    ):
        passing = Passing(scene, server, running.url, scene.settings)
        scene.agent().say("serve")
        cj = passing.cj()
        cj.say("pass_on", "warm", passing.store(BIG))  # imports, buffers, pages
        cj.hear("result")
        cj.say("pass_on", "t", passing.store(model))
        task_id, result, grown = cj.hear("result", timeout=100)
        assert grown < ALLOWED, f"the CJ grew by {grown / MB:.1f} MB"
        assert (task_id, result.buffers) == ("t", ())
        assert np.array_equal(passing.array(result), model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_passes_through_on_every_kind_of_server(kind: str, tmp_path: Path) -> None:
    with KINDS[kind]() as running:
        scene = Scene(running.url, tmp_path, running.client())  # type: ignore[arg-type]
        as_agent = replace(scene.settings, connection=impatient(running.agent_options))
        as_cj = replace(scene.settings, connection=impatient(running.options))
        with scene, Server.connect(running.url, as_cj.connection) as server:
            passing = Passing(scene, server, running.url, as_cj)
            scene.agent(settings=as_agent).say("serve")
            cj = passing.cj()
            cj.say("pass_on", "t", passing.store(BIG))
            _, result, _ = cj.hear("result")
            cj.say("release", True)
            cj.hear("released")
            assert np.array_equal(passing.array(result), BIG)


def impatient(options: ConnectionOptions) -> ConnectionOptions:
    return replace(options, socket_timeout=2.0, connect_timeout=2.0)


def test_a_cj_killed_before_it_hands_the_result_over_gives_the_same_one_when_it_restarts(passing: Passing) -> None:
    payload = passing.store(BIG)
    passing.scene.agent().say("serve")
    doomed = passing.cj(wait_at="after:settle")
    doomed.say("pass_on", "t", payload)
    doomed.hear("at")
    doomed.kill()
    successor = passing.cj()
    successor.say("pass_on", "t", payload)
    _, result, _ = successor.hear("result")
    assert np.array_equal(passing.array(result), BIG)
    successor.say("release", True)
    successor.hear("released")
    successor.say("pass_on", "t2", payload)
    successor.hear("result")
    assert passing.life(result) > 0
    assert passing.scene.works() == [("t", 1), ("t2", 1)]
    passing.remove(result)
    passing.remove()
    passing.scene.assert_nothing_is_left()


def test_a_result_lives_for_as_long_as_the_cj_has_it_and_not_longer(passing: Passing) -> None:
    passing.scene.agent().say("serve")
    cj = passing.cj()
    cj.say("pass_on", "t", passing.store(BIG))
    _, result, _ = cj.hear("result")
    wait_until(lambda: passing.life(result) < RETENTION - 0.5)
    wait_until(lambda: passing.life(result) > RETENTION - 0.5)
    passing.remove()
    passing.scene.assert_nothing_is_left()


def test_a_model_that_redis_lost_is_asked_for_at_the_server_and_sent_again(passing: Passing) -> None:
    cj = passing.cj()
    cj.say("pass_on", "t", passing.store(BIG))
    passing.scene.until("t", "NEW")
    passing.scene.client.flushall()
    passing.scene.agent().say("serve")
    assert cj.hear("failed") == ("t", "BLOB_MISSING")
    cj.say("pass_on", "t", passing.store(BIG))
    _, result, _ = cj.hear("result")
    assert np.array_equal(passing.array(result), BIG)
    assert [task_id for task_id, _ in passing.scene.works()] == ["t"]
