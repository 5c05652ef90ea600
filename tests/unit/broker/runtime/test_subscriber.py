"""The subscriber thread: its handlers and its reconnects, on fakeredis and on a server that is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import fakeredis
import pytest
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.runtime.subscriber import Subscriber, Subscription
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff

from tests.support.waiting import wait_until

ABORT = "ns:{F}:abort"
NOTICE = "ns:{F}:notice"


class RecordingSubscriber:
    """A subscriber, and the calls of its handlers."""

    def __init__(self, server: Server, fails: bool = False) -> None:
        self.messages: list[list[str]] = []
        self.resyncs = 0
        self.threads: set[str] = set()
        self.server = server
        self.fails = fails
        self.subscriber = Subscriber(
            server,
            Subscription([ABORT, NOTICE], self._on_message, self._on_resync),
            name="subscriber-of-this-test",
        )

    def start(self) -> RecordingSubscriber:
        """Start, and wait until both channels are subscribed to."""
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
def recorder(server: Server) -> Iterator[RecordingSubscriber]:
    made = RecordingSubscriber(server)
    yield made
    made.subscriber.stop()


@pytest.fixture
def embedded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


def test_messages_of_both_channels_are_split_into_words_and_handled_in_order(recorder: RecordingSubscriber) -> None:
    recorder.start()
    recorder.publish(ABORT, "abort task-1")
    recorder.publish(NOTICE, "accepted task-2")
    recorder.publish(NOTICE, "hello agent 17")
    recorder.publish(NOTICE, "bye")
    wait_until(lambda: len(recorder.messages) == 4)
    assert recorder.messages == [["abort", "task-1"], ["accepted", "task-2"], ["hello", "agent", "17"], ["bye"]]
    assert recorder.threads == {"subscriber-of-this-test"}


def test_a_message_that_is_not_text_is_handled_too(recorder: RecordingSubscriber) -> None:
    recorder.start()
    recorder.publish(ABORT, b"abort \xff")
    wait_until(lambda: recorder.messages)
    assert recorder.messages == [["abort", "\ufffd"]]


def test_each_subscription_causes_a_resync(recorder: RecordingSubscriber) -> None:
    recorder.start()
    assert recorder.resyncs == 2  # one for each channel
    assert recorder.messages == []


def test_a_handler_that_fails_is_logged_and_the_next_message_is_handled(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = RecordingSubscriber(server, fails=True).start()
    recorder.publish(ABORT, "abort one")
    recorder.publish(ABORT, "abort two")
    wait_until(lambda: len(recorder.messages) == 2)
    recorder.subscriber.stop()
    assert recorder.messages == [["abort", "one"], ["abort", "two"]]
    assert "a handler failed on ['abort', 'one']" in caplog.text
    assert "cannot read" in caplog.text


def test_after_a_lost_connection_it_subscribes_again_and_resyncs(embedded: EmbeddedServer) -> None:
    with Server.connect(embedded.url) as server:
        recorder = RecordingSubscriber(server).start()
        killed = recorder.call("CLIENT", "KILL", "TYPE", "pubsub")
        assert killed == 1
        wait_until(lambda: recorder.resyncs == 4)
        recorder.publish(ABORT, "abort again")
        wait_until(lambda: recorder.messages)
        recorder.subscriber.stop()


def test_a_server_that_is_away_is_tried_until_it_is_back(embedded: EmbeddedServer) -> None:
    with Server.connect(embedded.url) as server:
        recorder = RecordingSubscriber(server).start()
        embedded.stop()
        embedded.start()
        wait_until(lambda: recorder.resyncs == 4)
        recorder.subscriber.stop()


def test_a_subscription_that_redis_refuses_is_reported_and_tried_again(
    embedded: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    with Server.connect(embedded.url) as server:
        recorder = RecordingSubscriber(server)
        recorder.call("ACL", "SETUSER", "default", "resetchannels")
        recorder.subscriber.start()
        wait_until(lambda: "refused to subscribe" in caplog.text)
        assert "NOPERM" in caplog.text
        recorder.call("ACL", "SETUSER", "default", "allchannels")
        wait_until(lambda: recorder.resyncs == 2)
        recorder.subscriber.stop()


def test_a_silent_connection_is_checked_by_a_ping(embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redflare_broker.runtime.subscriber._PATIENCE", 0.02)
    with Server.connect(embedded.url) as server:
        recorder = RecordingSubscriber(server).start()

        def pings() -> bool:
            counts = recorder.call("INFO", "commandstats")
            assert isinstance(counts, bytes)
            return int(counts.partition(b"cmdstat_ping:calls=")[2].split(b",", 1)[0] or 0) >= 3

        wait_until(pings)
        assert recorder.resyncs == 2  # the connection is the first one
        recorder.publish(ABORT, "abort task-1")
        wait_until(lambda: recorder.messages == [["abort", "task-1"]])
        recorder.subscriber.stop()


def test_a_connection_that_leaves_a_ping_unanswered_is_given_up(
    embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redflare_broker.runtime.subscriber._PATIENCE", 0.02)
    monkeypatch.setattr("redflare_broker.runtime.subscriber._PONG_WITHIN", 0.02)
    with Server.connect(embedded.url) as server:
        recorder = RecordingSubscriber(server).start()
        # the server is paused for longer than a reply may take
        recorder.call("CLIENT", "PAUSE", 300, "ALL")
        wait_until(lambda: recorder.resyncs >= 4)
        recorder.subscriber.stop()


@pytest.mark.parametrize("kind", ["fake", "embedded"])
def test_stop_wakes_it_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "fake":
        server = request.getfixturevalue("server")
    else:
        server = Server.connect(request.getfixturevalue("embedded").url)
    recorder = RecordingSubscriber(server).start()
    began = time.monotonic()
    recorder.subscriber.stop()
    assert time.monotonic() - began < 2.0  # its wait for a message lasts 30 s
    assert not recorder.subscriber._thread.is_alive()
    recorder.subscriber.stop()  # again is allowed
    server.close()


def test_stop_ends_the_wait_before_the_next_attempt(embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redflare_broker.runtime.subscriber.Backoff", lambda: Backoff(first=60.0, longest=60.0))
    server = Server.connect(embedded.url)
    embedded.stop()
    subscriber = Subscriber(server, Subscription([ABORT], lambda words: None, lambda: None))
    subscriber.start()
    subscriber.stop()
    assert not subscriber._thread.is_alive()
    server.close()


def test_a_handler_may_stop_it(server: Server) -> None:
    def stop() -> None:
        subscriber.stop()

    subscriber = Subscriber(server, Subscription([ABORT], lambda words: None, stop))
    subscriber.start()
    wait_until(lambda: not subscriber._thread.is_alive())


@pytest.mark.parametrize("kind", ["fake", "real"])
def test_subscriptions_come_and_go_on_the_same_connection(server: Server, embedded: EmbeddedServer, kind: str) -> None:
    with Server.connect(embedded.url) as real:
        recorder = RecordingSubscriber(server if kind == "fake" else real).start()
        heard: list[list[str]] = []
        added = threading.Event()
        more = Subscription(["ns:{G}:abort"], heard.append, added.set)
        recorder.subscriber.add(more)
        assert added.wait(5)
        recorder.publish("ns:{G}:abort", "abort g")
        wait_until(lambda: heard == [["abort", "g"]])
        recorder.subscriber.remove(more)
        wait_until(lambda: recorder.call("PUBLISH", "ns:{G}:abort", "abort h") == 0)
        recorder.publish(ABORT, "abort f")
        wait_until(lambda: recorder.messages == [["abort", "f"]])
        recorder.subscriber.stop()
        assert recorder.resyncs == 2, "the first subscription missed nothing"
        assert heard == [["abort", "g"]]


def test_a_channel_is_its_newest_subscriptions_when_an_older_one_leaves(server: Server) -> None:
    """As when an agent of a name is stopped after its successor in the same process was started."""
    heard: list[list[str]] = []
    begun, taken_over = threading.Event(), threading.Event()
    older = Subscription([ABORT], lambda words: heard.append(["older", *words]), begun.set)
    subscriber = Subscriber(server, older)
    subscriber.start()
    assert begun.wait(5)
    subscriber.add(Subscription([ABORT, NOTICE], heard.append, taken_over.set))
    assert taken_over.wait(5)
    subscriber.remove(older)
    with server.borrow(ABORT) as connection:
        assert connection.call("PUBLISH", ABORT, "abort task-1") == 1
    wait_until(lambda: heard == [["abort", "task-1"]])
    subscriber.stop()


def test_channels_of_many_links_are_all_subscribed_to(server: Server) -> None:
    confirmed = {f"ns:{{site-{number}}}:abort": threading.Event() for number in range(1100)}
    subscriptions = [Subscription([name], lambda words: None, event.set) for name, event in confirmed.items()]
    subscriber = Subscriber(server, *subscriptions)
    subscriber.start()
    wait_until(lambda: all(event.is_set() for event in confirmed.values()))
    subscriber.stop()
