"""Streams on a real server: memory, lost connections, restarts and loss of data of the server, processes that die."""

from __future__ import annotations

import filecmp
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redflare_broker.config.settings import LinkSettings
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.transport.server import Server
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.shareable import ReservedHeaderKey

from tests.programs import streaming
from tests.programs.streaming import StreamArgs
from tests.support.cell.cells import SETTINGS
from tests.support.cell.messengers import Peers, peers_at
from tests.support.cell.streams import Numbers, Sink
from tests.support.process.child import Child
from tests.support.redis_server.kinds import embedded
from tests.support.redis_server.proxy import Proxy, proxy
from tests.support.waiting import wait_until

MB = 1 << 20
#: Bytes by which the memory of each side may grow during a stream.
ALLOWED = 64 * MB
#: The same way as 2 GB: a window of chunks, whatever the file's size. Set it to 2048 to see.
FILE_MB = int(os.environ.get("REDFLARE_TEST_FILE_MB", "256"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def cable(url: str) -> Iterator[Proxy]:
    with proxy(url) as laid:
        yield laid


def written(path: Path, megabytes: int) -> Path:
    piece = os.urandom(MB)
    with path.open("wb") as file:
        for number in range(megabytes):
            file.write(number.to_bytes(8, "big") + piece[8:])
    return path


def used_memory(url: str) -> int:
    with Server.connect(url) as server, server.borrow("any") as connection:
        info = connection.call("INFO", "memory")
        assert isinstance(info, bytes)
        return int(info.split(b"used_memory:")[1].split()[0])


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
def test_a_large_file_needs_little_memory_at_either_side_and_in_redis(url: str, namespace: str, tmp_path: Path) -> None:
    settings = LinkSettings(namespace=namespace)
    folder = tmp_path / "in"
    folder.mkdir()
    warm, large = written(tmp_path / "warm", 4), written(tmp_path / "large", FILE_MB)
    made = {name: StreamArgs(url=url, settings=settings, name=name, folder=str(folder)) for name in ("server", "site")}
    with (
        Child(streaming.main, made["server"], tmp_path / "server.log") as server,
        Child(streaming.main, made["site"], tmp_path / "site.log") as site,
    ):
        server.receive("started"), site.receive("started")
        site.send("send", str(warm))
        assert site.receive("sent")[0] == server.receive("received")[0] == ReturnCode.OK
        for child in (server, site):
            child.send("measure")
            child.receive("measures")
        before = used_memory(url)
        site.send("send", str(large))
        server.receive("chunks", 60)
        in_redis = used_memory(url) - before
        rc, peak_of_sender = site.receive("sent", 300)
        _, location, peak_of_receiver = server.receive("received", 60)
        assert rc == ReturnCode.OK
        assert filecmp.cmp(location, large, shallow=False)
        assert max(peak_of_sender, peak_of_receiver, in_redis) < ALLOWED, (peak_of_sender, peak_of_receiver, in_redis)
        server.end()
        site.end()
    shutil.rmtree(folder)
    large.unlink()


# -- connections -------------------------------------------------------------------------------------------------------


def receive(peers: Peers, sink: Sink, server: Server | None = None) -> Sink:
    peers.make("server", server).register_stream_processing("c", "t", sink, sink.done)
    return sink


def begin(peers: Peers, producer: Numbers, server: Server | None = None) -> tuple[threading.Thread, list[Any]]:
    site = peers.make("site", server)
    results: list[Any] = []
    sending = threading.Thread(
        target=lambda: results.append(site.stream_objects("c", "t", {}, ["server"], producer, site.new_context()))
    )
    sending.start()
    return sending, results


@pytest.mark.parametrize("how", ["drop", "half open"])
@pytest.mark.parametrize("whose", ["the sender's", "the receiver's"])
def test_a_stream_continues_when_a_lost_connection_is_back(
    url: str, cable: Proxy, namespace: str, whose: str, how: str
) -> None:
    with peers_at(url, namespace) as peers, Server.connect(cable.url, peers.settings.connection) as far:
        sink = receive(peers, Sink(), far if whose == "the receiver's" else None)
        cut = threading.Event()
        go = threading.Event()

        def values() -> Iterator[Any]:
            for number in range(60):
                if number == 20:
                    cut.set()
                    go.wait(20)
                yield {"number": number, "blob": bytes(5000)}

        # the connection is broken for longer than the timeout of an object
        producer = Numbers(values(), window=4, timeout=0.4)
        sending, results = begin(peers, producer, far if whose == "the sender's" else None)
        assert cut.wait(20)
        cable.drop() if how == "drop" else cable.half_open()
        go.set()
        away = threading.Event()
        away.wait(1.5)
        assert not results
        cable.pass_through()
        sending.join(30)
        assert results == [(ReturnCode.OK, None)]
        assert [value["number"] for value in sink.values] == list(range(60))
        # what could not be deleted while the connection was away expires
        wait_until(lambda: len(peers.blobs()) <= 4 * producer.window)


@pytest.mark.parametrize("durable", [True, False])
def test_a_stream_survives_a_restart_of_the_server_with_and_without_its_data(namespace: str, durable: bool) -> None:
    with embedded(durable=durable) as node, peers_at(node.url, namespace) as peers:
        reached, go = threading.Event(), threading.Event()

        def take(value: dict[str, Any]) -> None:
            if value["number"] == 10:
                reached.set()
                go.wait(30)

        sink = receive(peers, Sink(take))
        producer = Numbers(({"number": number, "blob": bytes(5000)} for number in range(40)), window=4, timeout=5.0)
        sending, results = begin(peers, producer)
        assert reached.wait(20)
        node.kill()
        node.restart()
        go.set()
        sending.join(60)
        assert results == [(ReturnCode.OK, None)]
        assert [value["number"] for value in sink.values] == list(range(40))


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_file_goes_on_where_a_receiver_was_that_was_killed(url: str, namespace: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, namespace=namespace)
    large = written(tmp_path / "large", 64)
    folder = tmp_path / "in"
    folder.mkdir()
    args = {n: StreamArgs(url=url, settings=settings, name=n, folder=str(folder)) for n in ("server", "site")}
    with Child(streaming.main, args["site"], tmp_path / "site.log") as site:
        with Child(streaming.main, args["server"], tmp_path / "server.log") as server:
            server.receive("started"), site.receive("started")
            site.send("send", str(large))
            server.receive("chunks")
            server.kill()
        [part] = folder.iterdir()
        kept = part.stat().st_size
        assert (part.suffix, kept >= 15 * MB) == (".part", True)
        with Child(streaming.main, args["server"], tmp_path / "server-2.log") as server:
            server.receive("started")
            assert site.receive("sent", 60)[0] == ReturnCode.OK
            # 16 chunks of 64 were not sent again: these are told of
            assert [server.receive("chunks", 20)[0] for _ in range(3)] == [16, 32, 48]
            rc, location, _ = server.receive("received", 20)
            assert rc == ReturnCode.OK
            assert filecmp.cmp(large, location, shallow=False)
            server.end()
        assert [str(each) for each in folder.iterdir()] == [location]
        site.end()


@pytest.mark.parametrize("window", [1, 4])
def test_a_receiver_that_is_killed_and_started_again_gets_every_object(
    url: str, namespace: str, tmp_path: Path, window: int
) -> None:
    settings = replace(SETTINGS, namespace=namespace)
    site_args, server_args = (
        StreamArgs(url=url, settings=settings, name=name, folder=str(tmp_path)) for name in ("site", "server")
    )
    values = [*range(30), bytes(5 * MB), *range(30, 60)]
    with Child(streaming.main, site_args, tmp_path / "site.log") as site:
        # the second is killed while it is sent again what the first had
        for number, hold_at in enumerate((40, 10)):
            args = replace(server_args, hold_at=hold_at)
            with Child(streaming.main, args, tmp_path / f"server-{number}.log") as server:
                server.receive("started")
                if number == 0:
                    site.receive("started")
                    site.send("stream", values, window)
                assert server.receive("holds") == (hold_at,)
                server.kill()
        with Child(streaming.main, server_args, tmp_path / "server.log") as server:
            assert site.receive("sent", 60) == (ReturnCode.OK, [ReturnCode.OK] * len(values))
            assert server.receive("streamed") == (ReturnCode.OK, values)
            server.end()
        site.end()


def test_a_receiver_that_stays_dead_is_a_timeout(url: str, namespace: str, tmp_path: Path) -> None:
    with peers_at(url, namespace) as peers:
        sink = receive(peers, Sink())
        producer = Numbers(iter(range(1000)), timeout=0.5)
        sink.take = lambda value: peers._made[0].cell.stop() if value == 5 else None
        sending, results = begin(peers, producer)
        sending.join(20)
        assert results == [(ReturnCode.ERROR, False)]
        assert producer.replies[-1]["server"].get_header(ReservedHeaderKey.ERROR)


def test_a_sender_that_is_killed_leaves_no_half_file(url: str, namespace: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, namespace=namespace)
    large = written(tmp_path / "large", 128)
    folder = tmp_path / "in"
    folder.mkdir()
    args = {n: StreamArgs(url=url, settings=settings, name=n, folder=str(folder)) for n in ("server", "site")}
    with Child(streaming.main, args["server"], tmp_path / "server.log") as server:
        with Child(streaming.main, args["site"], tmp_path / "site.log") as site:
            server.receive("started"), site.receive("started")
            site.send("send", str(large))
            server.receive("chunks")
            assert list(folder.iterdir())
            site.kill()
        assert server.receive("received", 20)[0] == ReturnCode.COMMUNICATION_ERROR
        assert list(folder.iterdir()) == []
        server.end()


# -- processes that are stopped for a while ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whose", "seconds"),
    [
        (["server"], 1.0),
        (["site"], 1.0),
        # as a machine that was suspended: both heartbeats have expired
        (["server", "site"], SETTINGS.heartbeat_ttl + 1.0),
        (["site", "server"], SETTINGS.heartbeat_ttl + 1.0),
    ],
    ids=["the receiver", "the sender", "both, the receiver first", "both, the sender first"],
)
def test_a_stream_goes_on_after_a_pause_of_a_process(
    url: str, namespace: str, tmp_path: Path, whose: list[str], seconds: float
) -> None:
    """The pause is longer than the timeout of an object; each object is consumed once."""
    settings = replace(SETTINGS, namespace=namespace)
    made = {
        name: StreamArgs(url=url, settings=settings, name=name, folder=str(tmp_path), tell_at=100)
        for name in ("server", "site")
    }
    values = list(range(600))
    with (
        Child(streaming.main, made["server"], tmp_path / "server.log") as server,
        Child(streaming.main, made["site"], tmp_path / "site.log") as site,
    ):
        children = {"server": server, "site": site}
        server.receive("started")
        site.receive("started")
        site.send("stream", values, 4, 0.4)
        server.receive("at")
        for name in whose:
            children[name].signal(signal.SIGSTOP)
        assert not threading.Event().wait(seconds)
        assert not site.received("sent")
        for name in whose:
            children[name].signal(signal.SIGCONT)
        assert site.receive("sent", 60) == (ReturnCode.OK, [ReturnCode.OK] * len(values))
        assert server.receive("streamed") == (ReturnCode.OK, values)
        server.end()
        site.end()


def test_a_receiver_that_is_resumed_behind_its_successor_changes_nothing(
    url: str, namespace: str, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, namespace=namespace)
    site_args, server_args = (
        StreamArgs(url=url, settings=settings, name=name, folder=str(tmp_path), tell_at=100)
        for name in ("site", "server")
    )
    values = list(range(600))
    with (
        Child(streaming.main, server_args, tmp_path / "server.log") as first,
        Child(streaming.main, site_args, tmp_path / "site.log") as site,
    ):
        first.receive("started")
        site.receive("started")
        site.send("stream", values, 4)
        first.receive("at")
        first.signal(signal.SIGSTOP)
        with Child(streaming.main, server_args, tmp_path / "server-2.log") as second:
            second.receive("at")
            first.signal(signal.SIGCONT)
            assert site.receive("sent", 60) == (ReturnCode.OK, [ReturnCode.OK] * len(values))
            assert second.receive("streamed") == (ReturnCode.OK, values)
            second.end()
        site.end()
