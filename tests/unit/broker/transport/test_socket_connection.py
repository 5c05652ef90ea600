"""A ``SocketConnection`` with invalid bytes from the server, and with a socket that takes a little at a time."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from redflare_broker.errors import BlobMissing, DecodeError, ServerError, Unavailable
from redflare_broker.transport.replies import RULES, Kind
from redflare_broker.transport.socket_connection import SocketConnection

#: A wait that an interrupt must end; the tests fail by its length when it does not.
LONG = 30.0


@dataclass
class Wire:
    """One end of a socket pair in the place of redis-py's connection."""

    _sock: socket.socket

    def disconnect(self) -> None:
        self._sock.close()


@pytest.fixture
def pair() -> Iterator[tuple[SocketConnection, socket.socket]]:
    """A connection and the other end of its socket."""
    mine, peer = socket.socketpair()
    with peer, contextlib.closing(SocketConnection(Wire(mine), "peer", 5.0)) as connection:
        yield connection, peer


@contextlib.contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[None]:
    """Run ``work`` in a thread during the block, and wait for it; raise its exception."""
    with ThreadPoolExecutor() as pool:
        working = pool.submit(work)
        yield
    working.result()


def read_commands(peer: socket.socket, count: int) -> bytes:
    """Read all bytes of ``count`` commands; no argument may contain a ``*``."""
    data = bytearray()
    while data.count(b"*") < count or not data.endswith(b"\r\n"):
        data += peer.recv(1 << 16)
    return bytes(data)


class TestOddPeers:
    def test_a_reply_may_come_byte_by_byte(self, pair: tuple[SocketConnection, socket.socket]) -> None:
        connection, peer = pair

        def drip() -> None:
            for byte in b"*2\r\n$5\r\nhel\r\n\r\n*1\r\n:-7\r\n":
                peer.sendall(bytes([byte]))

        with in_thread(drip):
            assert connection.call("X") == [b"hel\r\n", [-7]]

    @pytest.mark.parametrize("sent", [b"", b"+O", b"$10\r\nhalf", b"*2\r\n:1\r\n"])
    def test_an_end_in_the_middle_of_a_reply_closes_the_connection(
        self, pair: tuple[SocketConnection, socket.socket], sent: bytes
    ) -> None:
        connection, peer = pair
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)

        with pytest.raises(Unavailable, match="peer: it closed the connection"):
            connection.call("X")
        assert connection.closed

    def test_an_invalid_reply_closes_the_connection(self, pair: tuple[SocketConnection, socket.socket]) -> None:
        connection, peer = pair
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(Unavailable, match="Protocol error"):
            connection.call("X")
        assert connection.closed

    @pytest.mark.parametrize("word", [rule.words for rule in RULES if rule.kind is Kind.AWAY])
    def test_a_server_that_cannot_serve_now_is_unavailable(
        self, pair: tuple[SocketConnection, socket.socket], word: str
    ) -> None:
        connection, peer = pair
        peer.sendall(b"+OK\r\n-%b for some reason\r\n" % word.encode())

        with pytest.raises(Unavailable, match=f"cannot serve now: {word} for some reason"):
            connection.pipeline([("SET", "k", "v"), ("GET", "k")])
        assert connection.closed

    @pytest.mark.parametrize(
        ("reply", "remedy"),
        [
            ("NOPERM User u has no permissions to run the 'set' command", "Grant this ACL user"),
            ("ERR unknown command 'X'", "would be refused again"),
        ],
    )
    def test_a_refusal_names_its_remedy(
        self, pair: tuple[SocketConnection, socket.socket], reply: str, remedy: str
    ) -> None:
        connection, peer = pair
        peer.sendall(f"-{reply}\r\n".encode())

        with pytest.raises(ServerError, match=remedy) as caught:
            connection.call("X")
        assert reply in str(caught.value)
        assert not connection.closed

    @pytest.mark.parametrize(
        ("reply", "remedy"),
        [
            ("OOM command not allowed when used memory > 'maxmemory'", "Raise maxmemory"),
            ("MISCONF Errors writing to the AOF file", "free disk space"),
        ],
    )
    def test_a_refusal_that_passes_names_its_remedy_and_leaves_the_connection_open(
        self, pair: tuple[SocketConnection, socket.socket], reply: str, remedy: str
    ) -> None:
        connection, peer = pair
        peer.sendall(f"-{reply}\r\n".encode())

        with pytest.raises(Unavailable, match=remedy) as caught:
            connection.call("X")
        assert reply in str(caught.value)
        assert not connection.closed

    def test_half_a_message_is_kept_until_the_other_half_arrives(
        self, pair: tuple[SocketConnection, socket.socket]
    ) -> None:
        connection, peer = pair
        peer.sendall(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\nh")

        assert connection.listen(0.01) is None
        peer.sendall(b"ey\r\n")
        assert connection.listen(5) == [b"message", b"c", b"hey"]

    def test_a_subscribed_connection_may_receive_slowly(self, pair: tuple[SocketConnection, socket.socket]) -> None:
        connection, peer = pair
        assert connection.listen(0) is None

        def serve() -> None:
            read_commands(peer, 1)
            peer.sendall(b"+OK\r\n")

        with in_thread(serve):
            assert connection.call("SET", "k", b"x" * 4_000_000) == b"OK"


class TestPayload:
    def test_a_payload_is_sent_completely_whatever_the_socket_takes_at_once(
        self, pair: tuple[SocketConnection, socket.socket]
    ) -> None:
        connection, peer = pair
        connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        views = [memoryview(bytes([65 + n % 26]) * (n % 300)) for n in range(2500)]
        value = b"".join(views)
        sent: list[bytes] = []

        def serve() -> None:
            sent.append(read_commands(peer, 1))
            peer.sendall(b"+OK\r\n")

        with in_thread(serve):
            connection.store([("key", views)], 1234)
        head = b"*5\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n" % len(value)
        assert sent == [head + value + b"\r\n$2\r\nPX\r\n$4\r\n1234\r\n"]

    def test_an_error_reply_in_the_middle_ends_the_store_and_keeps_the_connection_usable(
        self, pair: tuple[SocketConnection, socket.socket]
    ) -> None:
        connection, peer = pair
        asked: list[str] = []

        def chunks() -> Iterator[tuple[str, list[memoryview]]]:
            while len(asked) < 100:
                asked.append(f"k{len(asked)}")
                yield asked[-1], [memoryview(b"value")]

        peer.sendall(b"+OK\r\n-OOM command not allowed when used memory > 'maxmemory'.\r\n+OK\r\n+OK\r\n+OK\r\n")
        with pytest.raises(Unavailable, match="maxmemory"):
            connection.store(chunks(), 1000)
        assert asked == ["k0", "k1", "k2", "k3", "k4"]
        assert read_commands(peer, 5).count(b"SET") == 5
        peer.sendall(b"+PONG\r\n")
        assert connection.call("PING") == b"PONG"

    def test_a_failover_in_the_middle_of_a_store_closes_the_connection(
        self, pair: tuple[SocketConnection, socket.socket]
    ) -> None:
        connection, peer = pair
        peer.sendall(b"+OK\r\n-READONLY You can't write against a read only replica.\r\n")

        with pytest.raises(Unavailable, match="READONLY"):
            connection.store([("a", [memoryview(b"1")]), ("b", [memoryview(b"2")])], 1000)
        assert connection.closed

    def test_ctrl_c_in_the_middle_of_a_store_closes_the_connection(
        self, pair: tuple[SocketConnection, socket.socket]
    ) -> None:
        connection, _ = pair

        def chunks() -> Iterator[tuple[str, list[memoryview]]]:
            yield "a", [memoryview(b"value")]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            connection.store(chunks(), 1000)
        assert connection.closed

    def test_no_more_than_a_few_chunks_are_asked_for_ahead(self, pair: tuple[SocketConnection, socket.socket]) -> None:
        connection, peer = pair
        target = memoryview(bytearray(10))
        ahead: list[int] = []

        def serve() -> None:
            for number in range(10):
                ahead.append(peer.recv(1 << 16).count(b"GET") if number < 7 else 0)
                peer.sendall(b"$1\r\n%d\r\n" % number)

        with in_thread(serve):
            connection.load([(f"k{number}", [target[number : number + 1]]) for number in range(10)])
        assert ahead == [4, 1, 1, 1, 1, 1, 1, 0, 0, 0]
        assert bytes(target) == b"0123456789"

    @settings(max_examples=60, deadline=None)
    @given(
        values=st.lists(st.lists(st.integers(0, 6000), max_size=4), min_size=1, max_size=4),
        cuts=st.lists(st.integers(1, 9000), max_size=12),
    )
    def test_values_arrive_complete_wherever_the_network_splits_them(
        self, values: list[list[int]], cuts: list[int]
    ) -> None:
        mine, peer = socket.socketpair()
        data = [bytes((number * 7 + i) % 251 for i in range(sum(sizes))) for number, sizes in enumerate(values)]
        stream = b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in data)
        targets = [[memoryview(bytearray(size)) for size in sizes] for sizes in values]

        def serve() -> None:
            rest = stream
            for cut in cuts:
                peer.sendall(rest[:cut])
                rest = rest[cut:]
            peer.sendall(rest)

        with peer, contextlib.closing(SocketConnection(Wire(mine), "peer", 5.0)) as connection, in_thread(serve):
            connection.load([(f"k{number}", views) for number, views in enumerate(targets)])
            assert [b"".join(views) for views in targets] == data
            assert not connection.closed

    @pytest.mark.parametrize(
        ("sent", "error", "words"),
        [
            (b"$-1\r\n$1\r\nx\r\n", BlobMissing, "'a'"),
            (b"$1\r\nx\r\n$2\r\nxx\r\n", DecodeError, "'b' holds 2 bytes where 1 were announced"),
            (b"-NOPERM no\r\n", ServerError, "Grant this ACL user"),
            (b"-LOADING loading\r\n", Unavailable, "cannot serve now"),
            (b"$1\r\nx\r\n$1\r\ny\r\n+more\r\n", Unavailable, "7 bytes nobody asked for"),
            (b"x" * 5000, Unavailable, "first line is longer"),
            (b"$1\r\nx", Unavailable, "closed the connection"),
        ],
    )
    def test_a_failed_load_closes_the_connection(
        self, pair: tuple[SocketConnection, socket.socket], sent: bytes, error: type[Exception], words: str
    ) -> None:
        connection, peer = pair
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)

        with pytest.raises(error, match=words):
            connection.load([("a", [memoryview(bytearray(1))]), ("b", [memoryview(bytearray(1))])])
        assert connection.closed


class TestTLS:
    @pytest.fixture
    def secured(self) -> Iterator[tuple[SocketConnection, ssl.SSLSocket]]:
        authority = trustme.CA()
        there, here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("redis.test").configure_cert(there)
        authority.configure_trust(here)
        mine, theirs = socket.socketpair()
        peers: list[ssl.SSLSocket] = []
        with in_thread(lambda: peers.append(there.wrap_socket(theirs, server_side=True))):
            wire = Wire(here.wrap_socket(mine, server_hostname="redis.test"))
        with peers[0] as peer, contextlib.closing(SocketConnection(wire, "peer", 5.0)) as connection:
            yield connection, peer

    def test_payloads_are_sent_and_received(self, secured: tuple[SocketConnection, ssl.SSLSocket]) -> None:
        connection, peer = secured
        value = b"0123456789" * 50_000
        target = memoryview(bytearray(len(value)))

        def serve() -> None:
            assert value in read_commands(peer, 1)
            peer.sendall(b"+OK\r\n")
            read_commands(peer, 1)
            peer.sendall(b"$%d\r\n%b\r\n" % (len(value), value))

        with in_thread(serve):
            connection.store([("k", [memoryview(value[:7]), memoryview(value[7:])])], 1000)
            connection.load([("k", [target])])
        assert target == value

    def test_an_interrupt_wakes_a_blocked_read_at_once(self, secured: tuple[SocketConnection, ssl.SSLSocket]) -> None:
        connection, _ = secured
        alarm = threading.Timer(0.05, connection.interrupt)
        started = time.monotonic()
        alarm.start()

        with pytest.raises(Unavailable, match="interrupted"):
            connection.receive(LONG)
        assert 0.04 < time.monotonic() - started < 1
        alarm.join()


def test_a_wake_up_that_comes_before_the_first_wait_ends_it(pair: tuple[SocketConnection, socket.socket]) -> None:
    connection, _ = pair
    connection.wake()
    began = time.monotonic()
    assert connection.listen(LONG) is None
    assert time.monotonic() - began < LONG / 2


def test_a_closed_connection_cannot_be_listened_to(pair: tuple[SocketConnection, socket.socket]) -> None:
    connection, _ = pair
    connection.close()
    with pytest.raises(Unavailable, match="the connection is closed"):
        connection.listen(LONG)
