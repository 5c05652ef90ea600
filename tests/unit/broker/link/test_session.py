"""A session's connection and its identity: what is dropped, what is checked, and who is woken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from redflare_broker.errors import Unavailable
from redflare_broker.keys import LinkKeys
from redflare_broker.link.session import Session
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import ScriptReply
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import RedisReply

from tests.support.clock import Clock
from tests.support.link.endpoints import agent_link, beat, job_link


class ConnectionsOfSteps:
    """A step that records the connection it gets, and raises what it is given."""

    def __init__(self, session: Session, failure: BaseException | None = None) -> None:
        self.session = session
        self.failure = failure
        self.used: list[Connection] = []

    def __call__(self, connection: Connection, lease: Lease) -> ScriptReply:
        self.used.append(connection)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return self.session.scripts.hello(connection, lease)


@contextmanager
def cj_session(link: LinkUnderTest, checked: list[LinkKeys] | None = None) -> Iterator[Session]:
    seen: list[LinkKeys] = [] if checked is None else checked
    with link.server() as server:
        session = Session(server, link.fqcn, "cj", link.settings, seen.append)
        session.open_connection()
        yield session
        session.drop_connection()


def test_a_step_that_found_redis_away_leaves_its_connection(redflare_link: LinkUnderTest) -> None:
    """A late reply to it would be taken for that of the next step."""
    with cj_session(redflare_link) as session:
        session.cursor = "7-7"
        step = ConnectionsOfSteps(session, Unavailable("no reply in time"))
        with pytest.raises(Unavailable, match="no reply in time"):
            session.step(step)
        assert step.used[0].closed
        assert session.cursor == "0", "the next connection may be to a Redis that lost its streams"
        session.step(step)
        assert step.used[1] is not step.used[0]


def test_a_read_that_something_breaks_into_leaves_its_connection(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cj_session(redflare_link) as session:
        connection = session.open_connection()

        def interrupted(*args: object) -> RedisReply:
            raise KeyboardInterrupt

        monkeypatch.setattr(connection, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.read(session.keys.results, "0", 0.01)
        assert connection.closed
        found, reply = session.read(session.keys.results, "0", 0.01, then=lambda: ["ECHO", "mine"])
        assert (found, reply) == ([], b"mine")


def test_a_read_that_was_begun_and_not_finished_is_not_what_the_next_step_gets(redflare_link: LinkUnderTest) -> None:
    with cj_session(redflare_link) as session:
        connection = session.open_connection()
        assert session.step_and_read(["ECHO", "first"], session.keys.results, "0", 0.01, ["PING"]) == b"first"
        step = ConnectionsOfSteps(session)
        assert session.step(step).number() == session.lease.epoch
        assert connection.closed


def test_redis_is_checked_before_the_first_hello_and_not_when_it_has_lost_the_link(
    redflare_link: LinkUnderTest,
) -> None:
    checked: list[LinkKeys] = []
    with cj_session(redflare_link, checked) as session:
        assert checked == [session.keys]
        redflare_link.client.flushall()  # type: ignore[attr-defined]
        session.resume()
        assert session.losses == 1
        assert checked == [session.keys]


def test_a_hello_that_another_thread_has_said_meanwhile_is_not_said_again(redflare_link: LinkUnderTest) -> None:
    """As when the heartbeat and the working thread both find that this side was never heard of."""
    checked: list[LinkKeys] = []
    with cj_session(redflare_link, checked) as session:
        epoch = session.lease.epoch
        session.hello(session.open_connection(), 0)
        assert (checked, session.lease.epoch) == ([session.keys], epoch)


def test_a_beat_that_finds_a_newer_instance_fences_this_end(redflare_link: LinkUnderTest) -> None:
    with agent_link(redflare_link) as older, agent_link(redflare_link) as newer:
        older.session.open_connection()
        newer.session.open_connection()
        older.on_beat(beat(older))
        newer.on_beat(beat(newer))
        assert (older.session.fenced, newer.session.fenced) == (True, False)


def test_a_heartbeat_lives_for_two_of_its_intervals_at_least(redflare_link: LinkUnderTest) -> None:
    with agent_link(redflare_link) as side:
        side.session.open_connection()
        side.interval = redflare_link.settings.heartbeat_ttl
        beat(side)
        left = redflare_link.client.pttl(side.session.keys.heartbeat("agent"))  # type: ignore[attr-defined]
        assert left > 1500 * side.interval


def test_a_heartbeat_that_gets_through_again_ends_a_read(redflare_link: LinkUnderTest) -> None:
    """What broke the connection of heartbeats may have broken that of the read, and nothing else would tell."""
    with agent_link(redflare_link) as side:
        session = side.session
        session.open_connection()
        side.on_silence(Unavailable("no reply in time"))
        side.on_beat(beat(side))
        assert session.read(session.keys.tasks, "0", 0.01, lambda: ["ECHO", "read"]) == ([], None)
        side.on_beat(beat(side))
        assert session.read(session.keys.tasks, "0", 0.01, lambda: ["ECHO", "read"]) == ([], b"read")


def test_a_beat_tells_of_an_abort_although_the_registration_is_refused(
    redflare_link: LinkUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    aborted: list[str] = []
    redflare_link.client.set("flare:agents", "in the way")  # type: ignore[attr-defined]
    with job_link(redflare_link) as cj, agent_link(redflare_link, aborted.append) as side:
        side.session.open_connection()
        side.work_on("t")
        cj.abort("t", "nobody wants it")
        side.on_beat(beat(side))
    assert aborted == ["t"]
    assert "could not renew the registration" in caplog.text


def test_a_beat_tells_nothing_of_a_task_that_was_begun_while_it_was_on_its_way(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as cj:
        cj.work_on("first")
        cj.abort("first", "nobody wants it")
        reply = beat(cj)
        cj.work_on("second")
        cj.on_beat(reply)
        assert cj.task_status == ""
        cj.work_on("first")
        cj.on_beat(beat(cj))
        assert cj.task_status == "ABORTED"


def test_an_agent_is_registered_again_every_half_minute(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, client = Clock(), redflare_link.client
    monkeypatch.setattr("redflare_broker.link.agent_link.time", SimpleNamespace(monotonic=clock))
    registered = []
    with agent_link(redflare_link) as side:
        side.session.open_connection()
        for seconds in (0.0, 29.0, 1.0):
            clock.now += seconds
            client.delete("flare:agents")  # type: ignore[attr-defined]
            side.on_beat(beat(side))
            registered.append(client.exists("flare:agents"))  # type: ignore[attr-defined]
    assert registered == [1, 0, 1]
