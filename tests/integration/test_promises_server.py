"""The promises of a link when the server is killed, frozen, or loses all data, at any status of a task."""

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

from tests.support.link.processes import LinkProcesses, pause, resume
from tests.support.process.child import Child
from tests.support.waiting import wait_until

POINTS = ["NEW", "FETCHED", "SUBMITTED"]
#: Too large for an entry: a large result is accepted after it was read, a small one together with the read.
DATA = np.arange(40_000.0)


@dataclass
class FaultyServer:
    """A server that faults are injected into, and the link on it."""

    server: EmbeddedServer
    processes: LinkProcesses
    data: Path

    def crash(self) -> None:
        """SIGKILL, and restart with the data on its disk."""
        self.server.kill()
        self.server.stop()
        self.server.start()

    def crash_and_lose_everything(self) -> None:
        """SIGKILL, and restart with an empty disk."""
        self.server.kill()
        self.server.stop()
        shutil.rmtree(self.data)
        self.server.start()

    def lose_everything(self) -> None:
        """FLUSHALL."""
        self.processes.client.flushall()

    def freeze(self) -> None:
        """SIGSTOP for longer than the socket timeouts; commands are resent meanwhile."""
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            never = redis.Redis.from_url(self.server.url, socket_timeout=1.2, retry=None)
            with never, pytest.raises(redis.TimeoutError):
                never.ping()
        finally:
            os.kill(self.server.pid, signal.SIGCONT)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyServer]:
    data = tmp_path / "server"
    with (
        EmbeddedServer(data, extra={"appendfsync": "always"}) as server,
        redis.Redis.from_url(server.url) as client,
        LinkProcesses(server.url, tmp_path, client) as processes,
    ):
        yield FaultyServer(server, processes, data)
        processes.assert_all_keys_expire()


def bring_to(processes: LinkProcesses, point: str) -> tuple[Child, Child]:
    """Start a CJ and an agent with a task whose status is ``point``; from FETCHED on the agent has taken it."""
    cj = processes.cj()
    if point == "NEW":
        cj.send("run", "t", DATA)
        processes.until("t", "NEW")
        return cj, processes.agent()
    agent = processes.agent()
    agent.send("get")
    cj.send("run", "t", DATA)
    agent.receive("task")
    if point == "SUBMITTED":
        pause(cj)
        agent.send("echo")
        processes.until("t", "SUBMITTED")
    return cj, agent


def finish(faulty: FaultyServer, point: str, cj: Child, agent: Child) -> None:
    """Go on from ``point`` to the result, and check that the next task is executed."""
    if point == "NEW":
        agent.send("serve")
    if point == "FETCHED":
        agent.send("echo")
    if point == "SUBMITTED":
        resume(cj)
    task_id, data = cj.receive("result")
    np.testing.assert_array_equal(data, DATA)
    assert agent.receive("submitted") == (True,)
    assert (task_id, faulty.processes.status("t")) == ("t", "ACCEPTED")
    if point != "NEW":
        agent.send("serve")
    cj.send("run", "next", 2)
    assert cj.receive("result") == ("next", 2)
    faulty.processes.assert_settled({"t": "ACCEPTED", "next": "ACCEPTED"})


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_of_a_server_with_an_append_only_file_costs_no_execution(faulty: FaultyServer, point: str) -> None:
    cj, agent = bring_to(faulty.processes, point)
    faulty.crash()
    finish(faulty, point, cj, agent)


@pytest.mark.parametrize("point", POINTS)
def test_the_data_of_a_server_that_restarts_empty_is_written_again(faulty: FaultyServer, point: str) -> None:
    cj, agent = bring_to(faulty.processes, point)
    faulty.crash_and_lose_everything()
    finish(faulty, point, cj, agent)


@pytest.mark.parametrize("point", POINTS)
def test_data_lost_without_a_broken_connection_is_written_again(faulty: FaultyServer, point: str) -> None:
    cj, agent = bring_to(faulty.processes, point)
    faulty.lose_everything()
    finish(faulty, point, cj, agent)


@pytest.mark.parametrize("point", POINTS)
def test_a_server_frozen_for_longer_than_the_socket_timeout_costs_no_execution(
    faulty: FaultyServer, point: str
) -> None:
    cj, agent = bring_to(faulty.processes, point)
    faulty.freeze()
    finish(faulty, point, cj, agent)


def test_steps_sent_to_a_frozen_server_and_resent_take_effect_once(faulty: FaultyServer) -> None:
    processes = faulty.processes
    cj, agent = processes.cj(), processes.agent()
    os.kill(faulty.server.pid, signal.SIGSTOP)
    cj.send("run", "t", {"x": 1})
    agent.send("get")
    # both have logged that a reply timed out before the server runs again
    wait_until(lambda: all("no answer within" in child.log_tail() for child in (cj, agent)))
    os.kill(faulty.server.pid, signal.SIGCONT)
    agent.receive("task")
    os.kill(faulty.server.pid, signal.SIGSTOP)
    agent.send("submit", "done")
    wait_until(lambda: "will be submitted again" in agent.log_tail())
    os.kill(faulty.server.pid, signal.SIGCONT)
    assert cj.receive("result") == ("t", "done")
    assert agent.receive("submitted") == (True,)
    processes.assert_settled({"t": "ACCEPTED"})
    assert processes.client.hget(processes.keys.task("t"), "attempt") == b"1"


def test_a_task_aborted_before_the_server_lost_all_data_is_not_accepted(faulty: FaultyServer) -> None:
    processes = faulty.processes
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    cj.send("abort")
    cj.receive("failed")
    faulty.lose_everything()
    agent.send("submit", "too late")
    assert agent.receive("submitted") == (False,)
    agent.send("serve")
    cj.send("run", "next", 2)
    assert cj.receive("result") == ("next", 2)


def test_a_task_aborted_while_the_server_is_unreachable_is_aborted_later(faulty: FaultyServer) -> None:
    processes = faulty.processes
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    faulty.server.kill()
    cj.send("abort")
    assert cj.receive("failed")[:2] == ("t", "TaskAborted")
    faulty.server.stop()
    faulty.server.start()
    agent.send("await_abort", 10)
    assert agent.receive("aborted") == (True,)
    processes.assert_settled({"t": "ABORTED"})


def test_a_server_that_is_away_when_both_sides_start_is_waited_for(faulty: FaultyServer) -> None:
    processes = faulty.processes
    faulty.server.kill()
    cj, agent = processes.cj(), processes.agent()
    agent.send("serve")
    cj.send("run", "t", {"x": 1})
    faulty.server.stop()
    faulty.server.start()
    assert cj.receive("result") == ("t", {"x": 1})
    processes.assert_settled({"t": "ACCEPTED"})
