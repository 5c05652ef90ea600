"""Streams of files: received completely or not at all."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.streaming import ObjectProducer, StreamContext, StreamProgress
from redflare_workers.messaging import FileStreamer

from tests.support.cell.messengers import Peer, Peers, peers_on_fakeredis
from tests.support.waiting import wait_until


@pytest.fixture
def peers() -> Iterator[Peers]:
    with peers_on_fakeredis() as made:
        yield made


class Arrivals:
    """Receives files in a folder."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.contexts: list[StreamContext] = []
        self.chunks = 0
        FileStreamer.register_stream_processing(
            peer.new_context(), "c", "t", str(folder), self._done, self._chunk, tag="x"
        )

    def _done(self, stream_ctx: StreamContext, fl_ctx: FLContext, tag: str) -> str:
        assert tag == "x"
        self.contexts.append(stream_ctx)
        return "stored"

    def _chunk(self, result: Any, stream_ctx: StreamContext, fl_ctx: FLContext, tag: str) -> None:
        self.chunks += 1

    def wait(self) -> StreamContext:
        wait_until(lambda: self.contexts)
        return self.contexts[-1]


def send(peer: Peer, path: Path, targets: list[str] | None = None, **more: Any) -> tuple[str, Any]:
    return FileStreamer.stream_file("c", "t", {}, targets or ["server"], str(path), peer.new_context(), **more)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000, 12345])
def test_a_file_arrives_as_it_was(peers: Peers, tmp_path: Path, size: int) -> None:
    arrivals, path = Arrivals(peers.make("server"), tmp_path / "in"), tmp_path / "model.bin"
    path.write_bytes(os.urandom(size))
    rc, result = send(peers.make("site"), path, chunk_size=100)
    assert (rc, list(result)) == (ReturnCode.OK, ["server"])
    context = arrivals.wait()
    assert FileStreamer.get_rc(context) == ReturnCode.OK
    assert FileStreamer.get_file_name(context) == "model.bin"
    assert FileStreamer.get_file_size(context) == size
    assert (FileStreamer.get_channel(context), FileStreamer.get_topic(context)) == ("c", "t")
    assert Path(FileStreamer.get_file_location(context)).read_bytes() == path.read_bytes()
    assert arrivals.chunks == size // 100 + 1
    wait_until(lambda: not peers.blobs())


def test_a_file_goes_to_many_and_progress_is_reported(peers: Peers, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    arrivals = [Arrivals(peers.make(name), tmp_path / name) for name in names]
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(5000))
    progress: list[StreamProgress] = []
    rc, result = send(peers.make("server"), path, names, chunk_size=1500, progress_cb=progress.append)
    assert (rc, list(result)) == (ReturnCode.OK, names)
    assert [each.nbytes for each in progress] == [1500, 3000, 4500, 5000]
    for each in arrivals:
        assert Path(FileStreamer.get_file_location(each.wait())).read_bytes() == path.read_bytes()


def test_the_name_of_a_file_is_not_a_path_at_the_receiver(peers: Peers, tmp_path: Path) -> None:
    arrivals = Arrivals(peers.make("server"), tmp_path / "in")
    site = peers.make("site")
    size = {"FileStreamer.file_size": 0, "Streamer.file_name": "../../evil", "FileStreamer.file_location": "/evil"}
    site.stream_objects("c", "t", size, ["server"], Chunks([(b"", 0, True)]), site.new_context())
    location = Path(FileStreamer.get_file_location(arrivals.wait()))
    assert location.parent == arrivals.folder


class Chunks(ObjectProducer):
    """Produces chunks without reading a file."""

    def __init__(self, chunks: list[tuple[Any, Any, Any]]) -> None:
        self._chunks = iter(chunks)

    def produce(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> tuple[Shareable | None, float]:
        for data, size, eof in self._chunks:
            return Shareable({"Streamer.data": data, "Streamer.size": size, "Streamer.eof": eof}), 5.0
        return None, 0.0

    def process_replies(self, replies: dict[str, Shareable], stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
        return None if replies["server"].get_return_code() == ReturnCode.OK else False


@pytest.mark.parametrize(
    ("size", "chunks"),
    [
        (4, [(b"ab", 3, False)]),
        (4, [(b"ab", 2, False), (b"c", 1, True)]),
        (4, [(b"ab", 2, False), (b"cde", 3, True)]),
        (4, [(b"ab", 2, False), (b"cde", 3, False)]),
        (4, [(None, 2, False)]),
        (4, [("abcd", 4, True)]),
    ],
    ids=["wrong size", "too short", "too long", "too long, goes on", "no data", "text"],
)
def test_a_file_that_differs_from_its_announcement_is_refused_and_deleted(
    peers: Peers, tmp_path: Path, size: int, chunks: list[tuple[Any, Any, Any]]
) -> None:
    arrivals, site = Arrivals(peers.make("server"), tmp_path / "in"), peers.make("site")
    context = {"FileStreamer.file_size": size}
    assert site.stream_objects("c", "t", context, ["server"], Chunks(chunks), site.new_context())[0] == ReturnCode.ERROR
    assert FileStreamer.get_rc(arrivals.wait()) == ReturnCode.EXECUTION_EXCEPTION
    assert list(arrivals.folder.iterdir()) == []


@pytest.mark.parametrize("size", [None, "4", -1])
def test_a_file_without_a_size_is_refused(peers: Peers, tmp_path: Path, size: Any) -> None:
    arrivals, site = Arrivals(peers.make("server"), tmp_path / "in"), peers.make("site")
    context = {"FileStreamer.file_size": size}
    rc, _ = site.stream_objects("c", "t", context, ["server"], Chunks([(b"", 0, True)]), site.new_context())
    assert rc == ReturnCode.ERROR
    assert list(arrivals.folder.iterdir()) == []


def test_a_file_that_stops_in_the_middle_is_deleted(peers: Peers, tmp_path: Path) -> None:
    arrivals, site = Arrivals(peers.make("server"), tmp_path / "in"), peers.make("site")
    context = {"FileStreamer.file_size": 4}
    site.stream_objects("c", "t", context, ["server"], Chunks([(b"ab", 2, False)]), site.new_context())
    arrivals.wait()
    assert list(arrivals.folder.iterdir()) == []


def test_an_abort_in_the_middle_of_a_file_deletes_it(peers: Peers, tmp_path: Path) -> None:
    arrivals, site = Arrivals(peers.make("server"), tmp_path / "in"), peers.make("site")
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(5000))
    rc, result = send(site, path, chunk_size=10, progress_cb=lambda progress: site.abort_signal.trigger("enough"))
    assert (rc, result) == (ReturnCode.TASK_ABORTED, None)
    assert FileStreamer.get_rc(arrivals.wait()) == ReturnCode.TASK_ABORTED
    assert list(arrivals.folder.iterdir()) == []


def test_a_folder_that_is_gone_is_an_answer(peers: Peers, tmp_path: Path) -> None:
    arrivals, path = Arrivals(peers.make("server"), tmp_path / "in"), tmp_path / "model.bin"
    path.write_bytes(b"abc")
    arrivals.folder.rmdir()
    assert send(peers.make("site"), path) == (ReturnCode.ERROR, False)


def test_a_full_disk_is_an_answer(peers: Peers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    server = peers.make("server")
    Arrivals(server, tmp_path / "in")
    path = tmp_path / "model.bin"
    path.write_bytes(b"abc")
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: real(Path("/dev/full"), "wb"))
    assert send(peers.make("site"), path) == (ReturnCode.ERROR, False)


def test_wrong_arguments_are_refused(peers: Peers, tmp_path: Path) -> None:
    site, path = peers.make("site"), tmp_path / "model.bin"
    peers.make("server")
    with pytest.raises(ValueError, match="is not a file"):
        send(site, path)
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match="chunk_size must be"):
        send(site, path, chunk_size=-1)
    with pytest.raises(ValueError, match="chunk_timeout must be"):
        send(site, path, chunk_timeout=-1)
    with pytest.raises(ValueError, match="is not a folder"):
        FileStreamer.register_stream_processing(site.new_context(), "c", "t", str(path))
    with pytest.raises(TypeError, match="must be a StreamableEngine"):
        FileStreamer.register_stream_processing(FLContext(), "c", "t", str(tmp_path))


def test_many_files_at_once(peers: Peers, tmp_path: Path) -> None:
    arrivals, site = Arrivals(peers.make("server"), tmp_path / "in"), peers.make("site")
    paths = [tmp_path / f"{number}.bin" for number in range(8)]
    for path in paths:
        path.write_bytes(os.urandom(3000))
    threads = [threading.Thread(target=send, args=(site, path), kwargs={"chunk_size": 500}) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    wait_until(lambda: len(arrivals.contexts) == 8)
    got = {FileStreamer.get_file_name(each): FileStreamer.get_file_location(each) for each in arrivals.contexts}
    assert {name: Path(where).read_bytes() for name, where in got.items()} == {p.name: p.read_bytes() for p in paths}


# -- bounds, and what a killed receiver leaves -------------------------------------------------------------------------


def test_a_file_over_the_bound_is_refused_with_figures_before_a_byte_is_kept(peers: Peers, tmp_path: Path) -> None:
    server, folder, path = peers.make("server"), tmp_path / "in", tmp_path / "model.bin"
    folder.mkdir()
    FileStreamer.register_stream_processing(server.new_context(), "c", "t", str(folder), max_size=1000)
    site = peers.make("site")
    path.write_bytes(b"x" * 1000)
    assert send(site, path)[0] == ReturnCode.OK
    wait_until(lambda: [each for each in folder.iterdir() if not each.suffix])
    path.write_bytes(b"x" * 1001)
    producer = Chunks([(b"x" * 100, 100, False)])
    seen: list[str] = []
    take = producer.process_replies

    def process(replies: dict[str, Shareable], stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
        seen.append(str(replies["server"].get_header("__error__")))
        return take(replies, stream_ctx, fl_ctx)

    producer.process_replies = process  # type: ignore[method-assign]
    context = {"FileStreamer.file_size": 1001, "Streamer.file_name": "model.bin"}
    assert site.stream_objects("c", "t", context, ["server"], producer, site.new_context())[0] == ReturnCode.ERROR
    assert "'model.bin' of 1.0 kB (1001 bytes) is refused: the receiver takes 1000 bytes at most" in seen[0]
    assert send(site, path) == (ReturnCode.ERROR, False)
    assert len(list(folder.iterdir())) == 1


def test_a_file_that_the_disk_has_no_room_for_is_refused(
    peers: Peers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals, path = Arrivals(peers.make("server"), tmp_path / "in"), tmp_path / "model.bin"
    path.write_bytes(b"x" * 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=999))
    assert send(peers.make("site"), path) == (ReturnCode.ERROR, False)
    assert list(arrivals.folder.iterdir()) == []


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "1"])
def test_a_bound_is_a_number_of_bytes(peers: Peers, most: Any) -> None:
    with pytest.raises(ValueError, match="max_size must be an int > 0"):
        FileStreamer.register_stream_processing(peers.make("server").new_context(), "c", "t", max_size=most)


@pytest.mark.parametrize("damage", ["none", "damaged", "longer", "gone"])
def test_what_a_killed_receiver_has_kept_is_not_sent_again_if_it_is_right(
    peers: Peers, tmp_path: Path, damage: str
) -> None:
    folder, path = tmp_path / "in", tmp_path / "model.bin"
    path.write_bytes(os.urandom(1000))
    arrivals = Arrivals(peers.make("server"), folder)
    stopped, go = threading.Event(), threading.Event()

    def stop(*args: Any, **kwargs: Any) -> None:
        arrivals.chunks += 1
        if arrivals.chunks == 5:
            stopped.set()
            go.wait(20)

    FileStreamer.register_stream_processing(
        peers._made[0].new_context(), "c", "t", str(folder), arrivals._done, stop, tag="x"
    )
    site, results = peers.make("site"), []
    sending = threading.Thread(target=lambda: results.append(send(site, path, chunk_size=100, chunk_timeout=20.0)))
    sending.start()
    assert stopped.wait(10)
    # as a process that was killed leaves it: what it had buffered may be lost
    [part] = folder.glob("*.part")
    content = {
        "none": path.read_bytes()[:450],
        "damaged": b"?" * 450,
        "longer": path.read_bytes() + b"more",
        "gone": b"",
    }[damage]
    part.unlink()
    part.write_bytes(content)
    peers.places["server"] = "server.job-1"
    made: list[Arrivals] = []
    # it takes files before it receives anything
    peers.make("server", prepare=lambda peer: made.append(Arrivals(peer, folder)))
    [successor] = made
    sending.join(20)
    assert results[0][0] == ReturnCode.OK
    context = successor.wait()
    assert Path(FileStreamer.get_file_location(context)).read_bytes() == path.read_bytes()
    # the question, and then from where it goes on
    assert successor.chunks == 1 + (6 if damage == "none" else 11)
    go.set()


def test_parts_that_nobody_goes_on_with_are_removed_after_a_day(peers: Peers, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["0" * 32 + "." + "1" * 32 + ".part", "2" * 32 + "." + "1" * 32 + ".part", "thesis.part"]
    for name, age in zip(names, (25, 23, 100), strict=True):
        (folder / name).write_bytes(b"x")
        then = time.time() - age * 3600
        os.utime(folder / name, (then, then))
    Arrivals(peers.make("server"), folder)
    assert {each.name for each in folder.iterdir()} == set(names[1:])
