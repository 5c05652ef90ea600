"""Views and tails of a real Redis: pushed changes, expired keys, restarts and interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.inspection.federation import Inspector
from redflare_broker.inspection.tail import Tail
from redflare_broker.runtime.keyspace_feed import KeysChanged, KeyspaceFeed, KeyspaceMessage
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import Server

from tests.support.link.followed_tail import FollowedTail, follow_one_task
from tests.support.link.steps import LinkSteps


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def server(embedded: EmbeddedServer) -> Iterator[Server]:
    with Server.connect(embedded.url) as server:
        with server.borrow("x") as connection:
            connection.call("FLUSHALL")
        yield server


def test_a_tail_reports_every_step_of_a_task_as_it_happens(server: Server) -> None:
    link = LinkSteps(server)
    with FollowedTail(Tail(server, link.fqcn)) as events:
        follow_one_task(link, events)


def test_a_tail_reports_the_states_that_passed_before_it_read_the_ledger(server: Server) -> None:
    link = LinkSteps(server)
    link.both()
    with FollowedTail(Tail(server, link.fqcn)) as events:
        events.expect("cj", "connected")
        link.assign("t1")
        link.take("t1")
        link.submit("t1")
        link.settle("t1")
        times = [
            events.expect("ledger", f"^{status}").time_ms for status in ("NEW", "FETCHED", "SUBMITTED", "ACCEPTED")
        ]

        assert times == sorted(times)
        assert not [text for text in events.seen if "ledger: " in text][4:]


def test_a_tail_reports_aborts_connects_and_disconnects(server: Server) -> None:
    link = LinkSteps(server)
    link.both()
    link.assign("t1")
    with FollowedTail(Tail(server, link.fqcn)) as events:
        events.expect("ledger", "^NEW")
        link.abort("t1", "the round is over")
        events.expect("ledger", "^ABORTED: the round is over$")
        link.assign("t2")
        link.abort("t2", "again")
        assert events.expect("abort", "^abort t2$").task_id == "t2"
        link.bye("agent")
        events.expect("agent", r"no agent is connected \(it left\)")
        link.hello("agent", "agent-host:201:d")
        assert events.expect("notice", f"^hello agent {link.agent.epoch}$").task_id == ""
        assert "notice: bye agent" in events.seen


def test_a_tail_reports_a_heartbeat_that_expires(server: Server) -> None:
    link = LinkSteps(server)
    link.hello("agent", "agent-host:200:b")
    with server.borrow(link.keys.link) as connection:
        connection.call("HINCRBY", link.keys.link, "agent_since", -60_000)
    link.beat("agent", left_ms=200)
    with FollowedTail(Tail(server, link.fqcn)) as events:
        events.expect("agent", "agent agent-host:200 connected")
        events.expect("agent", r"no agent is connected \(last heartbeat 1 min ago\)")


def test_a_tail_reports_only_its_own_link(server: Server) -> None:
    link, other = LinkSteps(server), LinkSteps(server, "site-1--trainer2")
    with FollowedTail(Tail(server, link.fqcn)) as events:
        other.both()
        other.assign("t2")
        link.both()
        link.assign("t1")
        events.expect("ledger", "^NEW")

    assert "t2" not in str(events.seen)


def test_a_tail_continues_after_a_restart_of_redis() -> None:
    with (
        EmbeddedServer() as embedded,
        Server.connect(embedded.url) as watching,
        FollowedTail(Tail(watching, "site-1--trainer")) as events,
    ):
        with Server.connect(embedded.url) as server:
            link = LinkSteps(server)
            link.both()
            link.assign("t0")
        events.expect("ledger", "^NEW")
        embedded.kill()
        events.expect("server", "connection lost")
        embedded.stop()
        embedded.start()
        assert events.expect("ledger", "^LOST").task_id == "t0"
        with Server.connect(embedded.url) as server:
            follow_one_task(LinkSteps(server), events)


def test_a_tail_reports_how_an_open_task_ended_during_an_interruption(server: Server) -> None:
    link = LinkSteps(server)
    link.both()
    link.assign("t1")
    with FollowedTail(Tail(server, link.fqcn)) as events:
        events.expect("ledger", "^NEW")
        with server.borrow("x") as connection:
            connection.call("CLIENT", "KILL", "TYPE", "pubsub")
        link.abort("t1", "the round is over")
        events.expect("ledger", "^ABORTED: the round is over$")


def test_a_tail_reports_no_entry_again_after_an_interruption(server: Server) -> None:
    link = LinkSteps(server)
    link.both()
    link.assign("t1")
    with FollowedTail(Tail(server, link.fqcn)) as events:
        events.expect("task", "in the stream")
        with server.borrow("x") as connection:
            connection.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        events.expect("server", "connected again")
        link.abort("t1", "over")
        link.assign("t2")
        assert events.expect("task", "in the stream").task_id == "t2"


def test_a_tail_reports_an_agent_that_replaces_another_at_once(server: Server) -> None:
    link = LinkSteps(server)
    link.both()
    with FollowedTail(Tail(server, link.fqcn)) as events:
        events.expect("agent", "agent agent-host:200 connected")
        link.hello("agent", "other-host:300:c")
        events.expect("agent", "agent other-host:300 connected")


@pytest.mark.parametrize("verb", ["accepted", "rejected", "resend"])
def test_a_tail_tells_which_task_a_message_is_about(server: Server, verb: str) -> None:
    link = LinkSteps(server)
    link.both()
    with FollowedTail(Tail(server, link.fqcn)) as events, server.borrow("x") as connection:
        events.expect("agent", "connected")
        connection.call(server.publish, link.keys.notice, f"{verb} t1")
        assert events.expect("notice", f"^{verb} t1$").task_id == "t1"


def test_a_tail_does_not_call_a_settled_task_lost_whose_ledger_has_expired(server: Server) -> None:
    link = LinkSteps(server)
    with FollowedTail(Tail(server, link.fqcn)) as events, server.borrow("x") as connection:
        follow_one_task(link, events)
        connection.call("DEL", link.keys.task("t1"))
        link.bye("agent")
        events.expect("agent", "it left")
        assert not [text for text in events.seen if "LOST" in text]


def test_a_tail_reports_that_all_data_was_deleted(server: Server) -> None:
    link = LinkSteps(server)
    link.both()
    link.assign("t0")
    with FollowedTail(Tail(server, link.fqcn)) as events:
        events.expect("cj", "connected")
        events.expect("ledger", "^NEW")
        with server.borrow("x") as connection:
            connection.call("FLUSHALL")
        assert events.expect("ledger", "^LOST").task_id == "t0"
        follow_one_task(link, events)


def test_a_user_without_the_right_to_track_reads_the_ledger_at_the_next_wake_up(
    embedded: EmbeddedServer, server: Server
) -> None:
    with server.borrow("x") as connection:
        connection.call("ACL", "SETUSER", "reader", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    link = LinkSteps(server)
    link.both()
    url = embedded.url.replace("//", "//reader:pw@")
    with Server.connect(url) as reading, FollowedTail(Tail(reading, link.fqcn)) as events:
        events.expect("agent", "connected")
        link.assign("t1")
        link.take("t1")
        link.submit("t1")
        link.settle("t1")
        events.expect("ledger", "^ACCEPTED$")


def recorded(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """Return a list that the connections which a server opens from now on are added to."""
    opened: list[Connection] = []
    connection = server.connection

    def open_one(key: str) -> Connection:
        opened.append(connection(key))
        return opened[-1]

    monkeypatch.setattr(server, "connection", open_one)
    return opened


def test_a_user_without_the_right_to_subscribe_gets_an_error_and_leaves_no_connection(
    embedded: EmbeddedServer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.borrow("x") as connection:
        connection.call("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "resetchannels", "+@all")
    url = embedded.url.replace("//", "//deaf:pw@")
    with Server.connect(url) as deaf:
        opened = recorded(deaf, monkeypatch)
        with Tail(deaf, "site-1--trainer") as tail, pytest.raises(RedflareError, match="refused to subscribe"):
            list(tail)
        assert [connection.closed for connection in opened] == [True, True]


def test_a_feed_reports_keys_that_are_written_deleted_and_expired(server: Server) -> None:
    with KeyspaceFeed(server, "a:", ["a:", "b:"], ["news"]) as feed, server.borrow("a:") as connection:
        connection.call("SET", "a:1", 1, "PX", 1)
        changes = [feed.wait(), feed.wait()]
        connection.call("PUBLISH", "news", "hello")
        changes.append(feed.wait())
        connection.call("SET", "c:1", 1)
        connection.call("DEL", "c:1")
        connection.call("FLUSHALL")
        changes.append(feed.wait())

        assert feed.tracked
        assert changes == [
            KeysChanged(keys=("a:1",)),
            KeysChanged(keys=("a:1",)),
            KeyspaceMessage(channel="news", text="hello"),
            KeysChanged(keys=None),
        ]
        assert feed.wait(0.01) is None


def test_a_feed_is_opened_again_and_leaves_no_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = recorded(server, monkeypatch)
    feed = KeyspaceFeed(server, "a:", ["a:"])
    for _ in range(2):
        with feed, server.borrow("a:") as connection:
            connection.call("SET", "a:1", 1)
            assert feed.wait() == KeysChanged(keys=("a:1",))
        with pytest.raises(Unavailable, match="not open"):
            feed.wait()
    assert [connection.closed for connection in opened] == [True, True]


def test_a_feed_that_is_closed_wakes_its_thread(server: Server) -> None:
    with KeyspaceFeed(server, "a:", ["a:"]) as feed:
        closer = threading.Timer(0.05, feed.close)
        closer.start()
        with pytest.raises(Unavailable):
            feed.wait()
        closer.join()


def test_payload_of_many_chunks_is_counted(server: Server) -> None:
    link = LinkSteps(server)
    link.both()
    blob = link.store(link.keys.task_blob("b1"), *[10] * 600)
    link.assign("t1", blob=blob)

    inspector = Inspector(server)

    assert inspector.status().links[0].blob_bytes == 6000
    assert inspector.task("t1")[0].task_blob_bytes == 6000


class Command:
    """``redflare`` as a process."""

    def __init__(self, url: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from redflare_workers.cli import main; main()", *args],
            env={**os.environ, "REDFLARE_URL": url, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def object(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def interrupt(self) -> tuple[int, str]:
        """Send Ctrl-C; return the exit code and standard error."""
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=10)
        return self.process.returncode, errors


def test_tail_follows_until_ctrl_c(embedded: EmbeddedServer, server: Server) -> None:
    link = LinkSteps(server)
    link.both()
    command = Command(embedded.url, "tail", link.fqcn, "--json")
    assert command.object()["kind"] in ("agent", "cj")
    link.assign("t1")
    while (event := command.object())["kind"] != "ledger":
        pass

    assert event["text"].startswith("NEW")
    assert command.interrupt() == (130, "")


def test_status_watch_sees_a_change_at_once(embedded: EmbeddedServer, server: Server) -> None:
    link = LinkSteps(server)
    link.both()
    command = Command(embedded.url, "status", "--watch", "--json")
    assert command.object()["links"][0]["task"] is None
    link.assign("t1")
    while (task := command.object()["links"][0]["task"]) is None:
        pass

    assert task["age"] < 1.5
    assert command.interrupt() == (130, "")
