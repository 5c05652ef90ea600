"""The promises of a link when the network breaks, slows down, or drops all data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.link.processes import LinkProcesses
from tests.support.process.child import Child
from tests.support.redis_server.proxy import Proxy, proxy
from tests.support.waiting import wait_until

#: Seconds by which data is delayed: within the socket timeout, and beyond it.
SLOW, TOO_SLOW = 0.1, 0.8
BREAKS = ["drop", "too slow", "half open"]


@pytest.fixture
def cable(processes: LinkProcesses) -> Iterator[Proxy]:
    """A proxy to the server, whose connections can be cut."""
    with proxy(processes.url) as laid:
        yield laid


def cut(cable: Proxy, how: str) -> None:
    if how == "drop":
        cable.drop()
    elif how == "too slow":
        cable.delay(TOO_SLOW)
    else:
        cable.half_open()


def wait_for_log(child: Child, words: str) -> None:
    """Wait until the child has logged that its server is unreachable."""
    wait_until(lambda: words in child.log_tail(), 15, f"{words!r} in the log")


@pytest.mark.parametrize("how", BREAKS)
def test_an_agent_gets_its_task_after_a_broken_connection(processes: LinkProcesses, cable: Proxy, how: str) -> None:
    cj, agent = processes.cj(), processes.agent(url=cable.url)
    agent.send("serve")
    cj.send("run", "first", 1)
    assert cj.receive("result") == ("first", 1)
    cut(cable, how)
    cj.send("run", "t", {"x": 1})
    processes.until("t", "NEW", "FETCHED")
    wait_for_log(agent, "no heartbeat")
    cable.pass_through()
    assert cj.receive("result") == ("t", {"x": 1})
    processes.assert_settled({"first": "ACCEPTED", "t": "ACCEPTED"})


@pytest.mark.parametrize("how", BREAKS)
def test_a_result_is_submitted_once_after_a_broken_connection(processes: LinkProcesses, cable: Proxy, how: str) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task(url=cable.url)
    cut(cable, how)
    agent.send("submit", np.arange(100_000.0))
    wait_for_log(agent, "will be submitted again")
    cable.pass_through()
    np.testing.assert_array_equal(cj.receive("result")[1], np.arange(100_000.0))
    assert agent.receive("submitted") == (True,)
    assert processes.executions() == [("t", 1)]
    agent.send("serve")
    cj.send("run", "next", 2)
    assert cj.receive("result") == ("next", 2)


@pytest.mark.parametrize("how", BREAKS)
def test_a_cj_gets_its_result_after_a_broken_connection(processes: LinkProcesses, cable: Proxy, how: str) -> None:
    cj = processes.cj(url=cable.url)
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    cut(cable, how)
    agent.send("submit", "done")
    processes.until("t", "SUBMITTED", "ACCEPTED")
    wait_for_log(cj, "no heartbeat")
    cable.pass_through()
    assert cj.receive("result") == ("t", "done")
    assert agent.receive("submitted") == (True,)
    processes.assert_settled({"t": "ACCEPTED"})


@pytest.mark.parametrize("how", BREAKS)
def test_a_task_is_assigned_once_after_a_broken_connection(processes: LinkProcesses, cable: Proxy, how: str) -> None:
    cj, agent = processes.cj(url=cable.url), processes.agent()
    agent.send("serve")
    cut(cable, how)
    cj.send("run", "t", {"w": np.arange(100_000.0)})
    wait_for_log(cj, "waits for Redis")
    cable.pass_through()
    np.testing.assert_array_equal(cj.receive("result")[1]["w"], np.arange(100_000.0))
    assert processes.executions() == [("t", 1)]
    processes.assert_all_keys_expire()


@pytest.mark.parametrize("how", BREAKS)
def test_an_abort_published_while_the_agents_connection_is_broken_is_received_later(
    processes: LinkProcesses, cable: Proxy, how: str
) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task(url=cable.url)
    cut(cable, how)
    cj.send("abort")
    cj.receive("failed")
    cable.pass_through()
    agent.send("await_abort", 10)
    assert agent.receive("aborted") == (True,)
    agent.send("submit", "too late")
    assert agent.receive("submitted") == (False,)
    processes.assert_settled({"t": "ABORTED"})


def test_an_abort_during_the_cjs_broken_connection_is_sent_later(processes: LinkProcesses, cable: Proxy) -> None:
    cj = processes.cj(url=cable.url)
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    cable.drop()
    cj.send("abort")
    assert cj.receive("failed")[:2] == ("t", "TaskAborted")
    cable.pass_through()
    agent.send("await_abort", 10)
    assert agent.receive("aborted") == (True,)
    processes.assert_settled({"t": "ABORTED"})


def test_a_slow_connection_on_both_sides_only_costs_time(processes: LinkProcesses, cable: Proxy) -> None:
    cj, agent = processes.cj(url=cable.url), processes.agent(url=cable.url)
    cable.delay(SLOW)
    agent.send("serve")
    for number in range(2):
        cj.send("run", f"t{number}", {"w": np.arange(20_000.0)})
        assert cj.receive("result")[0] == f"t{number}"
    assert processes.executions() == [("t0", 1), ("t1", 1)]


def test_an_agent_that_was_replaced_while_its_connection_was_broken_is_fenced(
    processes: LinkProcesses, cable: Proxy
) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    older = processes.agent_with_task(url=cable.url)
    cable.half_open()
    older.send("submit", "stale")
    newer = processes.agent_with_task()
    cable.pass_through()
    assert "newer instance" in older.receive("closed")[0]
    newer.send("submit", "fresh")
    assert cj.receive("result") == ("t", "fresh")
    processes.assert_settled({"t": "ACCEPTED"}, executions={"t": 2})
