"""The link works the same on every kind of server, a failover in the middle of a task included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redflare_broker.transport.server import ConnectionOptions

from tests.support.link.processes import Scene
from tests.support.process.child import Child
from tests.support.redis_server.cluster import Cluster
from tests.support.redis_server.kinds import KINDS, AnyServer
from tests.support.redis_server.sentinels import SentinelTrio
from tests.support.waiting import wait_until

BIG = {"w": np.arange(375_000.0)}  # 3 MB


class AnyScene(Scene):
    """A scene on any kind of server, whose agents and CJs may be different users of it."""

    def __init__(self, server: AnyServer, folder: Path) -> None:
        # on a cluster redis-py's other client stands in; it has the same methods
        super().__init__(server.url, folder, server.client())  # type: ignore[arg-type]
        self.server = server
        self._as_agent = replace(self.settings, connection=_impatient(server.agent_options))
        self._as_cj = replace(self.settings, connection=_impatient(server.options))

    def agent(self, **args: Any) -> Child:
        return super().agent(**{"settings": self._as_agent, **args})

    def cj(self, **args: Any) -> Child:
        return super().cj(**{"settings": self._as_cj, **args})


def _impatient(options: ConnectionOptions) -> ConnectionOptions:
    return replace(options, socket_timeout=0.5, connect_timeout=0.5)


@contextmanager
def scene_on(server: AnyServer, folder: Path) -> Iterator[AnyScene]:
    """A scene that leaves nothing behind, so that the next test can use the same names."""
    with AnyScene(server, folder) as scene:
        yield scene
        scene.assert_all_keys_end()
        scene.close()
        for key in scene.own_keys():
            scene.client.unlink(key)
        scene.client.close()


@pytest.fixture(scope="module", params=list(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    with KINDS[request.param]() as running:
        yield running


@pytest.fixture
def scene(server: AnyServer, tmp_path: Path) -> Iterator[AnyScene]:
    with scene_on(server, tmp_path) as made:
        yield made


def test_tasks_go_there_and_back_small_and_large(scene: AnyScene) -> None:
    cj, agent = scene.cj(), scene.agent()
    agent.say("serve")
    cj.say("run", "small", {"x": [1, None, "ä"], "b": b"\x00\xff"})
    assert cj.hear("result") == ("small", {"x": [1, None, "ä"], "b": b"\x00\xff"})
    cj.say("run", "large", BIG)
    np.testing.assert_array_equal(cj.hear("result")[1]["w"], BIG["w"])
    cj.say("run", "last", 3)
    assert cj.hear("result") == ("last", 3)
    wait_until(lambda: not [key for key in scene.own_keys() if ":blob:" in key])
    assert scene.works() == [("small", 1), ("large", 1), ("last", 1)]


def test_an_abort_reaches_the_agent_and_the_next_task_works(scene: AnyScene) -> None:
    cj = scene.cj()
    cj.say("run", "t", 1)
    agent = scene.agent_with_task()
    cj.say("abort")
    agent.say("await_abort", 10)
    assert agent.hear("aborted") == (True,)
    assert cj.hear("failed")[:2] == ("t", "TaskAborted")
    cj.say("run", "next", 2)
    agent.say("serve")
    assert cj.hear("result") == ("next", 2)
    scene.assert_settled({"t": "ABORTED", "next": "ACCEPTED"})


def test_an_agent_and_a_cj_that_restart_finish_the_task(scene: AnyScene) -> None:
    cj = scene.cj()
    cj.say("run", "t", BIG)
    scene.agent_with_task().kill()
    cj.kill()
    successor = scene.cj()
    successor.say("run", "t", BIG)
    scene.agent().say("serve")
    np.testing.assert_array_equal(successor.hear("result")[1]["w"], BIG["w"])
    assert scene.works() == [("t", 1), ("t", 2)]


def test_garbage_in_both_streams_goes_to_the_dead_letters(scene: AnyScene) -> None:
    for stream in (scene.keys.tasks, scene.keys.results):
        scene.client.xadd(stream, {"hello": b"\xff not ours"})
        scene.client.pexpire(stream, 6_000)
    cj, agent = scene.cj(), scene.agent()
    agent.say("serve")
    cj.say("run", "t", 1)
    assert cj.hear("result") == ("t", 1)
    wait_until(lambda: scene.client.xlen(scene.keys.dead) == 2)
    scene.assert_settled({"t": "ACCEPTED"})


@pytest.mark.parametrize("point", ["FETCHED", "SUBMITTED"])
def test_a_connection_that_is_killed_in_the_middle_of_a_task_costs_no_work(scene: AnyScene, point: str) -> None:
    cj = scene.cj()
    cj.say("run", "t", BIG)
    agent = scene.agent_with_task()
    kill_connections(scene)
    agent.say("echo")
    if point == "SUBMITTED":
        scene.until("t", "SUBMITTED", "ACCEPTED")
        kill_connections(scene)
    np.testing.assert_array_equal(cj.hear("result")[1]["w"], BIG["w"])
    assert agent.hear("submitted") == (True,)
    assert scene.works() == [("t", 1)]


def kill_connections(scene: AnyScene) -> None:
    """End every connection but the test's own, on all nodes."""
    nodes = scene.server.nodes if isinstance(scene.server, Cluster | SentinelTrio) else [scene.server]
    for node in nodes:
        with node.client() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


# -- failover: each breaks its server, so each has one of its own ------------------------------------------------------


@pytest.fixture(params=["cluster", "sentinel"])
def failing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyScene]:
    with KINDS[request.param]() as running, scene_on(running, tmp_path) as made:
        yield made


def fail_over(scene: AnyScene) -> None:
    """SIGKILL the primary that holds the link; returns when its replica has taken over."""
    if isinstance(scene.server, Cluster):
        scene.server.failover(scene.keys.link)
    else:
        trio = scene.server
        assert isinstance(trio, SentinelTrio)
        old = trio.primary
        old.kill()
        [new] = [node for node in trio.nodes if node is not old]
        wait_until(lambda: new.info("replication")["role"] == "master" and trio.primary is new, 30, "the failover")
    scene.client.close()
    scene.client = scene.server.client()  # type: ignore[assignment]


def replicated(scene: AnyScene) -> None:
    """Wait until a replica has all that was written: what it has not can be lost."""
    nodes = scene.server.nodes if isinstance(scene.server, Cluster | SentinelTrio) else []
    for node in nodes:
        with node.client() as client:
            role = client.execute_command("ROLE")
            if role[0] in (b"master", "master") and role[2]:
                assert client.execute_command("WAIT", 1, 5_000) >= 1


def test_a_failover_while_the_agent_works_costs_no_work(failing: AnyScene) -> None:
    cj = failing.cj()
    cj.say("run", "t", BIG)
    agent = failing.agent_with_task()
    replicated(failing)
    fail_over(failing)
    agent.say("echo")
    np.testing.assert_array_equal(cj.hear("result", 30)[1]["w"], BIG["w"])
    assert agent.hear("submitted") == (True,)
    agent.say("serve")
    cj.say("run", "next", 2)
    assert cj.hear("result") == ("next", 2)
    assert failing.works() == [("t", 1), ("next", 1)]


def test_a_failover_while_a_result_waits_costs_no_work(failing: AnyScene) -> None:
    first = failing.cj()
    first.say("run", "t", 1)
    agent = failing.agent_with_task()
    first.kill()
    agent.say("submit", "done")
    failing.until("t", "SUBMITTED")
    replicated(failing)
    fail_over(failing)
    cj = failing.cj()
    cj.say("run", "t", 1)
    assert cj.hear("result", 30) == ("t", "done")
    assert agent.hear("submitted", 30) == (True,)
    assert failing.works() == [("t", 1)]
