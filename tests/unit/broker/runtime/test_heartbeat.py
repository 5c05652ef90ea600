"""The heartbeat thread, on fakeredis, with fake links."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import fakeredis
import pytest
from redflare_broker.config.settings import LinkSettings
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.link.agent_link import AgentLink
from redflare_broker.link.liveness import Liveness
from redflare_broker.link.session import Session
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply, ReplyError
from redflare_broker.transport.server import Server

from tests.support.waiting import wait_until

#: An interval after which no beat is due again within a test.
LONG = 3600.0


class Beater:
    """A link whose beat is one command; records the replies and the threads that pass them."""

    def __init__(self, name: str, interval: float = LONG, command: list[Arg] | None = None) -> None:
        self.name = name
        self.interval = interval
        self.command: list[Arg] = command or ["INCR", name]
        self.route = name
        self.replies: list[RedisReply] = []
        self.silences: list[RedflareError] = []
        self.threads: set[str] = set()
        self.before_beat: Callable[[], None] = lambda: None

    def beat(self) -> list[Arg]:
        self.before_beat()
        return self.command

    def on_beat(self, reply: RedisReply) -> None:
        self.threads.add(threading.current_thread().name)
        self.replies.append(reply)

    def on_silence(self, error: RedflareError) -> None:
        self.silences.append(error)

    def __repr__(self) -> str:
        return f"<Beater {self.name}>"


class Broken(Beater):
    """A link whose ``on_beat`` raises."""

    def on_beat(self, reply: RedisReply) -> None:
        super().on_beat(reply)
        raise ValueError("a link's own fault")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer())) as connected:
        yield connected


@pytest.fixture
def heartbeats(server: Server) -> Iterator[Heartbeats]:
    made = Heartbeats(server, name="beats-of-this-test")
    yield made
    made.stop()


@contextmanager
def held(heartbeats: Heartbeats) -> Iterator[None]:
    """Hold the thread until the end of the block: links that are added in it are due together."""
    waiting, over = threading.Event(), threading.Event()
    link = Beater("the link that holds the thread")

    def hold() -> None:
        waiting.set()
        assert over.wait(10)

    link.before_beat = hold
    heartbeats.add(link)
    assert waiting.wait(10)
    yield
    over.set()


def borrowed(server: Server, key: str, *command: Arg) -> RedisReply:
    with server.borrow(key) as connection:
        return connection.call(*command)


def test_a_link_is_beaten_for_at_once_from_a_thread_with_a_name(heartbeats: Heartbeats) -> None:
    link = Beater("a")
    heartbeats.add(link)
    wait_until(lambda: link.replies)
    assert link.replies == [1]
    assert link.threads == {"beats-of-this-test"}


def test_a_link_is_beaten_for_again_and_again_at_its_interval(heartbeats: Heartbeats) -> None:
    quick, slow = Beater("quick", interval=0.02), Beater("slow")
    heartbeats.add(quick)
    heartbeats.add(slow)
    wait_until(lambda: len(quick.replies) >= 5)
    assert quick.replies[:5] == [1, 2, 3, 4, 5]
    assert slow.replies == [1]


def test_links_that_are_due_together_go_in_one_pipeline() -> None:
    with EmbeddedServer() as embedded, Server.connect(embedded.url) as server, Server.connect(embedded.url) as other:
        borrowed(server, "", "CLIENT", "SETNAME", "first")  # the one idle connection, which the thread will take
        heartbeats = Heartbeats(server)
        links = [Beater(name, command=["CLIENT", "ID"]) for name in ("a", "b", "c")]
        with held(heartbeats):
            for link in links:
                heartbeats.add(link)
            before = _reads(other)
        wait_until(lambda: all(link.replies for link in links))
        heartbeats.stop()
        assert len({str(link.replies) for link in links}) == 1  # one connection
        assert _reads(other) - before <= 3  # the link that holds the thread, one for all three, and this INFO


def test_links_of_a_cluster_are_beaten_for_each_on_its_own_node(
    server: Server, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes: list[str] = []

    def borrow(route: str) -> AbstractContextManager[Connection]:
        routes.append(route)
        return Server.borrow(server, route)

    monkeypatch.setattr(server, "cluster", True)
    monkeypatch.setattr(server, "borrow", borrow)
    links = [Beater(name) for name in ("a", "b", "c")]
    with held(heartbeats):
        for link in links:
            heartbeats.add(link)
    wait_until(lambda: all(link.replies for link in links))
    assert routes[1:] == ["a", "b", "c"]


def _reads(server: Server) -> int:
    """How often the server has read from a socket."""
    info = borrowed(server, "", "INFO", "stats")
    assert isinstance(info, bytes)
    return int(info.partition(b"total_reads_processed:")[2].split(b"\r", 1)[0])


def test_beat_now_does_not_wait_for_the_interval(heartbeats: Heartbeats) -> None:
    link = Beater("a")
    heartbeats.add(link)
    wait_until(lambda: link.replies == [1])
    heartbeats.beat_now(link)
    wait_until(lambda: link.replies == [1, 2])


def test_a_link_that_was_removed_is_not_beaten_for(heartbeats: Heartbeats) -> None:
    gone, witness = Beater("gone"), Beater("witness")
    with held(heartbeats):
        heartbeats.add(gone)
        heartbeats.add(witness)
        heartbeats.remove(gone)
        heartbeats.beat_now(gone)  # a wake-up that came late does not bring it back
    wait_until(lambda: witness.replies)
    assert gone.replies == []
    heartbeats.remove(gone)  # again is allowed


def test_a_link_that_is_removed_while_its_beat_is_sent_is_not_beaten_for_again(heartbeats: Heartbeats) -> None:
    gone, witness = Beater("gone", interval=0.01), Beater("witness", interval=0.01)
    gone.before_beat = lambda: heartbeats.remove(gone)
    refused = Beater("refused", interval=0.01, command=["HGET", "witness", "field"])
    refused.before_beat = lambda: heartbeats.remove(refused)
    borrowed(heartbeats._server, "witness", "SET", "witness", 0)
    for link in (gone, refused, witness):
        heartbeats.add(link)
    wait_until(lambda: len(witness.replies) >= 5)
    assert (len(gone.replies), len(refused.silences)) == (1, 1)


def test_a_link_that_fails_does_not_stop_the_others(heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Broken("broken", interval=0.02), Beater("sound", interval=0.02)
    heartbeats.add(broken)
    heartbeats.add(sound)
    wait_until(lambda: len(sound.replies) >= 3 and len(broken.replies) >= 3)
    assert "<Beater broken> failed to handle its heartbeat; beats go on" in caplog.text
    assert "a link's own fault" in caplog.text


def test_a_link_whose_beat_command_raises_does_not_end_the_thread(
    heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture
) -> None:
    link = Beater("a", interval=0.02)
    failures = iter([RuntimeError("no beat now")])

    def fail_once() -> None:
        for failure in failures:
            raise failure

    link.before_beat = fail_once
    heartbeats.add(link)
    wait_until(lambda: link.replies)
    assert "heartbeats failed; they go on" in caplog.text


def test_a_refused_beat_is_silence_for_its_link_alone_and_is_logged(
    heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture
) -> None:
    refused, sound = Beater("refused", command=["HGET", "sound", "field"]), Beater("sound")
    borrowed(heartbeats._server, "sound", "SET", "sound", 0)
    heartbeats.add(refused)
    heartbeats.add(sound)
    wait_until(lambda: refused.silences and sound.replies)
    assert isinstance(refused.silences[0], ReplyError)
    assert refused.silences[0].code == "WRONGTYPE"
    assert refused.replies == []
    assert sound.replies == [1]
    assert "Redis refuses the heartbeat of <Beater refused>: WRONGTYPE" in caplog.text


def test_beats_that_are_refused_for_now_go_on_and_say_why_once(caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedServer() as embedded, Server.connect(embedded.url) as server:
        heartbeats = Heartbeats(server)
        link = Beater("a", interval=0.02)
        heartbeats.add(link)
        wait_until(lambda: link.replies)
        borrowed(server, "", "CONFIG", "SET", "maxmemory", 1)
        wait_until(lambda: len(link.silences) >= 5)
        borrowed(server, "", "CONFIG", "SET", "maxmemory", 0)
        before = len(link.replies)
        wait_until(lambda: len(link.replies) > before)
        heartbeats.stop()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "OOM command not allowed" in warnings[0]


def test_an_unreachable_server_is_silence_until_it_is_back() -> None:
    with EmbeddedServer() as embedded, Server.connect(embedded.url) as server:
        heartbeats = Heartbeats(server)
        links = [Beater("a", interval=0.05), Beater("b", interval=0.05)]
        for link in links:
            heartbeats.add(link)
        wait_until(lambda: all(link.replies for link in links))
        embedded.stop()
        wait_until(lambda: all(len(link.silences) >= 2 for link in links))
        assert isinstance(links[0].silences[0], Unavailable)
        for link in links:
            link.replies.clear()
        embedded.start()
        wait_until(lambda: all(link.replies for link in links))
        assert links[0].replies[0] == 1  # it had lost everything
        heartbeats.stop()


def test_after_a_silence_a_slow_link_is_tried_again_soon(
    heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redflare_broker.runtime.heartbeat._RETRY_AFTER", 0.02)
    link = Beater("a", interval=LONG)
    attempts = iter([Unavailable("away"), Unavailable("still away")])

    def be_away() -> None:
        for failure in attempts:
            raise failure

    link.before_beat = be_away
    heartbeats.add(link)
    wait_until(lambda: link.replies)
    assert [str(error) for error in link.silences] == ["away", "still away"]


def test_an_unknown_script_is_loaded(server: Server, heartbeats: Heartbeats) -> None:
    session = Session(server, "site-1--a", "agent", LinkSettings(heartbeat_interval=0.02, heartbeat_ttl=10))
    link = AgentLink(session, Liveness(60), heartbeats, lambda: None, _ignore)
    session.open_connection()
    borrowed(server, "", "SCRIPT", "FLUSH")
    key = session.keys.heartbeat("agent")
    heartbeats.add(link)
    wait_until(lambda: borrowed(server, key, "EXISTS", key))
    borrowed(server, "", "SCRIPT", "FLUSH")
    borrowed(server, key, "DEL", key)
    wait_until(lambda: borrowed(server, key, "EXISTS", key))
    heartbeats.stop()
    session.drop_connection()


def _ignore(task_id: str) -> None:
    raise AssertionError(f"unexpected abort of {task_id}")


def test_stop_ends_the_thread_before_it_returns(heartbeats: Heartbeats) -> None:
    link = Beater("a", interval=0.01)
    heartbeats.add(link)
    wait_until(lambda: link.replies)
    heartbeats.stop()
    assert not heartbeats._thread.is_alive()
    heartbeats.stop()  # again is allowed


def test_stop_from_a_links_own_callback_does_not_wait_for_itself(heartbeats: Heartbeats) -> None:
    link = Beater("a")
    link.before_beat = heartbeats.stop
    heartbeats.add(link)
    wait_until(lambda: not heartbeats._thread.is_alive())


def test_stop_without_a_start_is_allowed(heartbeats: Heartbeats) -> None:
    heartbeats.stop()


def test_links_may_come_and_go_while_the_thread_runs(heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    def come_and_go(number: int) -> int:
        link = Beater(f"link-{number}", interval=0.001)
        heartbeats.add(link)
        wait_until(lambda: link.replies)
        heartbeats.remove(link)
        return len(link.replies)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(come_and_go, range(40)))
    assert repr(heartbeats).startswith("<Heartbeats of 0 links at")
    assert caplog.text == ""
