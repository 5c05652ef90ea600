"""The common behaviour of both kinds of connection, on a real server and on fakeredis."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import fakeredis
import pytest
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import BlobMissing, DecodeError, ServerError, Unavailable
from redflare_broker.transport.client_connection import ClientConnection
from redflare_broker.transport.connection import Connection, ReplyError
from redflare_broker.transport.server import Server
from redflare_broker.transport.socket_connection import SocketConnection

#: A wait that an interrupt must end; the tests fail by its length when it does not.
LONG = 30.0

OpenConnection = Callable[[], Connection]


@pytest.fixture(scope="module")
def embedded() -> Iterator[Server]:
    with EmbeddedServer() as running, Server.connect(running.url) as server:
        yield server


@pytest.fixture(scope="module")
def fake() -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer())) as server:
        yield server


@pytest.fixture(params=[("embedded", SocketConnection), ("fake", ClientConnection)], ids=["raw", "client"])
def open_connection(request: pytest.FixtureRequest) -> Iterator[OpenConnection]:
    """Opens connections to one empty server, and closes them after the test."""
    name, kind = request.param
    server: Server = request.getfixturevalue(name)
    with contextlib.ExitStack() as stack:

        def open_one() -> Connection:
            connection = stack.enter_context(contextlib.closing(server.connection("any")))
            assert type(connection) is kind
            return connection

        open_one().call("FLUSHALL")
        yield open_one


class TestEveryConnection:
    def test_replies_come_in_the_order_of_the_commands(self, open_connection: OpenConnection) -> None:
        replies = open_connection().pipeline([("SET", "k", b"\x00\xff"), ("GET", "k"), ("INCR", "n"), ("GET", "none")])

        assert replies == [b"OK", b"\x00\xff", 1, None]

    def test_a_refused_command_does_not_hide_the_replies_of_the_others(self, open_connection: OpenConnection) -> None:
        connection = open_connection()
        first, refusal, last = connection.pipeline([("SET", "k", "v"), ("LLEN", "k"), ("GET", "k")])

        assert (first, last) == (b"OK", b"v")
        assert isinstance(refusal, ReplyError)
        assert refusal.code == "WRONGTYPE"
        assert connection.call("GET", "k") == b"v"

    def test_a_refused_call_names_its_remedy_and_leaves_the_connection_open(
        self, open_connection: OpenConnection
    ) -> None:
        connection = open_connection()
        connection.call("SET", "k", "v")

        with pytest.raises(
            ServerError, match=rf"{connection.node} refused a command: WRONGTYPE .*a namespace or a database"
        ):
            connection.call("LLEN", "k")
        assert connection.call("GET", "k") == b"v"

    def test_a_missing_script_is_left_to_its_caller(self, open_connection: OpenConnection) -> None:
        with pytest.raises(ReplyError) as caught:
            open_connection().call("EVALSHA", "0" * 40, 0)

        assert caught.value.code == "NOSCRIPT"

    def test_a_blocked_read_ends_with_a_write_and_the_next_command_follows_in_the_same_trip(
        self, open_connection: OpenConnection
    ) -> None:
        reader, writer = open_connection(), open_connection()
        reader.send(
            [("XREAD", "BLOCK", 10_000, "STREAMS", "s", "0"), ("EVAL", "return redis.call('XLEN', KEYS[1])", 1, "s")]
        )
        with ThreadPoolExecutor() as pool:
            pool.submit(writer.call, "XADD", "s", "1-1", "f", "v")
            assert reader.receive(LONG) == [[b"s", [[b"1-1", [b"f", b"v"]]]]]
        assert reader.receive() == 1

    def test_a_read_that_finds_nothing_while_it_blocks_is_none(self, open_connection: OpenConnection) -> None:
        connection = open_connection()
        started = time.monotonic()

        assert connection.call("XREAD", "COUNT", 1, "BLOCK", 60, "STREAMS", "s", "0") is None
        assert time.monotonic() - started >= 0.055
        assert connection.call("PING") == b"PONG"

    def test_a_timeout_closes_the_connection(self, open_connection: OpenConnection) -> None:
        connection = open_connection()
        started = time.monotonic()

        with pytest.raises(Unavailable, match=r"no answer within 0.05 s"):
            connection.call("XREAD", "BLOCK", 10_000, "STREAMS", "s", "0", timeout=0.05)
        assert 0.04 < time.monotonic() - started < 1
        assert connection.closed
        with pytest.raises(Unavailable, match="the connection is closed"):
            connection.call("PING")

    @pytest.mark.parametrize("command", [("XREAD", "BLOCK", 0, "STREAMS", "s", "0"), ("SUBSCRIBE", "c")])
    def test_an_interrupt_wakes_a_blocked_connection_at_once(
        self, open_connection: OpenConnection, command: tuple[str, ...]
    ) -> None:
        connection = open_connection()
        connection.send([command])
        if command[0] == "SUBSCRIBE":
            connection.receive()
        alarm = threading.Timer(0.05, connection.interrupt)
        started = time.monotonic()
        alarm.start()

        with pytest.raises(Unavailable, match="interrupted"):
            connection.listen(LONG) if command[0] == "SUBSCRIBE" else connection.receive(LONG)
        assert 0.04 < time.monotonic() - started < 1
        alarm.join()
        assert connection.closed

    def test_an_interrupt_before_the_wait_is_not_lost(self, open_connection: OpenConnection) -> None:
        connection = open_connection()
        connection.interrupt()
        started = time.monotonic()

        with pytest.raises(Unavailable, match="interrupted"):
            connection.call("XREAD", "BLOCK", 0, "STREAMS", "s", "0", timeout=LONG)
        assert time.monotonic() - started < 1

    def test_an_interrupt_of_a_closed_connection_does_nothing(self, open_connection: OpenConnection) -> None:
        connection = open_connection()
        connection.close()
        connection.close()
        connection.interrupt()

        assert "closed" in repr(connection)

    @pytest.mark.parametrize(
        ("subscribe", "publish", "kind"),
        [("SUBSCRIBE", "PUBLISH", b"message"), ("SSUBSCRIBE", "SPUBLISH", b"smessage")],
    )
    def test_a_subscribed_connection_receives_messages_and_survives_silence(
        self, open_connection: OpenConnection, subscribe: str, publish: str, kind: bytes
    ) -> None:
        subscriber, publisher = open_connection(), open_connection()
        assert subscriber.call(subscribe, "c") == [subscribe.lower().encode(), b"c", 1]

        assert subscriber.listen(0.01) is None
        assert publisher.call(publish, "c", "one") == 1
        assert publisher.call(publish, "c", "two") == 1
        assert subscriber.listen(5) == [kind, b"c", b"one"]
        assert subscriber.listen(5) == [kind, b"c", b"two"]
        assert subscriber.listen(0) is None
        assert not subscriber.closed

    def test_chunks_are_read_back_unchanged_and_expire(self, open_connection: OpenConnection) -> None:
        connection = open_connection()
        data = bytes(range(256)) * 1000
        source, target = memoryview(data), memoryview(bytearray(len(data)))
        connection.store([("a", [source[:1], source[1:1], source[1:200_000]]), ("b", [source[200_000:]])], 60_000)
        connection.load([("a", [target[:199_999], target[199_999:200_000]]), ("b", [target[200_000:]])])

        assert target == source
        assert isinstance(ttl := connection.call("PTTL", "b"), int)
        assert 0 < ttl <= 60_000

    def test_a_missing_chunk_is_named(self, open_connection: OpenConnection) -> None:
        with pytest.raises(BlobMissing, match="has no 'gone'"):
            open_connection().load([("gone", [memoryview(bytearray(3))])])

    def test_a_chunk_of_another_length_is_refused(self, open_connection: OpenConnection) -> None:
        connection = open_connection()
        connection.store([("k", [memoryview(b"four")])], 60_000)

        with pytest.raises(DecodeError, match="'k' holds 4 bytes where 3 were announced"):
            connection.load([("k", [memoryview(bytearray(3))])])

    def test_a_refused_load_raises(self, open_connection: OpenConnection) -> None:
        connection = open_connection()
        connection.call("RPUSH", "list", "x")

        with pytest.raises(ServerError, match="WRONGTYPE"):
            connection.load([("list", [memoryview(bytearray(3))])])


class TestFakeServer:
    def test_a_server_that_is_stopped_is_unavailable(self) -> None:
        server = fakeredis.FakeServer()
        raw = fakeredis.FakeRedisConnection(server=server, protocol=2)
        raw.connect()
        connection = ClientConnection(raw, "fake")
        server.connected = False

        with pytest.raises(Unavailable, match="fake"):
            connection.call("PING")
        assert connection.closed

    def test_a_reply_that_is_not_due_is_not_waited_for(self) -> None:
        raw = fakeredis.FakeRedisConnection(server=fakeredis.FakeServer(), protocol=2)
        raw.connect()

        with pytest.raises(Unavailable, match="no command owes"):
            ClientConnection(raw, "fake").receive(LONG)
