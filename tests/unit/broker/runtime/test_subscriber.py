"""The subscriber thread: what it passes on, and what it survives, on fakeredis and on a server that goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import fakeredis
import pytest
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.runtime.subscriber import Subscriber
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff

from tests.support.waiting import wait_until

ABORT = "ns:{F}:abort"
NOTICE = "ns:{F}:notice"


class Heard:
    """A subscriber, and what it has passed on."""

    def __init__(self, server: Server, fails: bool = False) -> None:
        self.messages: list[list[str]] = []
        self.resyncs = 0
        self.threads: set[str] = set()
        self.server = server
        self.fails = fails
        self.subscriber = Subscriber(
            server, [ABORT, NOTICE], self._on_message, self._on_resync, name="listens-in-this-test"
        )

    def start(self) -> Heard:
        """Listen, from when both channels are subscribed to."""
        self.subscriber.start()
        wait_until(lambda: self.resyncs >= 2)
        return self

    def publish(self, channel: str, message: str | bytes) -> None:
        assert self.call("PUBLISH", channel, message) == 1

    def call(self, *command: Arg) -> RedisReply:
        with self.server.borrow(ABORT) as connection:
            return connection.call(*command)

    def _on_message(self, words: list[str]) -> None:
        self.messages.append(words)
        self.threads.add(threading.current_thread().name)
        if self.fails:
            raise ValueError(f"cannot take {words}")

    def _on_resync(self) -> None:
        self.resyncs += 1
        if self.fails:
            raise ValueError("cannot read")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer())) as connected:
        yield connected


@pytest.fixture
def heard(server: Server) -> Iterator[Heard]:
    made = Heard(server)
    yield made
    made.subscriber.stop()


@pytest.fixture
def embedded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


def test_messages_of_both_channels_are_handed_on_in_words_and_in_order(heard: Heard) -> None:
    heard.start()
    heard.publish(ABORT, "abort task-1")
    heard.publish(NOTICE, "accepted task-2")
    heard.publish(NOTICE, "hello agent 17")
    heard.publish(NOTICE, "bye")
    wait_until(lambda: len(heard.messages) == 4)
    assert heard.messages == [["abort", "task-1"], ["accepted", "task-2"], ["hello", "agent", "17"], ["bye"]]
    assert heard.threads == {"listens-in-this-test"}


def test_a_message_that_is_not_text_is_handed_on_all_the_same(heard: Heard) -> None:
    heard.start()
    heard.publish(ABORT, b"abort \xff")
    wait_until(lambda: heard.messages)
    assert heard.messages == [["abort", "\ufffd"]]


def test_each_subscription_asks_for_a_look_at_the_truth(heard: Heard) -> None:
    heard.start()
    assert heard.resyncs == 2  # one for each channel
    assert heard.messages == []


def test_a_handler_that_fails_is_logged_and_the_next_message_comes(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard(server, fails=True).start()
    heard.publish(ABORT, "abort one")
    heard.publish(ABORT, "abort two")
    wait_until(lambda: len(heard.messages) == 2)
    heard.subscriber.stop()
    assert heard.messages == [["abort", "one"], ["abort", "two"]]
    assert "a handler failed on ['abort', 'one']" in caplog.text
    assert "cannot read" in caplog.text


def test_after_a_lost_connection_it_subscribes_again_and_looks(embedded: EmbeddedServer) -> None:
    with Server.connect(embedded.url) as server:
        heard = Heard(server).start()
        killed = heard.call("CLIENT", "KILL", "TYPE", "pubsub")
        assert killed == 1
        wait_until(lambda: heard.resyncs == 4)
        heard.publish(ABORT, "abort again")
        wait_until(lambda: heard.messages)
        heard.subscriber.stop()


def test_a_server_that_is_away_is_tried_until_it_is_back(embedded: EmbeddedServer) -> None:
    with Server.connect(embedded.url) as server:
        heard = Heard(server).start()
        embedded.stop()
        embedded.start()
        wait_until(lambda: heard.resyncs == 4)
        heard.subscriber.stop()


def test_a_silent_connection_is_proved_by_a_ping(embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redflare_broker.runtime.subscriber._PATIENCE", 0.02)
    with Server.connect(embedded.url) as server:
        heard = Heard(server).start()

        def pings() -> bool:
            counts = heard.call("INFO", "commandstats")
            assert isinstance(counts, bytes)
            return int(counts.partition(b"cmdstat_ping:calls=")[2].split(b",", 1)[0] or 0) >= 3

        wait_until(pings)
        assert heard.resyncs == 2  # the connection is the first one
        heard.publish(ABORT, "abort task-1")
        wait_until(lambda: heard.messages == [["abort", "task-1"]])
        heard.subscriber.stop()


def test_a_connection_that_leaves_a_ping_unanswered_is_given_up(
    embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redflare_broker.runtime.subscriber._PATIENCE", 0.02)
    monkeypatch.setattr("redflare_broker.runtime.subscriber._PONG_WITHIN", 0.02)
    with Server.connect(embedded.url) as server:
        heard = Heard(server).start()
        # the server holds its breath for longer than an answer may take
        heard.call("CLIENT", "PAUSE", 300, "ALL")
        wait_until(lambda: heard.resyncs >= 4)
        heard.subscriber.stop()


@pytest.mark.parametrize("kind", ["fake", "embedded"])
def test_stop_wakes_it_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "fake":
        server = request.getfixturevalue("server")
    else:
        server = Server.connect(request.getfixturevalue("embedded").url)
    heard = Heard(server).start()
    began = time.monotonic()
    heard.subscriber.stop()
    assert time.monotonic() - began < 2.0  # its wait for a message lasts 30 s
    assert not heard.subscriber._thread.is_alive()
    heard.subscriber.stop()  # again is allowed
    server.close()


def test_stop_ends_the_wait_before_the_next_attempt(embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redflare_broker.runtime.subscriber.Backoff", lambda: Backoff(first=60.0, longest=60.0))
    server = Server.connect(embedded.url)
    embedded.stop()
    subscriber = Subscriber(server, [ABORT], lambda words: None, lambda: None)
    subscriber.start()
    subscriber.stop()
    assert not subscriber._thread.is_alive()
    server.close()


def test_a_handler_may_stop_it(server: Server) -> None:
    def stop() -> None:
        subscriber.stop()

    subscriber = Subscriber(server, [ABORT], lambda words: None, stop)
    subscriber.start()
    wait_until(lambda: not subscriber._thread.is_alive())
