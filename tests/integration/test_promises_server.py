"""What holds when the server is killed, frozen, or forgets everything, wherever a task stands."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer

from tests.support.link.processes import Scene, pause, resume
from tests.support.process.child import Child
from tests.support.waiting import wait_until

POINTS = ["NEW", "FETCHED", "SUBMITTED"]
#: Too large for an entry: such a result is accepted when it has been read, a small one while it is.
DATA = np.arange(40_000.0)


@dataclass
class Fragile:
    """A server that can be hurt, and the link on it."""

    server: EmbeddedServer
    scene: Scene
    data: Path

    def crash(self) -> None:
        """SIGKILL, and start again with what is on its disk."""
        self.server.kill()
        self.server.stop()
        self.server.start()

    def crash_and_lose_everything(self) -> None:
        """SIGKILL, and start again with an empty disk."""
        self.server.kill()
        self.server.stop()
        shutil.rmtree(self.data)
        self.server.start()

    def forget_everything(self) -> None:
        """FLUSHALL."""
        self.scene.client.flushall()

    def freeze(self) -> None:
        """SIGSTOP for longer than everybody's socket timeout; commands are resent meanwhile."""
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            never = redis.Redis.from_url(self.server.url, socket_timeout=1.2, retry=None)
            with never, pytest.raises(redis.TimeoutError):
                never.ping()
        finally:
            os.kill(self.server.pid, signal.SIGCONT)


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Fragile]:
    data = tmp_path / "server"
    with (
        EmbeddedServer(data, extra={"appendfsync": "always"}) as server,
        redis.Redis.from_url(server.url) as client,
        Scene(server.url, tmp_path, client) as scene,
    ):
        yield Fragile(server, scene, data)
        scene.assert_all_keys_end()


def bring_to(scene: Scene, point: str) -> tuple[Child, Child]:
    """A CJ and an agent with a task that stands at ``point``; the agent has it in hand from FETCHED on."""
    cj = scene.cj()
    if point == "NEW":
        cj.say("run", "t", DATA)
        scene.until("t", "NEW")
        return cj, scene.agent()
    agent = scene.agent()
    agent.say("get")
    cj.say("run", "t", DATA)
    agent.hear("task")
    if point == "SUBMITTED":
        pause(cj)
        agent.say("echo")
        scene.until("t", "SUBMITTED")
    return cj, agent


def finish(fragile: Fragile, point: str, cj: Child, agent: Child) -> None:
    """Go on from ``point`` to the result, and show that the next task works."""
    if point == "NEW":
        agent.say("serve")
    if point == "FETCHED":
        agent.say("echo")
    if point == "SUBMITTED":
        resume(cj)
    task_id, data = cj.hear("result")
    np.testing.assert_array_equal(data, DATA)
    assert agent.hear("submitted") == (True,)
    assert (task_id, fragile.scene.status("t")) == ("t", "ACCEPTED")
    if point != "NEW":
        agent.say("serve")
    cj.say("run", "next", 2)
    assert cj.hear("result") == ("next", 2)
    fragile.scene.assert_settled({"t": "ACCEPTED", "next": "ACCEPTED"})


@pytest.mark.parametrize("point", POINTS)
def test_a_server_with_its_file_that_crashes_costs_no_work(fragile: Fragile, point: str) -> None:
    cj, agent = bring_to(fragile.scene, point)
    fragile.crash()
    finish(fragile, point, cj, agent)


@pytest.mark.parametrize("point", POINTS)
def test_a_server_that_comes_back_empty_is_filled_again(fragile: Fragile, point: str) -> None:
    cj, agent = bring_to(fragile.scene, point)
    fragile.crash_and_lose_everything()
    finish(fragile, point, cj, agent)


@pytest.mark.parametrize("point", POINTS)
def test_a_server_that_forgets_everything_without_a_word_is_filled_again(fragile: Fragile, point: str) -> None:
    cj, agent = bring_to(fragile.scene, point)
    fragile.forget_everything()
    finish(fragile, point, cj, agent)


@pytest.mark.parametrize("point", POINTS)
def test_a_server_that_is_frozen_for_longer_than_the_socket_timeout_costs_no_work(fragile: Fragile, point: str) -> None:
    cj, agent = bring_to(fragile.scene, point)
    fragile.freeze()
    finish(fragile, point, cj, agent)


def test_steps_sent_to_a_frozen_server_and_resent_take_effect_once(fragile: Fragile) -> None:
    scene = fragile.scene
    cj, agent = scene.cj(), scene.agent()
    os.kill(fragile.server.pid, signal.SIGSTOP)
    cj.say("run", "t", {"x": 1})
    agent.say("get")
    # both have given up an answer, and have said so in their logs, before the server runs again
    wait_until(lambda: all("no answer within" in child.log_tail() for child in (cj, agent)))
    os.kill(fragile.server.pid, signal.SIGCONT)
    agent.hear("task")
    os.kill(fragile.server.pid, signal.SIGSTOP)
    agent.say("submit", "done")
    wait_until(lambda: "submit waits" in agent.log_tail())
    os.kill(fragile.server.pid, signal.SIGCONT)
    assert cj.hear("result") == ("t", "done")
    assert agent.hear("submitted") == (True,)
    scene.assert_settled({"t": "ACCEPTED"})
    assert scene.client.hget(scene.keys.task("t"), "attempt") == b"1"


def test_a_task_aborted_before_the_server_lost_everything_is_not_accepted(fragile: Fragile) -> None:
    scene = fragile.scene
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    cj.say("abort")
    cj.hear("failed")
    fragile.forget_everything()
    agent.say("submit", "too late")
    assert agent.hear("submitted") == (False,)
    agent.say("serve")
    cj.say("run", "next", 2)
    assert cj.hear("result") == ("next", 2)


def test_a_task_aborted_while_the_server_is_away_is_aborted_when_it_is_back(fragile: Fragile) -> None:
    scene = fragile.scene
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    fragile.server.kill()
    cj.say("abort")
    assert cj.hear("failed")[:2] == ("t", "TaskAborted")
    fragile.server.stop()
    fragile.server.start()
    agent.say("await_abort", 10)
    assert agent.hear("aborted") == (True,)
    scene.assert_settled({"t": "ABORTED"})


def test_a_server_that_is_away_when_both_sides_start_is_waited_for(fragile: Fragile) -> None:
    scene = fragile.scene
    fragile.server.kill()
    cj, agent = scene.cj(), scene.agent()
    agent.say("serve")
    cj.say("run", "t", {"x": 1})
    fragile.server.stop()
    fragile.server.start()
    assert cj.hear("result") == ("t", {"x": 1})
    scene.assert_settled({"t": "ACCEPTED"})
