"""What clients of Sentinels do when another server becomes the primary."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import Unavailable
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.link.session import Session
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.transport.server import Server
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership

from tests.support.link.steps import LinkSteps
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
                assert b'"left":0' not in client.get("ns:{server.job}:client:site-2")


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

CLI = [sys.executable, "-m", "redflare_workers.cli"]
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
        [*CLI, *command.split(), "--url", url],
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


class Following:
    """A command that follows something, and the lines that it writes."""

    def __init__(self, command: str, url: str) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [*CLI, *command.split(), "--url", url],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def expect(self, text: str) -> None:
        """Wait for a line with this text."""
        seen = []
        try:
            while text not in (line := self._lines.get(timeout=20)):
                seen.append(line)
        except queue.Empty:
            raise AssertionError(f"no line with {text!r}, but {seen}") from None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.communicate()


def test_commands_that_follow_leave_a_primary_that_was_replaced_while_it_slept(trio: SentinelTrio) -> None:
    submit = [*CLI, "job", "submit", MEANS, "--id", "job-1", "--url", trio.url]
    subprocess.run(submit, check=True)
    with Server.connect(trio.url) as server:
        LinkSteps(server).hello("cj", "cj-host:101:c")
    with (
        Following("tail site-1--trainer --json", trio.url) as tail,
        Following("status --watch --json", trio.url) as status,
        Following("job log job-1 --follow", trio.url) as log,
    ):
        tail.expect("CJ cj-host:101")
        status.expect("site-1--trainer")
        log.expect("SUBMITTED")
        with trio.slept_through_a_failover() as old, Server.connect(trio.url) as server:
            link = LinkSteps(server)
            link.hello("cj", "cj-host:102:d")
            link.assign("t-new")
            JobStore(server, Keys("flare")).append_log("job-1", "site-1", ["a new line"])
            tail.expect("t-new")
            status.expect("t-new")
            log.expect("a new line")
            assert old.info("replication")["role"] == "master"


def test_commands_go_on_with_the_next_primary(trio: SentinelTrio) -> None:
    trio.notice_after(60.0)
    trio.primary.kill()
    submission = redflare(f"job submit {MEANS} --id job-1", trio.url)
    trio.notice_after(1.0)
    assert submission.communicate(timeout=60)[0].strip() == "job-1"
    assert submission.returncode == 0
    with trio.client() as client:
        assert client.hget("flare:{server}:job:job-1:record", "status") == b"SUBMITTED"
