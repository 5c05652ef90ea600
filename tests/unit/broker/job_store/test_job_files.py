"""Archives and results of jobs: stored in chunks, completely or not at all."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.errors import BlobMissing, ConfigError, DecodeError, JobUnknown, MessageTooLarge, ServerError
from redflare_broker.inspection.refusals import waits_for_room
from redflare_broker.job_store import job_files
from redflare_broker.job_store.job_files import Source
from redflare_broker.job_store.record import StoredFile
from redflare_broker.keys import room_note
from redflare_broker.payload.room import RoomWait
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.job.store import ARCHIVE, META, StoreBench, result, submission
from tests.support.waiting import wait_until

#: More bytes than are in memory at once.
LARGE = bytes(range(251)) * 40_000


@pytest.fixture
def bench(options: ConnectionOptions) -> Iterator[StoreBench]:
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=redis, options=options) as server, server.borrow("any") as connection:
        yield StoreBench(server, connection, policy=JobRetentionPolicy(file_bytes=len(LARGE)))


@pytest.mark.parametrize("content", [b"", b"x", ARCHIVE, LARGE, bytes(8 << 20), bytes((1 << 20) + 1)])
def test_an_archive_is_read_back_unchanged(bench: StoreBench, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "job.zip"
    path.write_bytes(content)
    sources: list[Source] = [content, memoryview(content), path, str(path)]
    for number, source in enumerate(sources):
        job_id = bench.store.submit(META, source, f"job-{number}")
        file = bench.get(job_id).archive
        assert file is not None
        assert (file.nbytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert bench.store.read_archive(job_id) == content
        fetched = bench.store.fetch_archive(job_id, tmp_path / f"fetched-{number}")
        assert fetched.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fetched-0",
        "fetched-1",
        "fetched-2",
        "fetched-3",
        "job.zip",
    ]


def test_a_result_replaces_the_previous_one_completely(bench: StoreBench, tmp_path: Path) -> None:
    bench.finished()
    bench.store.put_result("job-1", LARGE)
    assert len(bench.chunks()) == 1 + 10
    path = tmp_path / "result.zip"
    path.write_bytes(b"second")
    file = bench.store.put_result("job-1", path)
    assert bench.get().result == file
    assert len(bench.chunks()) == 2
    target = tmp_path / "to"
    target.write_text("was here before")
    assert bench.store.fetch_result("job-1", target).read_bytes() == b"second"


def test_a_missing_file_cannot_be_fetched(bench: StoreBench, tmp_path: Path) -> None:
    with pytest.raises(JobUnknown, match="no job gone"):
        bench.store.fetch_archive("gone", tmp_path / "a")
    with pytest.raises(JobUnknown, match="no job gone"):
        bench.store.put_result("gone", b"result")
    bench.running()
    with pytest.raises(BlobMissing, match=r"job job-1 \(RUNNING\) has no result"):
        bench.store.fetch_result("job-1", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    assert len(bench.chunks()) == 1


@pytest.mark.parametrize("harm", ["gone", "short", "changed"])
def test_a_file_that_is_not_whole_is_refused_and_the_target_is_not_touched(
    bench: StoreBench, tmp_path: Path, harm: str
) -> None:
    bench.store.submit(META, LARGE, "job-1")
    last = f"{bench.keys.prefix}:{max(bench.chunks(), key=lambda name: int(name.rpartition(':')[2]))}"
    if harm == "gone":
        bench.connection.call("DEL", last)
    else:
        content = bench.connection.call("GET", last)
        assert isinstance(content, bytes)
        bench.connection.call("SET", last, content[1:] if harm == "short" else content[:-1] + b"!", "PX", 60_000)
    target = tmp_path / "to"
    target.write_text("was here before")
    with pytest.raises(BlobMissing if harm == "gone" else DecodeError, match="job-1-archive"):
        bench.store.fetch_archive("job-1", target)
    assert target.read_text() == "was here before"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(BlobMissing if harm == "gone" else DecodeError):
        bench.store.read_archive("job-1")


@pytest.mark.parametrize(
    ("chunk", "size"),
    [(1000, len(LARGE) + 1), (1 << 40, 10)],
    ids=["more than is stored", "chunks that Redis cannot hold"],
)
def test_a_record_that_claims_too_much_is_refused_before_memory_is_taken(
    bench: StoreBench, chunk: int, size: int
) -> None:
    bench.submit()
    ref = f'{{"prefix":"{bench.keys.blob("x")}","chunk":{chunk},"sizes":[{size}],"sha256":"{"0" * 64}"}}'
    bench.connection.call("HSET", bench.keys.record("job-1"), "archive", ref)
    with pytest.raises(DecodeError, match=f"claims {size} bytes in chunks of {chunk}"):
        bench.store.read_archive("job-1")


def test_a_file_that_is_too_large_is_refused_before_anything_is_written(bench: StoreBench, tmp_path: Path) -> None:
    path = tmp_path / "job.zip"
    path.write_bytes(LARGE + b"!")
    sources: list[Source] = [LARGE + b"!", path]
    for source in sources:
        with pytest.raises(MessageTooLarge, match=f"has {len(LARGE) + 1} bytes; at most {len(LARGE)} are stored"):
            bench.store.submit(META, source)
    assert bench.names() == []


def test_a_file_that_grows_too_large_while_it_is_read_leaves_nothing(bench: StoreBench) -> None:
    with pytest.raises(MessageTooLarge, match="/dev/zero has"):
        bench.store.submit(META, "/dev/zero")
    assert bench.names() == []


def test_a_file_that_cannot_be_read_is_named(bench: StoreBench, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match=f"{path}.* cannot be read"):
            bench.store.submit(META, path)
    bench.submit()
    with pytest.raises(ConfigError, match="missing' cannot be read"):
        bench.store.submit(META, str(tmp_path / "missing"), "job-1")
    assert len(bench.chunks()) == 1


def test_chunks_that_no_record_names_yet_expire_soon(bench: StoreBench) -> None:
    bench.store._steps.upload("job-1-archive", LARGE)
    assert len(bench.chunks()) == 10
    assert all(0 < left <= 3_600_000 for left in bench.ttls_ms().values())


def test_chunks_are_renewed_while_a_slow_file_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=redis) as server, server.borrow("any") as connection:
        bench = StoreBench(server, connection, policy=JobRetentionPolicy(upload_keep=2))

        def left() -> int:
            return max((ttl for name, ttl in bench.ttls_ms().items() if name.endswith(":0")), default=0)

        submission = threading.Thread(target=bench.store.submit, args=(META, pipe, "job-1"))
        submission.start()
        with pipe.open("wb") as file:
            file.write(bytes(8 << 20))
            file.flush()
            wait_until(lambda: 0 < left() < 1_400)
            file.write(bytes(8 << 20))
            file.flush()
            wait_until(lambda: left() > 1_500)
        submission.join(10)
        assert bench.store.read_archive("job-1") == bytes(16 << 20)


def test_a_job_whose_chunks_have_gone_meanwhile_is_not_listed(bench: StoreBench) -> None:
    file = bench.store._steps.upload("job-1-archive", LARGE)
    bench.connection.call("DEL", f"{file.blob.prefix}:9")
    reply = bench.run(submission(bench, "job-1", file, 10))
    assert reply == [b"BLOB_MISSING"]
    assert bench.store.list() == []
    bench.submit()
    reply = bench.run(result(bench, "job-1", file, 10))
    assert (reply, bench.get().result) == ([b"BLOB_MISSING"], None)


def test_a_job_that_is_deleted_while_its_result_is_stored_leaves_no_chunk(bench: StoreBench) -> None:
    bench.finished()
    file = bench.store._steps.upload("job-1-result", b"late")
    bench.store.delete("job-1")
    reply = bench.run(result(bench, "job-1", file, 1))
    assert reply == [b"UNKNOWN"]
    bench.store._steps.remove(file)
    assert bench.chunks() == []


def leave_room_for(connection: Connection, nbytes: int) -> None:
    """Let a server have memory for so many bytes more."""
    info = connection.call("INFO", "memory")
    assert isinstance(info, bytes)
    used = int(info.split(b"used_memory:")[1].split()[0])
    connection.call("CONFIG", "SET", "maxmemory", used + nbytes)


@pytest.mark.parametrize("kind", ["bytes", "a file"])
def test_a_file_waits_for_memory_and_holds_none_of_it_meanwhile(
    server_url: str, namespace: str, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "job.zip"
    content = os.urandom(32 << 20)
    path.write_bytes(content)
    with Server.connect(server_url) as server, server.borrow("any") as connection:
        bench = StoreBench(server, connection, namespace)
        prefix = bench.keys.blob("x")
        waits: list[RoomWait] = []
        kept: list[object] = []

        def stop() -> bool:
            """Called when there was no room: look, and make some the second time."""
            kept.append(bench.chunks())
            waits.extend(waits_for_room(server, namespace, [room_note(prefix)]))
            if len(waits) > 1:
                connection.call("CONFIG", "SET", "maxmemory", 0)
            return False

        leave_room_for(connection, 20 << 20)
        try:
            file = job_files.upload(
                server,
                prefix,
                content if kind == "bytes" else path,
                chunk=1 << 20,
                most=1 << 30,
                ttl_ms=60_000,
                stop=stop,
            )
        finally:
            connection.call("CONFIG", "SET", "maxmemory", 0)
        # only the note of who waits
        assert kept == [["blob:x:waits"]] * 2
        assert {wait.nbytes for wait in waits} == {len(content)}
        assert waits_for_room(server, namespace, [room_note(prefix)]) == ()
        assert job_files.load(server, file, most=1 << 30) == content
        assert len(bench.chunks()) == 32
        bench.store._steps.remove(file)


def test_a_file_that_cannot_be_read_again_when_there_is_room_is_not_stored(
    server_url: str, namespace: str, tmp_path: Path
) -> None:
    path = tmp_path / "job.zip"
    path.write_bytes(bytes(32 << 20))
    with Server.connect(server_url) as server, server.borrow("any") as connection:
        bench = StoreBench(server, connection, namespace)
        prefix = bench.keys.blob("x")

        def stop() -> bool:
            connection.call("CONFIG", "SET", "maxmemory", 0)
            os.truncate(path, 3 << 20)
            return False

        leave_room_for(connection, 20 << 20)
        try:
            with pytest.raises(ConfigError, match="cannot be read: it has become shorter: 3145728 bytes are left"):
                job_files.upload(server, prefix, path, chunk=1 << 20, most=1 << 30, ttl_ms=60_000, stop=stop)
        finally:
            connection.call("CONFIG", "SET", "maxmemory", 0)
        assert bench.chunks() == []
        assert waits_for_room(server, namespace, [room_note(prefix)]) == ()


def test_a_server_that_refuses_a_chunk_keeps_none(server_url: str, namespace: str) -> None:
    with Server.connect(server_url) as server, server.borrow("any") as connection:
        bench = StoreBench(server, connection, namespace)
        prefix = bench.keys.blob("x")
        connection.call("HSET", prefix, "not", "a chunk")
        connection.call("PEXPIRE", prefix, 10_000)
        broken = StoredFile(blob=job_files._ref(f"{prefix[:-2]}", 1, 1), sha256="0" * 64)
        connection.call("HSET", f"{broken.blob.prefix}:0", "not", "a string")
        connection.call("PEXPIRE", f"{broken.blob.prefix}:0", 10_000)
        with pytest.raises(ServerError, match="WRONGTYPE"):
            job_files.load(server, broken, most=10)
        connection.call("UNLINK", prefix, f"{broken.blob.prefix}:0")
