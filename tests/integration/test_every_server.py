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

from tests.support.link.processes import LinkProcesses
from tests.support.process.child import Child
from tests.support.redis_server.cluster import Cluster
from tests.support.redis_server.kinds import KINDS, AnyServer
from tests.support.redis_server.sentinels import SentinelTrio
from tests.support.waiting import wait_until

BIG = {"w": np.arange(375_000.0)}  # 3 MB


class LinkProcessesAsUsers(LinkProcesses):
    """Processes on any kind of server, whose agents and CJs may be different users of it."""

    def __init__(self, server: AnyServer, folder: Path) -> None:
        # on a cluster it is redis-py's other client, which has the same methods
        super().__init__(server.url, folder, server.client())  # type: ignore[arg-type]
        self.server = server
        self._as_agent = replace(self.settings, connection=_with_short_timeouts(server.agent_options))
        self._as_cj = replace(self.settings, connection=_with_short_timeouts(server.options))

    def agent(self, **args: Any) -> Child:
        return super().agent(**{"settings": self._as_agent, **args})

    def cj(self, **args: Any) -> Child:
        return super().cj(**{"settings": self._as_cj, **args})


def _with_short_timeouts(options: ConnectionOptions) -> ConnectionOptions:
    return replace(options, socket_timeout=0.5, connect_timeout=0.5)


@contextmanager
def processes_on(server: AnyServer, folder: Path) -> Iterator[LinkProcessesAsUsers]:
    """Processes of a link; all keys are deleted afterwards, so that the next test can use the same names."""
    with LinkProcessesAsUsers(server, folder) as processes:
        yield processes
        processes.assert_all_keys_expire()
        processes.close()
        for key in processes.own_keys():
            processes.client.unlink(key)
        processes.client.close()


@pytest.fixture(scope="module", params=list(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    with KINDS[request.param]() as running:
        yield running


@pytest.fixture
def processes(server: AnyServer, tmp_path: Path) -> Iterator[LinkProcessesAsUsers]:
    with processes_on(server, tmp_path) as made:
        yield made


def test_small_and_large_tasks_are_completed(processes: LinkProcessesAsUsers) -> None:
    cj, agent = processes.cj(), processes.agent()
    agent.send("serve")
    cj.send("run", "small", {"x": [1, None, "ä"], "b": b"\x00\xff"})
    assert cj.receive("result") == ("small", {"x": [1, None, "ä"], "b": b"\x00\xff"})
    cj.send("run", "large", BIG)
    np.testing.assert_array_equal(cj.receive("result")[1]["w"], BIG["w"])
    cj.send("run", "last", 3)
    assert cj.receive("result") == ("last", 3)
    wait_until(lambda: not [key for key in processes.own_keys() if ":blob:" in key])
    assert processes.executions() == [("small", 1), ("large", 1), ("last", 1)]


def test_an_abort_reaches_the_agent_and_the_next_task_works(processes: LinkProcessesAsUsers) -> None:
    cj = processes.cj()
    cj.send("run", "t", 1)
    agent = processes.agent_with_task()
    cj.send("abort")
    agent.send("await_abort", 10)
    assert agent.receive("aborted") == (True,)
    assert cj.receive("failed")[:2] == ("t", "TaskAborted")
    cj.send("run", "next", 2)
    agent.send("serve")
    assert cj.receive("result") == ("next", 2)
    processes.assert_settled({"t": "ABORTED", "next": "ACCEPTED"})


def test_an_agent_and_a_cj_that_restart_finish_the_task(processes: LinkProcessesAsUsers) -> None:
    cj = processes.cj()
    cj.send("run", "t", BIG)
    processes.agent_with_task().kill()
    cj.kill()
    successor = processes.cj()
    successor.send("run", "t", BIG)
    processes.agent().send("serve")
    np.testing.assert_array_equal(successor.receive("result")[1]["w"], BIG["w"])
    assert processes.executions() == [("t", 1), ("t", 2)]


def test_invalid_entries_in_both_streams_are_buried(processes: LinkProcessesAsUsers) -> None:
    for stream in (processes.keys.tasks, processes.keys.results):
        processes.client.xadd(stream, {"hello": b"\xff not ours"})
        processes.client.pexpire(stream, 6_000)
    cj, agent = processes.cj(), processes.agent()
    agent.send("serve")
    cj.send("run", "t", 1)
    assert cj.receive("result") == ("t", 1)
    wait_until(lambda: processes.client.xlen(processes.keys.dead) == 2)
    processes.assert_settled({"t": "ACCEPTED"})


@pytest.mark.parametrize("point", ["FETCHED", "SUBMITTED"])
def test_a_connection_that_is_killed_in_the_middle_of_a_task_costs_no_work(
    processes: LinkProcessesAsUsers, point: str
) -> None:
    cj = processes.cj()
    cj.send("run", "t", BIG)
    agent = processes.agent_with_task()
    kill_connections(processes)
    agent.send("echo")
    if point == "SUBMITTED":
        processes.until("t", "SUBMITTED", "ACCEPTED")
        kill_connections(processes)
    np.testing.assert_array_equal(cj.receive("result")[1]["w"], BIG["w"])
    assert agent.receive("submitted") == (True,)
    assert processes.executions() == [("t", 1)]


def kill_connections(processes: LinkProcessesAsUsers) -> None:
    """Close every connection but the test's own, on all nodes."""
    nodes = processes.server.nodes if isinstance(processes.server, Cluster | SentinelTrio) else [processes.server]
    for node in nodes:
        with node.client() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


# -- failover: each breaks its server, so each has one of its own ------------------------------------------------------


@pytest.fixture(params=["cluster", "sentinel"])
def failing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LinkProcessesAsUsers]:
    with KINDS[request.param]() as running, processes_on(running, tmp_path) as made:
        yield made


def fail_over(processes: LinkProcessesAsUsers) -> None:
    """SIGKILL the primary of the link's slot; return when its replica has taken over."""
    if isinstance(processes.server, Cluster):
        processes.server.failover(processes.keys.link)
    else:
        assert isinstance(processes.server, SentinelTrio)
        processes.server.failover()
    processes.client.close()
    processes.client = processes.server.client()  # type: ignore[assignment]


def replicated(processes: LinkProcessesAsUsers) -> None:
    """Wait until a replica has all writes: others can be lost."""
    nodes = processes.server.nodes if isinstance(processes.server, Cluster | SentinelTrio) else []
    for node in nodes:
        with node.client() as client:
            role = client.execute_command("ROLE")
            if role[0] in (b"master", "master") and role[2]:
                assert client.execute_command("WAIT", 1, 5_000) >= 1


def test_a_failover_while_the_agent_works_costs_no_work(failing: LinkProcessesAsUsers) -> None:
    cj = failing.cj()
    cj.send("run", "t", BIG)
    agent = failing.agent_with_task()
    replicated(failing)
    fail_over(failing)
    agent.send("echo")
    np.testing.assert_array_equal(cj.receive("result", 30)[1]["w"], BIG["w"])
    assert agent.receive("submitted") == (True,)
    agent.send("serve")
    cj.send("run", "next", 2)
    assert cj.receive("result") == ("next", 2)
    assert failing.executions() == [("t", 1), ("next", 1)]


def test_a_failover_while_a_result_waits_costs_no_work(failing: LinkProcessesAsUsers) -> None:
    first = failing.cj()
    first.send("run", "t", 1)
    agent = failing.agent_with_task()
    first.kill()
    agent.send("submit", "done")
    failing.until("t", "SUBMITTED")
    replicated(failing)
    fail_over(failing)
    cj = failing.cj()
    cj.send("run", "t", 1)
    assert cj.receive("result", 30) == ("t", "done")
    assert agent.receive("submitted", 30) == (True,)
    assert failing.executions() == [("t", 1)]
