"""Connections to servers of every kind, under faults of the network and restarts."""

# mypy: allow-untyped-calls

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from redflare_broker.errors import ConfigError, ServerError, Unavailable
from redflare_broker.runtime.preflight import check
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.redis_server import kinds
from tests.support.redis_server.cluster import Cluster
from tests.support.redis_server.node import AGENT_ACL, CJ_ACL, CLUSTER_ACL, Node, TlsNode
from tests.support.redis_server.proxy import Proxy, proxy
from tests.support.redis_server.sentinels import SentinelTrio
from tests.support.waiting import wait_until

KEY = "flare:{site-1--trainer}:link"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with kinds.embedded() as running:
        yield running


@pytest.fixture(scope="module")
def tls() -> Iterator[TlsNode]:
    with kinds.tls() as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with kinds.cluster() as running:
        yield running


@pytest.fixture(scope="module")
def sentinel() -> Iterator[SentinelTrio]:
    with kinds.sentinel() as running:
        yield running


@pytest.fixture
def cut(node: Node) -> Iterator[Proxy]:
    with proxy(node.url) as made:
        yield made


def _ping(connection: Connection) -> object:
    return connection.call("PING")


def _increment(connection: Connection) -> object:
    return connection.call("HINCRBY", KEY, "n", 1)


def _write(connection: Connection) -> str:
    connection.call("SET", KEY, 1, "PX", 60_000)
    return connection.node


def _soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_every_kind_of_server_passes_the_preflight_for_both_roles(kind: str) -> None:
    with kinds.KINDS[kind]() as running:
        for options in (running.options, running.agent_options):
            with Server.connect(running.url, options) as server:
                assert check(server).eviction == "noeviction"
        with running.client() as admin:
            assert list(admin.scan_iter("*")) == []


def test_a_database_of_the_url_is_used(node: Node) -> None:
    with Server.connect(f"{node.url}/3") as server, redis.Redis.from_url(f"{node.url}/3") as client:
        server.run(KEY, lambda connection: connection.call("SET", "in-three", 1, "PX", 10_000))
        assert client.get("in-three") == b"1"


def test_settings_are_taken_from_the_client_of_a_real_server(node: Node) -> None:
    with (
        redis.Redis.from_url(f"{node.url}/4", decode_responses=True) as client,
        Server.connect(client=client) as server,
    ):
        server.run(KEY, lambda connection: connection.call("SET", "in-four", 1, "PX", 10_000))
        assert client.get("in-four") == "1"
        assert server.run(KEY, lambda connection: connection.call("GET", "in-four")) == b"1"


def test_the_name_of_a_client_is_listed(node: Node) -> None:
    with Server.connect(node.url, ConnectionOptions(client_name="cj-of-site-1")) as server, node.client() as client:
        server.run(KEY, _ping, deadline=_soon())
        assert "cj-of-site-1" in [entry["name"] for entry in client.client_list()]


def test_a_closed_port_is_unavailable_and_named() -> None:
    with (
        Server.connect("redis://127.0.0.1:1") as server,
        pytest.raises(Unavailable, match=r"redis://127\.0\.0\.1:1 cannot be reached"),
    ):
        server.connection(KEY)


def test_a_wrong_password_is_refused_at_once(node: Node) -> None:
    url = node.url.replace("//", "//nobody:wrong@")
    with Server.connect(url) as server, pytest.raises(ServerError, match="refuses the login") as caught:
        server.run(KEY, _ping, deadline=_soon())
    assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


def test_a_rotated_password_file_is_read_again(node: Node, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("first\n")
    with node.client() as admin:
        admin.execute_command("ACL", "SETUSER", "rotating", "on", ">first", "+ping")
        with Server.connect(node.url, ConnectionOptions(username="rotating", password_file=secret)) as server:
            assert server.run(KEY, _ping, deadline=_soon()) == b"PONG"
            admin.execute_command("ACL", "SETUSER", "rotating", "resetpass", ">second")
            secret.write_text("second\n")
            connection = server.connection(KEY)
            assert connection.call("PING") == b"PONG"
            connection.close()


def test_a_password_that_changes_at_the_server_before_the_file_is_waited_for(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("first")
    secret.chmod(0o600)
    options = ConnectionOptions(username="late", password_file=secret)
    with node.client() as admin, Server.connect(node.url, options) as server:
        admin.execute_command("ACL", "SETUSER", "late", "on", ">first", "+ping")
        assert server.run(KEY, _ping, deadline=_soon()) == b"PONG"
        admin.execute_command("ACL", "SETUSER", "late", "resetpass", ">second")
        admin.execute_command("CLIENT", "KILL", "USER", "late")
        attempts: list[int] = []

        def stop() -> bool:
            attempts.append(1)
            if len(attempts) == 3:
                secret.write_text("second")
            return False

        assert server.run(KEY, _ping, stop=stop, deadline=_soon()) == b"PONG"
    assert len(attempts) == 3
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.search(r"refuses the login: .* accepted before: this is waited out for (60|59) s more", warning)


def test_a_login_that_is_refused_for_too_long_is_final(node: Node) -> None:
    url = node.url.replace("//", "//leaver:pw@")
    with node.client() as admin, Server.connect(url, ConnectionOptions(login_patience=0.3)) as server:
        admin.execute_command("ACL", "SETUSER", "leaver", "on", ">pw", "+ping")
        assert server.run(KEY, _ping, deadline=_soon()) == b"PONG"
        admin.execute_command("ACL", "DELUSER", "leaver")
        with pytest.raises(ServerError, match="refuses the login"):
            server.run(KEY, _ping, deadline=_soon())


def test_connections_that_died_while_idle_are_not_lent(node: Node) -> None:
    with Server.connect(node.url) as server:
        with server.borrow(KEY) as first, server.borrow(KEY) as second:
            assert first.call("PING") == second.call("PING") == b"PONG"
        node.restart()
        with server.borrow(KEY) as connection:
            assert connection not in (first, second)
            assert connection.call("PING") == b"PONG"


@pytest.mark.parametrize("how", ["close", "interrupt"])
def test_a_wait_at_a_connection_that_is_over_opens_nothing(node: Node, how: str) -> None:
    with Server.connect(node.url) as server:
        connection = server.connection(KEY)
        getattr(connection, how)()
        opened = len(os.listdir("/proc/self/fd"))
        with pytest.raises(Unavailable):
            connection.listen(0.1)
        assert len(os.listdir("/proc/self/fd")) <= opened
        connection.close()


def test_run_survives_a_restart_of_the_server(node: Node) -> None:
    with Server.connect(node.url) as server:
        server.run(KEY, _ping, deadline=_soon())
        node.kill()
        with pytest.raises(Unavailable):
            server.run(KEY, _ping, deadline=_soon(0.1))
        node.restart()
        assert server.run(KEY, _ping, deadline=_soon()) == b"PONG"


def test_run_survives_dropped_connections(cut: Proxy) -> None:
    with Server.connect(cut.url) as server:
        server.run(KEY, _ping, deadline=_soon())
        cut.drop()
        with pytest.raises(Unavailable):
            server.run(KEY, _ping, deadline=_soon(0.1))
        cut.pass_through()
        assert server.run(KEY, _ping, deadline=_soon()) == b"PONG"


def test_a_half_open_connection_is_unavailable_after_the_socket_timeout(cut: Proxy) -> None:
    with Server.connect(cut.url, ConnectionOptions(socket_timeout=0.2, connect_timeout=0.2)) as server:
        with server.borrow(KEY) as one, server.borrow(KEY) as other:
            assert one.call("PING") == other.call("PING") == b"PONG"
        cut.half_open()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            server.run(KEY, _ping, stop=lambda: True)
        assert 0.15 < time.monotonic() - began < 1.0
        cut.pass_through()
        assert server.run(KEY, _ping, stop=lambda: True) == b"PONG", "the other idle connection led into the same hole"


def test_a_slow_network_causes_no_error(cut: Proxy) -> None:
    with Server.connect(cut.url, ConnectionOptions(socket_timeout=2)) as server:
        cut.delay(0.05)
        began = time.monotonic()
        assert server.run(KEY, _ping, deadline=_soon()) == b"PONG"
        assert time.monotonic() - began >= 0.1


def test_a_frozen_server_replies_when_it_is_resumed(node: Node) -> None:
    with Server.connect(node.url, ConnectionOptions(socket_timeout=0.1)) as server:
        server.run(KEY, _ping, deadline=_soon())
        node.pause()
        try:
            with pytest.raises(Unavailable):
                server.run(KEY, _ping, stop=lambda: True)
        finally:
            node.resume()
        assert server.run(KEY, _ping, deadline=_soon()) == b"PONG"


def _use_in_child(server: Server, connection: Connection, results: Pipe) -> None:
    uses: list[Callable[[], object]] = [
        lambda: server.run(KEY, _ping, deadline=_soon()),
        lambda: server.connection(KEY),
        lambda: connection.call("PING"),
    ]
    for use in uses:
        try:
            results.send(repr(use()))
        except (ConfigError, Unavailable) as error:
            results.send(f"{type(error).__name__}: {error}")
    server.close()
    results.close()


def test_a_forked_child_is_refused_and_does_not_disturb_its_parent(node: Node) -> None:
    with Server.connect(node.url) as server:
        connection = server.connection(KEY)
        with server.borrow(KEY) as idle:
            idle.call("CLIENT", "SETNAME", "mine")
        reader, writer = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=_use_in_child, args=(server, connection, writer))
        child.start()
        writer.close()
        answers = [reader.recv() for _ in range(3)]
        child.join()
        reader.close()
        refusal = f"ConfigError: the connection to {node.url} was made in process {os.getpid()} and cannot be used"
        assert answers[0].startswith(refusal)
        assert answers[1].startswith(refusal)
        assert answers[2].startswith("Unavailable")
        assert connection.call("PING") == b"PONG"
        with server.borrow(KEY) as same:
            assert same is idle
            assert same.call("CLIENT", "GETNAME") == b"mine"
        connection.close()


def test_tls_requires_a_known_certificate_authority(tls: TlsNode, tmp_path: Path) -> None:
    stranger = tmp_path / "rootCA.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    options = ConnectionOptions(ca_cert=stranger, client_cert=tls.options.client_cert)
    with Server.connect(tls.url, options) as server, pytest.raises(ConfigError, match=r"is not trusted.*Set ca_cert"):
        server.run(KEY, _ping, deadline=_soon())


def test_tls_requires_the_host_of_the_certificate(tls: TlsNode) -> None:
    url = tls.url.replace("localhost", "127.0.0.1")
    with Server.connect(url, tls.options) as server, pytest.raises(ConfigError, match="use the host name"):
        server.run(KEY, _ping, deadline=_soon())


def test_a_missing_client_certificate_is_named(tls: TlsNode) -> None:
    options = ConnectionOptions(ca_cert=tls.options.ca_cert, username="cj", password="cj-secret")
    with Server.connect(tls.url, options) as server, pytest.raises(ServerError, match="client certificate"):
        server.run(KEY, _ping, deadline=_soon())


@pytest.mark.parametrize("what", ["client_cert", "ca_cert"])
@pytest.mark.parametrize("content", ["half", "nothing", "another"])
def test_a_certificate_that_is_being_written_is_waited_for(
    tls: TlsNode, tmp_path: Path, what: str, content: str
) -> None:
    file = tmp_path / f"{what}.pem"
    good = Path(str(getattr(tls.options, what))).read_bytes()
    bad = {"half": good[: len(good) // 2], "nothing": b"", "another": trustme.CA().cert_pem.bytes()}[content]
    file.write_bytes(good)
    changes: dict[str, Any] = {what: file}
    with Server.connect(tls.url, replace(tls.options, **changes)) as server:
        assert server.run(KEY, _ping, deadline=_soon()) == b"PONG"
        server._idle.close()
        file.write_bytes(bad)
        attempts: list[int] = []

        def stop() -> bool:
            attempts.append(1)
            if len(attempts) == 2:
                file.write_bytes(good)
            return False

        assert server.run(KEY, _ping, stop=stop, deadline=_soon()) == b"PONG"
    assert len(attempts) == 2


def _error_at_first(url: str, options: ConnectionOptions) -> str:
    with (
        Server.connect(url, options) as server,
        pytest.raises((Unavailable, ServerError)) as caught,
        server.borrow(KEY) as connection,
    ):
        connection.call("PING")
    assert "EOF occurred" not in str(caught.value)
    assert ".." not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("login", [{}, {"username": "cj", "password": "cj-secret"}], ids=["no login", "login"])
def test_a_url_without_tls_to_a_port_for_tls_is_named(tls: TlsNode, login: dict[str, str]) -> None:
    error = _error_at_first(tls.url.replace("rediss://", "redis://"), ConnectionOptions(**login))  # type: ignore[arg-type]
    assert "it has ended the connection. Is it a port for TLS? Then use rediss://" in error


@pytest.mark.parametrize("login", [{}, {"username": "cj", "password": "cj-secret"}], ids=["no login", "login"])
def test_a_wrong_client_certificate_is_named(tls: TlsNode, tmp_path: Path, login: dict[str, str]) -> None:
    stranger = tmp_path / "client.pem"
    trustme.CA().issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(stranger))
    stranger.chmod(0o600)
    options = ConnectionOptions(ca_cert=tls.options.ca_cert, client_cert=stranger, **login)  # type: ignore[arg-type]
    error = _error_at_first(tls.url, options)
    assert "client certificate (client_cert, client_key)" in error


def test_a_missing_client_certificate_is_named_without_a_login_too(tls: TlsNode) -> None:
    error = _error_at_first(tls.url, ConnectionOptions(ca_cert=tls.options.ca_cert))
    assert "client certificate (client_cert, client_key)" in error


def test_a_url_with_tls_to_a_port_without_is_named(node: Node) -> None:
    options = ConnectionOptions(connect_timeout=0.5, socket_timeout=0.5)
    error = _error_at_first(node.url.replace("redis://", "rediss://"), options)
    assert "it does not answer the TLS handshake. Does it speak TLS at this port" in error


def test_a_refused_login_ends_its_sentences_once(node: Node, tls: TlsNode) -> None:
    options = ConnectionOptions(ca_cert=tls.options.ca_cert, client_cert=tls.options.client_cert)
    wrong = replace(options, username="cj", password="wrong")
    assert "is disabled. Set user and password" in _error_at_first(tls.url, wrong)
    assert "NOAUTH Authentication required. Set the user" in _error_at_first(tls.url, options)


def test_a_password_that_the_server_does_not_have_is_named(node: Node) -> None:
    error = _error_at_first(node.url.replace("redis://", "redis://:pw@"), ConnectionOptions())
    assert "a password is given, but this Redis has none for its user default. Leave the password out" in error
    assert "Set user and password" not in error


def test_tls_connections_that_died_while_idle_are_not_lent(tls: TlsNode) -> None:
    with Server.connect(tls.url, tls.options) as server, tls.client() as admin:
        with server.borrow(KEY) as first:
            assert first.call("PING") == b"PONG"
        with server.borrow(KEY) as again:
            assert again is first
            assert again.call("PING") == b"PONG"
        admin.client_kill_filter(skipme=True, _type="normal")
        with server.borrow(KEY) as connection:
            assert connection is not first
            assert connection.call("PING") == b"PONG"


def test_an_acl_user_reaches_no_other_keys_and_channels(tls: TlsNode) -> None:
    with Server.connect(tls.url, tls.agent_options) as server:
        for refused in (("SET", "other", 1), ("PUBLISH", "other", 1), ("FLUSHALL",), ("SET", "flare:blob:{x}:0", 1)):
            with pytest.raises(ServerError, match="NOPERM"):
                server.run(KEY, lambda connection, command=refused: connection.call(*command))  # type: ignore[misc]


def test_keys_of_a_cluster_are_reached_on_their_nodes(cluster: Cluster) -> None:
    with Server.connect(cluster.url) as server:
        keys = [f"flare:{{site-{number}--a}}:link" for number in range(20)]
        nodes = set()
        for key in keys:

            def write(connection: Connection, key: str = key) -> str:
                connection.call("SET", key, 1, "PX", 5000)
                return connection.node

            nodes.add(server.run(key, write))
        assert len(nodes) == 3
        assert set(keys) <= set(server.scan("flare:{site-*"))


@pytest.mark.parametrize("rules", [AGENT_ACL, CJ_ACL])
def test_the_recommended_rights_are_enough_on_a_cluster(cluster: Cluster, rules: str) -> None:
    for node in cluster.nodes:
        with node.client() as admin:
            admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">pw", *rules.split(), *CLUSTER_ACL.split())
    with Server.connect(cluster.url, ConnectionOptions(username="bob", password="pw")) as server:
        assert check(server).eviction == "noeviction"


def test_nodes_are_taken_from_a_cluster_client(cluster: Cluster) -> None:
    with cluster.client() as client, Server.connect(client=client) as server:
        assert server.cluster
        assert server.run(KEY, lambda connection: connection.call("SET", KEY, 1, "PX", 1)) == b"OK"


def test_a_moved_slot_is_followed(cluster: Cluster) -> None:
    with Server.connect(cluster.url) as server:
        home = cluster.primary_of(KEY)
        assert server.run(KEY, lambda connection: connection.node) == f"127.0.0.1:{home.port}"
        moved = cluster.hand_over(KEY)
        assert moved is not home
        assert server.run(KEY, _write, deadline=_soon()) == f"127.0.0.1:{moved.port}"


def test_a_dead_primary_of_a_cluster_is_replaced(cluster: Cluster) -> None:
    with Server.connect(cluster.url) as server:
        server.run(KEY, lambda connection: connection.call("DEL", KEY))
        assert server.run(KEY, _increment, deadline=_soon()) == 1
        dedicated = server.connection(KEY)
        lost = cluster.primary_of(KEY)
        lost.kill()
        with pytest.raises(Unavailable):
            dedicated.call("PING")
        try:
            assert isinstance(server.run(KEY, _increment, deadline=_soon(30)), int)
            successor = server.connection(KEY)
            assert successor.node not in (dedicated.node, f"127.0.0.1:{lost.port}")
            successor.close()
        finally:
            lost.restart()


def test_a_node_of_a_cluster_is_no_single_server(cluster: Cluster) -> None:
    other = next(node for node in cluster.nodes[:3] if node is not cluster.primary_of(KEY))
    with Server.connect(other.url) as server, pytest.raises(Unavailable, match="MOVED"):
        server.run(KEY, lambda connection: connection.call("GET", KEY), stop=lambda: True)


def test_a_failover_by_sentinel_is_followed(sentinel: SentinelTrio) -> None:
    with Server.connect(sentinel.url) as server:
        server.run(KEY, lambda connection: connection.pipeline([("SET", "before", 1, "PX", 60_000), ("WAIT", 1, 1000)]))
        dedicated = server.connection(KEY)
        old = sentinel.failover()
        new = f"127.0.0.1:{sentinel.primary.port}"
        with pytest.raises(Unavailable):
            dedicated.call("PING")
        written = server.run(
            KEY,
            lambda connection: connection.call("SET", "after", 1, "PX", 60_000) and connection.node,
            deadline=_soon(),
        )
        assert written == new != f"127.0.0.1:{old.port}"
        assert server.run(KEY, lambda connection: connection.call("GET", "before")) == b"1"


def test_an_unreachable_sentinel_is_skipped(sentinel: SentinelTrio) -> None:
    sentinel.sentinels[0].kill()
    try:
        with Server.connect(sentinel.url) as server:
            assert server.run(KEY, _ping, stop=lambda: True) == b"PONG"
    finally:
        sentinel.sentinels[0].restart()


def test_a_service_that_no_sentinel_knows_is_unavailable_and_named(sentinel: SentinelTrio) -> None:
    url = sentinel.url.replace("/main", "/mian")
    with Server.connect(url) as server, pytest.raises(Unavailable, match="No master found for 'mian'"):
        server.connection(KEY)


def test_close_leaves_no_connection(node: Node) -> None:
    with node.client() as admin:
        before = len(admin.client_list())
        with Server.connect(node.url) as server:
            with server.borrow(KEY), server.borrow(KEY):
                assert len(admin.client_list()) == before + 2
            list(server.scan("*"))
        wait_until(lambda: len(admin.client_list()) == before)
