"""The promises of a link when a running server refuses for a while: full memory, full disk, too many clients."""

# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.inspection.federation import Inspector
from redflare_broker.transport.server import Server
from redflare_workers import DXO, DataKind, Shareable
from redflare_workers.workflow import FedAvg

from tests.support.job.runs import JobRuns
from tests.support.link.processes import LinkProcesses, pause, resume
from tests.support.process.child import Child
from tests.support.waiting import wait_until

DATA = np.arange(40_000.0)
#: Refused commands, or connections, after which every side has met the refusal.
MANY = 8


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[LinkProcesses]:
    with (
        EmbeddedServer(tmp_path / "server", extra={"save": "3600 1"}) as server,
        redis.Redis.from_url(server.url) as client,
        LinkProcesses(server.url, tmp_path, client) as made,
    ):
        yield made


def refused(client: redis.Redis, word: str) -> int:
    """How many commands the server has refused with this word."""
    stats = client.info("errorstats").get(f"errorstat_{word}", {})
    return int(stats["count"]) if stats else 0


def config(client: redis.Redis, name: str) -> str:
    return str(client.config_get(name)[name])


@contextlib.contextmanager
def setting(client: redis.Redis, name: str, value: int, word: str) -> Iterator[None]:
    before = config(client, name)
    client.config_set(name, value)
    yield
    wait_until(lambda: refused(client, word) >= MANY, what=f"{word} was answered {MANY} times")
    client.config_set(name, before)


def full_memory(client: redis.Redis) -> contextlib.AbstractContextManager[None]:
    return setting(client, "maxmemory", 1, "OOM")


def too_few_replicas(client: redis.Redis) -> contextlib.AbstractContextManager[None]:
    return setting(client, "min-replicas-to-write", 1, "NOREPLICAS")


@contextlib.contextmanager
def demoted(client: redis.Redis) -> Iterator[None]:
    client.replicaof("127.0.0.1", 1)
    yield
    wait_until(lambda: refused(client, "READONLY") >= MANY, what="READONLY was answered often")
    client.replicaof("NO", "ONE")


@contextlib.contextmanager
def full_disk(client: redis.Redis) -> Iterator[None]:
    """A snapshot that cannot be written, since a folder has its name."""
    obstacle = Path(config(client, "dir")) / config(client, "dbfilename")
    (obstacle / "in the way").mkdir(parents=True)
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    wait_until(lambda: refused(client, "MISCONF") >= MANY, what="MISCONF was answered often")
    (obstacle / "in the way").rmdir()
    obstacle.rmdir()
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok")


@contextlib.contextmanager
def too_many_clients(client: redis.Redis) -> Iterator[None]:
    """Every connection but this one is closed, and no other is let in."""

    def rejected() -> int:
        return int(client.info("stats")["rejected_connections"])

    before = config(client, "maxclients")
    client.config_set("maxclients", 1)
    client.client_kill_filter(skipme=True, _type="normal")
    client.client_kill_filter(skipme=True, _type="pubsub")
    yield
    wait_until(lambda: rejected() >= MANY, what="connections were rejected")
    client.config_set("maxclients", before)


FAULTS = [full_memory, full_disk, too_few_replicas, demoted, too_many_clients]
Fault = Callable[[redis.Redis], contextlib.AbstractContextManager[None]]
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)


def at_work(processes: LinkProcesses) -> tuple[Child, Child]:
    """Start a CJ and an agent that has its task in hand."""
    cj, agent = processes.cj(), processes.agent()
    agent.send("get")
    cj.send("run", "t", DATA)
    agent.receive("task")
    return cj, agent


def expect_result(processes: LinkProcesses, cj: Child, agent: Child) -> None:
    task_id, data = cj.receive("result")
    np.testing.assert_array_equal(data, DATA)
    assert (task_id, agent.receive("submitted")) == ("t", (True,))
    processes.assert_settled({"t": "ACCEPTED"}, {"t": 1})


@each_fault
def test_a_result_is_submitted_when_the_refusal_has_passed(processes: LinkProcesses, fault: Fault) -> None:
    cj, agent = at_work(processes)
    with fault(processes.client):
        agent.send("echo")
    expect_result(processes, cj, agent)


@each_fault
def test_a_result_is_accepted_when_the_refusal_has_passed(processes: LinkProcesses, fault: Fault) -> None:
    cj, agent = at_work(processes)
    pause(cj)
    agent.send("echo")
    processes.until("t", "SUBMITTED")
    with fault(processes.client):
        resume(cj)
    expect_result(processes, cj, agent)


@each_fault
def test_a_task_is_assigned_and_taken_when_the_refusal_has_passed(processes: LinkProcesses, fault: Fault) -> None:
    cj, agent = processes.cj(), processes.agent()
    agent.send("serve")
    cj.send("run", "first", 1)
    assert cj.receive("result") == ("first", 1)
    with fault(processes.client):
        cj.send("run", "t", 2)
    assert cj.receive("result") == ("t", 2)
    processes.assert_settled({"first": "ACCEPTED", "t": "ACCEPTED"}, {"first": 1, "t": 1})


def test_a_result_is_submitted_when_the_password_file_follows_the_server(
    processes: LinkProcesses, tmp_path: Path
) -> None:
    client, secret = processes.client, tmp_path / "password"
    secret.write_text("first")
    secret.chmod(0o600)
    connection = replace(processes.settings.connection, username="user", password_file=secret)
    processes.settings = replace(processes.settings, connection=connection)
    client.execute_command("ACL", "SETUSER", "user", "on", ">first", "~*", "&*", "+@all")
    cj, agent = at_work(processes)
    client.execute_command("ACL", "SETUSER", "user", "resetpass", ">second")
    client.execute_command("CLIENT", "KILL", "USER", "user")
    agent.send("echo")
    denied = "acl_access_denied_auth"
    wait_until(lambda: client.info("stats")[denied] >= MANY, what="logins were refused")
    secret.write_text("second")
    expect_result(processes, cj, agent)


def test_a_pair_that_starts_when_there_are_too_many_clients_waits(processes: LinkProcesses) -> None:
    with too_many_clients(processes.client):
        cj, agent = processes.cj(), processes.agent()
        agent.send("serve")
        cj.send("run", "t", 1)
    assert cj.receive("result") == ("t", 1)


# -- a round whose results do not fit --------------------------------------------------------------------------------


def test_results_that_do_not_fit_are_seen_with_figures_and_the_round_goes_on_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = 4_000_000

    def work(*_: object) -> Shareable:
        return DXO(DataKind.WEIGHTS, {"w": np.zeros(size // 8)}, {"NUM_STEPS_CURRENT_ROUND": 1}).to_shareable()

    with (
        caplog.at_level(logging.WARNING),
        EmbeddedServer(tmp_path) as server,
        redis.Redis.from_url(server.url) as client,
        Server.connect(server.url) as connected,
        JobRuns(url=server.url) as runs,
    ):
        # for the model, the controller's state and a result
        most = client.info("memory")["used_memory"] + round(3.5 * size)
        client.config_set("maxmemory", most)
        inspector = Inspector(connected)
        runs.serve(FedAvg(initial_model={"w": np.zeros(size // 8)}, min_clients=3, num_rounds=1), job_id="job")
        for name in ("site-1", "site-2", "site-3"):
            runs.join(name, work, job_id="job")

        waits = wait_until(lambda: inspector.status().no_room, 20, "somebody waits for room")
        assert {wait.nbytes for wait in waits} == {size}
        assert {wait.fqcn for wait in waits} <= {"site-1.job", "site-2.job", "site-3.job"}
        assert all(size < wait.used <= 2 * most and wait.most == most for wait in waits)
        [job] = wait_until(lambda: [job for job in inspector.jobs.all() if job.trouble], 20, "the job shows it")
        assert "4.0 MB do not fit into Redis" in job.trouble
        assert "its result of 4.0 MB does not fit into Redis" in job.waiting
        assert any("a payload of 4.0 MB does not fit" in text and "are in use" in text for text in caplog.messages)

        client.config_set("maxmemory", 100 * size)
        assert runs.outcome().status == "FINISHED:COMPLETED"
        assert inspector.status().no_room == ()


def test_an_agents_result_that_does_not_fit_is_seen_as_one_wait_until_it_does(processes: LinkProcesses) -> None:
    data = np.zeros(500_000)
    cj, agent = processes.cj(), processes.agent()
    agent.send("get")
    cj.send("run", "t", data)
    agent.receive("task")
    # the task's payload stays until its result is accepted
    most = processes.client.info("memory")["used_memory"] + data.nbytes // 2
    processes.client.config_set("maxmemory", most)
    agent.send("echo")
    with Server.connect(processes.url) as server:
        inspector = Inspector(server)
        wait_until(lambda: any(wait.seconds > 1 for wait in inspector.status().no_room), what="a wait of some attempts")
        [wait] = inspector.status().no_room
        assert (wait.fqcn, wait.nbytes, wait.most) == (processes.keys.fqcn, data.nbytes, most)
        processes.client.config_set("maxmemory", 0)
        assert cj.receive("result")[0] == "t"
        assert inspector.status().no_room == ()
