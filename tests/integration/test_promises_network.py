"""What holds when the network between a process and the server breaks, slows down, or swallows everything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.link.processes import Scene
from tests.support.process.child import Child
from tests.support.redis_server.proxy import Proxy, proxy
from tests.support.waiting import wait_until

#: Seconds a piece is late: within the socket timeout, and beyond it.
SLOW, TOO_SLOW = 0.1, 0.8
BREAKS = ["drop", "too slow", "half open"]


@pytest.fixture
def cable(scene: Scene) -> Iterator[Proxy]:
    """A cable to the server that can be cut."""
    with proxy(scene.url) as laid:
        yield laid


def cut(cable: Proxy, how: str) -> None:
    if how == "drop":
        cable.drop()
    elif how == "too slow":
        cable.delay(TOO_SLOW)
    else:
        cable.half_open()


def noticed(child: Child, words: str) -> None:
    """Wait until the child has said in its log that its server is away."""
    wait_until(lambda: words in child.log_tail(), 15, f"{words!r} in the log")


@pytest.mark.parametrize("how", BREAKS)
def test_an_agent_that_waits_behind_a_broken_cable_gets_its_task_when_it_is_mended(
    scene: Scene, cable: Proxy, how: str
) -> None:
    cj, agent = scene.cj(), scene.agent(url=cable.url)
    agent.say("serve")
    cj.say("run", "first", 1)
    assert cj.hear("result") == ("first", 1)
    cut(cable, how)
    cj.say("run", "t", {"x": 1})
    scene.until("t", "NEW", "FETCHED")
    noticed(agent, "no heartbeat")
    cable.pass_through()
    assert cj.hear("result") == ("t", {"x": 1})
    scene.assert_settled({"first": "ACCEPTED", "t": "ACCEPTED"})


@pytest.mark.parametrize("how", BREAKS)
def test_a_result_behind_a_broken_cable_is_handed_in_once_when_it_is_mended(
    scene: Scene, cable: Proxy, how: str
) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task(url=cable.url)
    cut(cable, how)
    agent.say("submit", np.arange(100_000.0))
    noticed(agent, "submit waits")
    cable.pass_through()
    np.testing.assert_array_equal(cj.hear("result")[1], np.arange(100_000.0))
    assert agent.hear("submitted") == (True,)
    assert scene.works() == [("t", 1)]
    agent.say("serve")
    cj.say("run", "next", 2)
    assert cj.hear("result") == ("next", 2)


@pytest.mark.parametrize("how", BREAKS)
def test_a_cj_that_waits_behind_a_broken_cable_gets_its_result_when_it_is_mended(
    scene: Scene, cable: Proxy, how: str
) -> None:
    cj = scene.cj(url=cable.url)
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    cut(cable, how)
    agent.say("submit", "done")
    scene.until("t", "SUBMITTED", "ACCEPTED")
    noticed(cj, "no heartbeat")
    cable.pass_through()
    assert cj.hear("result") == ("t", "done")
    assert agent.hear("submitted") == (True,)
    scene.assert_settled({"t": "ACCEPTED"})


@pytest.mark.parametrize("how", BREAKS)
def test_a_task_assigned_behind_a_broken_cable_stands_once_when_it_is_mended(
    scene: Scene, cable: Proxy, how: str
) -> None:
    cj, agent = scene.cj(url=cable.url), scene.agent()
    agent.say("serve")
    cut(cable, how)
    cj.say("run", "t", {"w": np.arange(100_000.0)})
    noticed(cj, "waits for Redis")
    cable.pass_through()
    np.testing.assert_array_equal(cj.hear("result")[1]["w"], np.arange(100_000.0))
    assert scene.works() == [("t", 1)]
    scene.assert_all_keys_end()


@pytest.mark.parametrize("how", BREAKS)
def test_an_abort_published_while_the_agents_cable_is_broken_is_learnt_afterwards(
    scene: Scene, cable: Proxy, how: str
) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task(url=cable.url)
    cut(cable, how)
    cj.say("abort")
    cj.hear("failed")
    cable.pass_through()
    agent.say("await_abort", 10)
    assert agent.hear("aborted") == (True,)
    agent.say("submit", "too late")
    assert agent.hear("submitted") == (False,)
    scene.assert_settled({"t": "ABORTED"})


def test_an_abort_behind_the_cjs_broken_cable_is_made_up_for(scene: Scene, cable: Proxy) -> None:
    cj = scene.cj(url=cable.url)
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    cable.drop()
    cj.say("abort")
    assert cj.hear("failed")[:2] == ("t", "TaskAborted")
    cable.pass_through()
    agent.say("await_abort", 10)
    assert agent.hear("aborted") == (True,)
    scene.assert_settled({"t": "ABORTED"})


def test_a_slow_cable_on_both_sides_only_costs_time(scene: Scene, cable: Proxy) -> None:
    cj, agent = scene.cj(url=cable.url), scene.agent(url=cable.url)
    cable.delay(SLOW)
    agent.say("serve")
    for number in range(2):
        cj.say("run", f"t{number}", {"w": np.arange(20_000.0)})
        assert cj.hear("result")[0] == f"t{number}"
    assert scene.works() == [("t0", 1), ("t1", 1)]


def test_an_agent_cut_off_while_another_takes_over_can_change_nothing_afterwards(scene: Scene, cable: Proxy) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    older = scene.agent_with_task(url=cable.url)
    cable.half_open()
    older.say("submit", "stale")
    newer = scene.agent_with_task()
    cable.pass_through()
    assert "newer instance" in older.hear("closed")[0]
    newer.say("submit", "fresh")
    assert cj.hear("result") == ("t", "fresh")
    scene.assert_settled({"t": "ACCEPTED"}, works={"t": 2})
