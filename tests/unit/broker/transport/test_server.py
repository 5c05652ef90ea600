"""URLs, options, and the pool of connections, without a server."""

from __future__ import annotations

import os
import socket
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redflare_broker.errors import ConfigError, ServerError, Unavailable
from redflare_broker.transport.cluster_slots import Address, Topology, key_slot
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.dial import AnySentinelDialer, Dialer, abandon, url_dialer
from redflare_broker.transport.idle_connections import MAX_IDLE
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.transport.url import ServerUrl
from redis.connection import Connection as RawConnection
from redis.crc import key_slot as reference_slot

from tests.support.waiting import wait_until


def _fail(server: Server, failure: BaseException, lent: list[Connection]) -> None:
    with server.borrow("a") as connection:
        lent.append(connection)
        raise failure


@pytest.fixture
def fake() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def server(fake: fakeredis.FakeServer) -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis(server=fake)) as made:
        yield made


def test_a_plain_url_names_host_port_and_database() -> None:
    url = ServerUrl.parse("redis://example.org:7000/3")
    assert (url.mode, url.tls, url.nodes, url.db) == ("single", False, (("example.org", 7000),), 3)


def test_what_a_plain_url_leaves_out_has_defaults() -> None:
    url = ServerUrl.parse("rediss://example.org")
    assert (url.tls, url.nodes, url.db, url.username, url.password) == (True, (("example.org", 6379),), 0, None, None)


def test_user_and_password_are_percent_decoded() -> None:
    url = ServerUrl.parse("redis://site%2D1:p%40ss%2Fword@h")
    assert (url.username, url.password) == ("site-1", "p@ss/word")


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert ServerUrl.parse("redis://[::1]:7000").nodes == (("::1", 7000),)


def test_a_unix_url_names_a_path_and_a_database() -> None:
    url = ServerUrl.parse("unix:///run/a%20b.sock?db=2")
    assert (url.mode, url.path, url.db) == ("unix", "/run/a b.sock", 2)


def test_a_sentinel_url_names_sentinels_service_and_database() -> None:
    url = ServerUrl.parse("rediss+sentinel://u:p@a:1,b/main/4")
    assert (url.mode, url.tls, url.nodes) == ("sentinel", True, (("a", 1), ("b", 26379)))
    assert (url.service, url.db, url.username, url.password) == ("main", 4, "u", "p")


def test_the_name_of_a_service_and_a_path_are_percent_decoded() -> None:
    assert ServerUrl.parse("redis+sentinel://a/my%2Fprimary").service == "my/primary"
    assert ServerUrl.parse("unix:///run/my%20redis.sock").path == "/run/my redis.sock"


def test_the_sentinel_that_answered_last_is_asked_first() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed, socket.create_server(("127.0.0.1", 0)) as answering:
        away, there = closed.getsockname()[1], answering.getsockname()[1]
        closed.close()
        url = ServerUrl.parse(f"redis+sentinel://127.0.0.1:{away},127.0.0.1:{there}/primary")
        sentinels = AnySentinelDialer(url, RawConnection, {}, ConnectionOptions())
        abandon(sentinels.dial(None))
    assert sentinels.nodes == [("127.0.0.1", there), ("127.0.0.1", away)]


def test_connecting_and_answering_have_timeouts_of_their_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = ServerUrl.parse(f"redis://127.0.0.1:{listening.getsockname()[1]}")
        raw = url_dialer(url, ConnectionOptions(connect_timeout=3.0, socket_timeout=7.0)).dial(None)
        assert (raw.socket_connect_timeout, raw.socket_timeout) == (3.0, 7.0)
        abandon(raw)


def test_a_cluster_url_names_some_of_its_nodes() -> None:
    url = ServerUrl.parse("redis+cluster://a:1,b")
    assert (url.mode, url.nodes) == ("cluster", (("a", 1), ("b", 6379)))


@pytest.mark.parametrize(
    ("url", "shown", "complaint"),
    [
        ("http://h", "http://...", "unknown scheme 'http'"),
        ("", "", "it is empty"),
        ("localhost:6379", "***", "it has no scheme: write redis:// before the host; use redis://"),
        ("redis://", "redis://", "a host is missing"),
        ("redis://h:port", "redis://...", "its port is not a number"),
        ("redis://h:70000", "redis://...", "65535"),
        ("redis://[h", "redis://...", "its host or its port cannot be read"),
        ("redis://h/first", "redis://...", "its database is not a number"),
        ("redis://h/-1", "redis://...", "its database is not a number"),
        ("redis://h/1/2", "redis://...", "nothing may follow its database"),
        ("redis://h?db=1", "redis://...", "it has a query"),
        ("redis://h#x", "redis://...", "it has a #"),
        ("redis://a,b", "redis://...", "several addresses"),
        ("redis+sentinel://h", "redis+sentinel://...", "service"),
        ("redis+cluster://h/1", "redis+cluster://...", "no databases"),
        ("unix://run/s", "unix://...", "three slashes"),
        ("unix:///s?timeout=1", "unix://...", "its query may only be db=<number>"),
        ("unix:///s?db=first", "unix://...", "its database is not a number"),
        ("embedded://", "embedded://", "EmbeddedServer"),
    ],
)
def test_a_bad_url_is_shown_with_what_is_wrong_and_what_is_accepted(url: str, shown: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerUrl.parse(url)
    assert f"{shown!r} is not usable" in str(caught.value)
    assert complaint in str(caught.value)
    assert "redis+sentinel://host:port" in str(caught.value)


@pytest.mark.parametrize("url", ["redis://u:geheim@h:bad", "rediss+cluster://:geheim@a,b/9", "ftp://u:geheim@h"])
def test_no_message_shows_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerUrl.parse(url)
    assert "geheim" not in str(caught.value)
    assert "***@" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        # a password that is not percent-encoded is taken for another part
        "redis://:57#SeCreT@host",
        "redis://:57/SeCreT@host",
        "redis://:57?SeCreT@host",
        "redis://:SeCreT/x@host",
        "redis://:SeCreT[x@host",
        "redis://:Se]CreT@host/SeCreT",
        "redis://:SeCreT\u2100@host",
        "redis://user:SeCreT",
        "redis://host:6379/SeCreT",
        "redis://host:6379/0/SeCreT",
        "redis://host?password=SeCreT",
        "redis+sentinel://u:57/SeCreT@host:26379/main",
        "redis+sentinel://u:57/SeCreT@host/0",
        "redis+cluster://u:SeCreT/x@a,b",
        "unix://:SeCreT/x@/run/s",
        "unix:///run/s?SeCreT",
        "unix:///run/s?password=SeCreT",
        "unix:///run/s?db=SeCreT",
        "redis:/:SeCreT@host",
        "redis:SeCreT@host",
        "SeCreT@host",
        "user:SeCreT@host:6379",
        "SeCreT",
        "Se:CreT://SeCreT@host",
    ],
)
def test_no_reason_quotes_a_part_of_a_url_behind_its_scheme(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerUrl.parse(url)
    shown = "".join(traceback.format_exception(caught.value))
    assert "SeCreT" not in shown
    assert "CreT" not in str(caught.value)
    assert "57" not in str(caught.value)
    assert "percent-encode the password" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://u:SeCreT@h:7000/3", "redis://u:***@h:7000/3"),
        ("redis://:SeCreT@h", "redis://:***@h"),
        ("redis://SeCreT@h", "redis://***@h"),
        ("redis://SeCreT:@h", "redis://***@h"),
        ("redis://:Se@CreT@h", "redis://:***@h"),
        ("unix://SeCreT@/run/s?db=2", "unix://***@/run/s?db=2"),
        ("unix:///run/a@b", "unix:///run/a@b"),
        ("redis://h:7000/3", "redis://h:7000/3"),
    ],
)
def test_a_password_is_masked_in_the_place_of_the_user_too(url: str, masked: str) -> None:
    parsed = ServerUrl.parse(url)
    assert parsed.masked == masked
    assert "SeCreT" not in repr(parsed)


@pytest.mark.parametrize("name", ["password_file", "client_key"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_secret_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, name: str, mode: int) -> None:
    secret, certificate = tmp_path / "a secret", tmp_path / "client.crt"
    secret.write_text("geheim")
    certificate.write_text("")
    options = ConnectionOptions(**{"client_cert": certificate, name: secret})  # type: ignore[arg-type]
    secret.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        options.check_files()
    assert f"{name} '{secret}' can be read by others (mode {mode:04o})" in str(caught.value)
    assert f"chmod 600 '{secret}'" in str(caught.value)
    secret.chmod(0o600)
    options.check_files()


def test_no_repr_shows_a_password() -> None:
    shown = [
        repr(ConnectionOptions(password="geheim", sentinel_password="geheim")),
        repr(ServerUrl.parse("redis://u:geheim@h")),
        repr(Server.connect("redis://u:geheim@h")),
    ]
    assert "geheim" not in "".join(shown)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"socket_timeout": 0}, "socket_timeout must be a positive number of seconds, but got 0"),
        ({"connect_timeout": "5"}, "connect_timeout must be"),
        ({"socket_timeout": float("nan")}, "socket_timeout must be"),
        ({"password": "a", "password_file": "b"}, "both set"),
        ({"client_key": "key.pem"}, "client_cert is not set"),
        ({"db": -1}, "db must be a number >= 0, but got -1"),
    ],
)
def test_an_invalid_option_is_named(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ConnectionOptions(**settings)  # type: ignore[arg-type]


def test_a_file_that_is_not_there_is_named_before_any_connection(tmp_path: Path) -> None:
    missing = tmp_path / "rootCA.pem"
    with pytest.raises(ConfigError, match=rf"ca_cert '{missing}' does not exist"):
        Server.connect("rediss://h", ConnectionOptions(ca_cert=missing))


def test_certificates_with_a_url_without_tls_are_refused(tmp_path: Path) -> None:
    certificate = tmp_path / "rootCA.pem"
    certificate.touch()
    with pytest.raises(ConfigError, match=r"ca_cert given, but redis://h is not a TLS URL: use rediss://"):
        Server.connect("redis://h", ConnectionOptions(ca_cert=certificate))


def test_a_database_on_a_cluster_is_refused() -> None:
    with pytest.raises(ConfigError, match="which has no databases"):
        Server.connect("redis+cluster://h", ConnectionOptions(db=1))


def test_neither_url_nor_client_is_an_error() -> None:
    with pytest.raises(ConfigError, match="URL or a client"):
        Server.connect()


def node_that_knows(slots: list[list[Any]]) -> Any:
    """Stand for a connection to a node of a cluster that answers with this slot map."""
    return SimpleNamespace(call=lambda *command: slots, close=lambda: None)


def test_after_a_failure_another_node_is_asked_for_the_slots() -> None:
    slots = [[0, 8191, [b"a", 1]], [8192, 16383, [b"b", 2]]]
    asked: list[Address] = []

    def open_node(address: Address) -> Any:
        asked.append(address)
        return node_that_knows(slots)

    topology = Topology([("a", 1)], open_node)
    for _ in range(3):
        topology.node("key")
        topology.invalidate()
    assert asked == [("a", 1), ("b", 2), ("a", 1)]


def test_a_slot_that_no_node_serves_is_asked_for_again() -> None:
    slots: list[list[Any]] = [[0, 1, [b"a", 1]]]
    topology = Topology([("a", 1)], lambda address: node_that_knows(slots))
    with pytest.raises(Unavailable, match="serves slot"):
        topology.node("key")
    slots[0][1] = 16383
    assert topology.node("key") == ("a", 1)


def test_the_last_slot_of_a_node_is_its_own() -> None:
    slot = key_slot("key")
    slots = [[0, slot, [b"?", 1]], [slot + 1, 16383, [b"b", 2]]]
    topology = Topology([("a", 1)], lambda address: node_that_knows(slots))
    assert topology.node("key") == ("a", 1)


def test_wake_ups_are_sharded_on_a_cluster_only() -> None:
    plain, cluster = Server.connect("redis://h"), Server.connect("redis+cluster://h")
    assert (plain.cluster, plain.publish, plain.subscribe) == (False, "PUBLISH", "SUBSCRIBE")
    assert (cluster.cluster, cluster.publish, cluster.subscribe) == (True, "SPUBLISH", "SSUBSCRIBE")


@given(st.text() | st.from_regex(r"a?\{[ab}]*\}{0,2}c?", fullmatch=True))
def test_slots_are_those_of_redis(key: str) -> None:
    encoded = key.encode("utf-8", "surrogatepass")
    if encoded.decode("utf-8", "replace") == key:
        assert key_slot(key) == reference_slot(encoded)


def test_a_client_of_a_fake_server_serves_connections_and_scans(server: Server) -> None:
    with server.borrow("a") as connection:
        connection.call("SET", "a", 1)
    own = server.connection("a")
    own.call("SET", "b", 2)
    own.close()
    assert sorted(server.scan("*")) == ["a", "b"]
    assert list(server.scan("b*")) == ["b"]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="shows the timers of connections on Linux alone")
@pytest.mark.parametrize("keepalive", [True, False])
def test_an_idle_connection_is_asked_after_by_the_kernel_within_half_a_minute(keepalive: bool) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Server.connect(
            f"redis://127.0.0.1:{listener.getsockname()[1]}", ConnectionOptions(keepalive=keepalive)
        ) as server,
        closing(server.connection("a")),
    ):
        accepted, (_, port) = listener.accept()
        with accepted:
            assert (0 < _keepalive_due(port) <= 30) is keepalive


def _keepalive_due(port: int) -> float:
    """Seconds until the kernel sends a keepalive on the connection from a local port; 0: it does not."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, _, _, timer, *_ = line.split()
        if int(local.partition(":")[2], 16) == port:
            kind, _, left = timer.partition(":")
            return int(left, 16) / os.sysconf("SC_CLK_TCK") if kind == "02" else 0.0
    raise AssertionError(f"no connection from port {port}")


def test_a_borrowed_connection_is_borrowed_again(server: Server) -> None:
    with server.borrow("a") as first:
        pass
    with server.borrow("a") as second:
        assert second is first


def test_two_borrowers_at_once_get_two_connections(server: Server) -> None:
    with server.borrow("a") as first, server.borrow("a") as second:
        assert second is not first


def test_a_connection_whose_use_failed_is_closed_and_never_lent_again(server: Server) -> None:
    lent: list[Connection] = []
    for failure in (ValueError("of the borrower"), ServerError("refused"), Unavailable("away"), KeyboardInterrupt()):
        with pytest.raises(type(failure)):
            _fail(server, failure, lent)
        assert lent[-1].closed
    with server.borrow("a") as connection:
        assert connection not in lent


def test_an_interrupted_connection_is_not_lent_again(server: Server) -> None:
    with server.borrow("a") as first:
        first.interrupt()
    with server.borrow("a") as second:
        assert second is not first
        assert first.closed
        assert second.call("PING") == b"PONG"


class Unreachable(Dialer):
    """Counts the attempts to reach it."""

    def __init__(self) -> None:
        super().__init__("nowhere")
        self.attempts = 0

    def dial(self, address: Address | None) -> NoReturn:
        self.attempts += 1
        raise Unavailable("nowhere cannot be reached", cause="LOADING")


def test_many_threads_that_lost_a_node_try_it_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("redflare_broker.transport.server.time", SimpleNamespace(monotonic=lambda: clock.now))
    dialer = Unreachable()
    with Server(dialer, ConnectionOptions()) as server:
        for attempts in (1, 2):
            for _ in range(1000):
                with pytest.raises(Unavailable, match="cannot be reached") as caught:
                    server.connection("a")
                assert caught.value.cause == "LOADING"
            assert dialer.attempts == attempts
            # sooner than any thread that waits after its first failure
            clock.now += 0.025


def test_a_failure_closes_the_other_idle_connections_too(server: Server) -> None:
    with server.borrow("a") as first, server.borrow("a") as second:
        pass
    with pytest.raises(Unavailable), server.borrow("a"):
        raise Unavailable("away")
    assert first.closed
    assert second.closed


def test_no_more_connections_are_kept_than_allowed(server: Server) -> None:
    borrowed = [server.borrow("a") for _ in range(MAX_IDLE + 2)]
    connections = [lent.__enter__() for lent in borrowed]
    for lent in borrowed:
        lent.__exit__(None, None, None)
    assert sum(not connection.closed for connection in connections) == MAX_IDLE


def test_run_waits_out_a_server_that_is_away(server: Server, fake: fakeredis.FakeServer) -> None:
    fake.connected = False
    attempts = []

    def tries(connection: Connection) -> object:
        return connection.call("PING")

    def back() -> bool:
        attempts.append(1)
        fake.connected = len(attempts) >= 2
        return False

    assert server.run("a", tries, stop=back) == b"PONG"
    assert len(attempts) == 2


def test_run_ends_when_it_is_stopped(server: Server, fake: fakeredis.FakeServer) -> None:
    fake.connected = False
    with pytest.raises(Unavailable, match="cannot be reached"):
        server.run("a", lambda connection: connection.call("PING"), stop=lambda: True)


def test_run_begins_no_attempt_behind_its_deadline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now, attempts = 1000.0, list[float]()

    def fails(connection: Connection) -> None:
        attempts.append(now)
        assert len(attempts) < 100
        raise Unavailable("away")

    # a clock that stands still: only what it would wait can tell it that there is no time left
    monkeypatch.setattr("redflare_broker.transport.server.time", SimpleNamespace(monotonic=lambda: now))
    with pytest.raises(Unavailable, match="away"):
        server.run("a", fails, deadline=now + 0.001)
    assert len(attempts) == 1
    with pytest.raises(Unavailable, match="away"):
        server.run("a", fails, deadline=now + 0.06)
    assert len(attempts) > 2


def test_run_does_not_repeat_what_the_server_refuses(server: Server) -> None:
    calls = []

    def wrong(connection: Connection) -> object:
        calls.append(1)
        connection.call("SET", "text", "x")
        return connection.call("XADD", "text", "*", "a", "b")

    with pytest.raises(ServerError, match="WRONGTYPE"):
        server.run("a", wrong)
    assert len(calls) == 1


def test_close_ends_a_waiting_run_at_once(server: Server, fake: fakeredis.FakeServer) -> None:
    fake.connected = False
    ended: list[Exception] = []
    failing = threading.Event()

    def stop() -> bool:
        failing.set()
        return False

    def run() -> None:
        try:
            server.run("a", lambda connection: connection.call("PING"), stop=stop)
        except (Unavailable, ConfigError) as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert failing.wait(5)
    server.close()
    thread.join(0.5)
    assert len(ended) == 1


def test_a_closed_server_refuses_and_closes_again(server: Server) -> None:
    with server.borrow("a") as connection:
        pass
    server.close()
    server.close()
    assert connection.closed
    for use in (server.connection, lambda key: server.borrow(key).__enter__(), lambda key: list(server.scan(key))):
        with pytest.raises(ConfigError, match="is closed: make a new Server"):
            use("a")


def test_a_connection_that_is_returned_after_close_is_closed(server: Server) -> None:
    with server.borrow("a") as connection:
        server.close()
    assert connection.closed


def test_a_forgotten_server_warns() -> None:
    server = Server.connect(client=fakeredis.FakeRedis())
    server.run("a", lambda connection: connection.call("PING"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del server
        wait_until(lambda: caught)
    assert caught[0].category is ResourceWarning
    assert "unclosed <Server" in str(caught[0].message)


def test_many_threads_borrow_without_sharing_a_connection(server: Server) -> None:
    busy: set[Connection] = set()
    shared = []

    def work() -> None:
        for _ in range(50):
            with server.borrow("n") as connection:
                if connection in busy:
                    shared.append(connection)
                busy.add(connection)
                connection.call("INCR", "n")
                busy.discard(connection)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not shared
    assert server.run("n", lambda connection: connection.call("GET", "n")) == b"400"
