"""What clients of Sentinels do when another server becomes the primary."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import Unavailable
from redflare_broker.link.session import Session
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.transport.server import Server
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership

from tests.support.paths import ROOT
from tests.support.redis_server import kinds
from tests.support.redis_server.sentinels import SentinelTrio
from tests.support.waiting import wait_until

SETTINGS = LinkSettings(namespace="ns")


@pytest.fixture
def trio() -> Iterator[SentinelTrio]:
    with kinds.sentinel() as running:
        yield running


def test_goodbyes_go_to_the_primary_of_the_moment(trio: SentinelTrio) -> None:
    """The old primary slept through the failover; idle connections to it work, and it thinks that it is the primary."""
    with Server.connect(trio.url) as server, CellHost("site-2", "job", redis_url=trio.url, settings=SETTINGS) as host:
        session = Session(server, "site-1--trainer", "agent", SETTINGS)
        session.open_connection()
        session.drop_connection()
        cell = Cell(server, "site-1.job", SETTINGS)
        cell.start()
        member = Membership(host, "server.job", "site-2", {}, lambda _: None)
        member.join(lambda: "")
        with server.borrow(session.keys.link), host.server.borrow(member.route):
            pass  # both have an idle connection
        with trio.slept_through_a_failover():
            session.bye()
            cell.stop()
            member.leave()
            with trio.client() as client:
                assert client.hget(session.keys.link, "agent_closed") not in (None, b"0")
                assert client.hget(cell.keys.cell, "closed") not in (None, b"0")
                assert b'"left":0' not in client.hget("ns:{server.job}:clients", "site-2")


def test_a_process_leaves_a_primary_that_was_replaced_while_it_slept(trio: SentinelTrio) -> None:
    """It answers again and does not know it yet: nothing is written to it, and nobody waits at it."""
    with Server.connect(trio.url) as server:
        beats = Heartbeats(server)
        session = Session(server, "site-1--trainer", "agent", SETTINGS)
        session.open_connection()
        beats.start()
        try:
            with ThreadPoolExecutor() as threads, server.borrow("any") as lent:
                reading = threads.submit(session.read, session.keys.tasks, "0", 20.0)
                with trio.slept_through_a_failover() as old:
                    with pytest.raises(Unavailable, match="interrupted"):
                        reading.result(5)
                    assert str(old.port) in lent.node
                    wait_until(lambda: lent.interrupted, 5)
                    assert old.info("replication")["role"] == "master"
                    assert str(trio.primary.port) in session.open_connection().node
        finally:
            session.drop_connection()
            beats.stop()


# -- operators' commands -----------------------------------------------------------------------------------------------

MEANS = str(ROOT / "examples" / "operate" / "means")
#: Commands, one after the other, and the exit code of each.
COMMANDS = {
    f"job submit {MEANS} --id job-1": 0,
    "job list": 0,
    "job show job-1": 0,
    "job log job-1": 0,
    "job abort job-1": 0,
    "job delete job-1": 0,
    "task t-1": 1,
    "dead list": 1,
    "status": 1,
}


def redflare(command: str, url: str) -> subprocess.Popen[str]:
    """Start a command, and return it when it has written the first line about itself."""
    running = subprocess.Popen(
        [sys.executable, "-m", "redflare_workers.cli", *command.split(), "--url", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    assert "Trying again for 15 s." in running.stderr.readline()
    return running


def test_commands_wait_for_a_server_that_is_started_again() -> None:
    with kinds.embedded(durable=True) as node:
        for command, code in COMMANDS.items():
            node.kill()
            running = redflare(command, node.url)
            node.restart()
            output, errors = running.communicate(timeout=30)
            assert running.returncode == code, (command, output, errors)


def test_commands_go_on_with_the_next_primary(trio: SentinelTrio) -> None:
    trio.notice_after(60.0)
    trio.primary.kill()
    submission = redflare(f"job submit {MEANS} --id job-1", trio.url)
    trio.notice_after(1.0)
    assert submission.communicate(timeout=60)[0].strip() == "job-1"
    assert submission.returncode == 0
    with trio.client() as client:
        assert client.hget("flare:{server}:job:job-1:record", "status") == b"SUBMITTED"
