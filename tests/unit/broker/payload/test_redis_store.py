"""Payloads in chunks: buffers of any size are read back unchanged, and removed completely."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Sequence

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import BlobMissing, DecodeError, ServerError, Unavailable
from redflare_broker.inspection.refusals import waits_for_room
from redflare_broker.keys import room_note
from redflare_broker.payload import redis_store
from redflare_broker.payload.redis_store import RedisPayloadStore, check_ref
from redflare_broker.transport.connection import RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.wire.limits import CodecLimits
from redflare_broker.wire.task_entry import BlobRef

TTL = 60_000

_ids = map("flare:{{server.{}}}:blob:b".format, itertools.count())


@pytest.fixture(scope="module")
def embedded() -> Iterator[Server]:
    with EmbeddedServer() as running, Server.connect(running.url) as server:
        yield server


@pytest.fixture(scope="module")
def fake() -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer())) as server:
        yield server


@pytest.fixture(params=["embedded", "fake"])
def server(request: pytest.FixtureRequest) -> Server:
    """An empty server, real or fake."""
    server: Server = request.getfixturevalue(request.param)
    call(server, "FLUSHALL")
    return server


def call(server: Server, *args: str | int) -> RedisReply:
    return server.run("any", lambda connection: connection.call(*args))


def views(sizes: Sequence[int]) -> list[memoryview]:
    """Return buffers of these sizes, each with other bytes."""
    return [memoryview(bytes((number * 31 + i) % 253 for i in range(size))) for number, size in enumerate(sizes)]


def room(sizes: Sequence[int]) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


def put(server: Server, sizes: Sequence[int], chunk: int) -> BlobRef:
    return RedisPayloadStore(server).put(next(_ids), views(sizes), chunk=chunk, ttl_ms=TTL)


def fetch(server: Server, ref: BlobRef) -> list[memoryview]:
    targets = room(ref.sizes)
    RedisPayloadStore(server).fetch(ref, targets)
    return targets


SIZES = st.lists(st.integers(0, 3000), max_size=8)


class TestRoundTrip:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(sizes=SIZES, chunk=st.integers(60, 5000))
    def test_any_buffers_come_back_whatever_the_chunk(self, server: Server, sizes: list[int], chunk: int) -> None:
        ref = put(server, sizes, chunk)

        assert fetch(server, ref) == views(sizes)
        assert ref.sizes == tuple(sizes)

    @settings(max_examples=30, deadline=None)
    @given(sizes=SIZES, chunk=st.integers(60, 5000))
    def test_a_chunk_holds_its_slice_of_the_concatenation(self, fake: Server, sizes: list[int], chunk: int) -> None:
        ref = put(fake, sizes, chunk)
        whole = b"".join(views(sizes))

        assert ref.chunks == len(range(0, len(whole), chunk))
        for number in range(ref.chunks):
            assert call(fake, "GET", f"{ref.prefix}:{number}") == whole[number * chunk : (number + 1) * chunk]
        assert call(fake, "EXISTS", f"{ref.prefix}:{ref.chunks}") == 0

    def test_megabytes_come_back(self, server: Server) -> None:
        big = memoryview(bytes(range(256)) * 20_000)
        ref = RedisPayloadStore(server).put(next(_ids), [big[:3], big[3:], big[:0]], chunk=1 << 20, ttl_ms=TTL)

        assert b"".join(fetch(server, ref)) == big

    def test_empty_buffers_need_no_key(self, server: Server) -> None:
        ref = put(server, [0, 0], chunk=10)

        assert call(server, "DBSIZE") == 0
        assert fetch(server, ref) == room([0, 0])
        assert RedisPayloadStore(server).renew(ref, TTL)
        RedisPayloadStore(server).remove(ref)

    def test_writing_twice_changes_nothing(self, server: Server) -> None:
        prefix = next(_ids)
        first, second = (RedisPayloadStore(server).put(prefix, views([7, 8]), chunk=4, ttl_ms=TTL) for _ in range(2))

        assert first == second
        assert fetch(server, second) == views([7, 8])

    def test_chunks_grow_rather_than_become_too_many(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(redis_store, "MAX_CHUNKS", 8)
        ref = put(server, [50, 31], chunk=1)

        assert (ref.chunk, ref.chunks) == (11, 8)
        assert fetch(server, ref) == views([50, 31])


class TestLife:
    def test_every_chunk_expires(self, server: Server) -> None:
        ref = put(server, [10], chunk=4)

        ages = [call(server, "PTTL", f"{ref.prefix}:{number}") for number in range(3)]
        assert all(isinstance(age, int) and 0 < age <= TTL for age in ages)

    def test_prolonging_shortens_no_life(self, server: Server) -> None:
        store = RedisPayloadStore(server)
        ref = store.put(next(_ids), views([100]), chunk=10, ttl_ms=TTL)
        store.prolong(ref, TTL // 2)
        assert all(int(str(call(server, "PTTL", f"{ref.prefix}:{number}"))) > TTL // 2 for number in range(10))
        store.prolong(ref, TTL * 2)
        assert all(int(str(call(server, "PTTL", f"{ref.prefix}:{number}"))) > TTL for number in range(10))

    def test_renewing_prolongs_the_life_of_many_chunks(self, server: Server) -> None:
        ref = put(server, [1200], chunk=1)

        assert RedisPayloadStore(server).renew(ref, 10 * TTL)
        for number in (0, 511, 512, 1199):
            assert isinstance(age := call(server, "PTTL", f"{ref.prefix}:{number}"), int)
            assert age > TTL

    def test_renewing_reports_a_lost_chunk(self, server: Server) -> None:
        ref = put(server, [10], chunk=4)
        call(server, "DEL", f"{ref.prefix}:1")

        assert not RedisPayloadStore(server).renew(ref, TTL)

    def test_the_stored_bytes_are_those_of_the_chunks_that_are_there(self, server: Server) -> None:
        store, ref = RedisPayloadStore(server), put(server, [1201], chunk=2)
        assert store.stored(ref.prefix) == 1201
        call(server, "DEL", f"{ref.prefix}:0", f"{ref.prefix}:600")

        assert store.stored(ref.prefix) == 1198
        assert (store.stored("flare:{server}:blob:none"), store.stored("")) == (0, 0)

    def test_removing_leaves_nothing_and_may_be_repeated(self, server: Server) -> None:
        ref = put(server, [1200], chunk=1)
        RedisPayloadStore(server).remove(ref)
        RedisPayloadStore(server).remove(ref)

        assert call(server, "DBSIZE") == 0

    def test_a_put_that_the_server_refuses_leaves_nothing(self, embedded: Server) -> None:
        call(embedded, "FLUSHALL")
        big = memoryview(bytes(16 << 20))
        call(embedded, "CONFIG", "SET", "maxmemory", 8 << 20)
        try:
            with pytest.raises(Unavailable, match="Raise maxmemory"):
                RedisPayloadStore(embedded).put(next(_ids), [big], chunk=1 << 20, ttl_ms=TTL, stop=lambda: True)
        finally:
            call(embedded, "CONFIG", "SET", "maxmemory", 0)
        assert call(embedded, "DBSIZE") == 0

    def test_a_put_waits_for_memory_and_holds_none_of_it_meanwhile(self, embedded: Server) -> None:
        call(embedded, "FLUSHALL")
        big = memoryview(bytes(16 << 20))
        call(embedded, "CONFIG", "SET", "maxmemory", 8 << 20)
        kept: list[object] = []

        def stop() -> bool:
            kept.append(call(embedded, "KEYS", "*"))
            call(embedded, "CONFIG", "SET", "maxmemory", 0)
            return False

        try:
            ref = RedisPayloadStore(embedded).put(next(_ids), [big], chunk=1 << 20, ttl_ms=TTL, stop=stop)
        finally:
            call(embedded, "CONFIG", "SET", "maxmemory", 0)
        # only the note of who waits is there, and it goes
        assert kept == [[room_note(ref.prefix).encode()]]
        assert call(embedded, "DBSIZE") == ref.chunks == 16

    def test_attempts_of_a_caller_that_repeats_them_are_one_wait(self, embedded: Server) -> None:
        call(embedded, "FLUSHALL")
        big, prefix, store = memoryview(bytes(16 << 20)), next(_ids), RedisPayloadStore(embedded)
        names = [room_note(prefix)]
        call(embedded, "CONFIG", "SET", "maxmemory", 8 << 20)

        def attempt() -> None:
            store.put(prefix, [big], chunk=1 << 20, ttl_ms=TTL, deadline=time.monotonic())

        try:
            seconds = []
            for _ in range(2):
                with pytest.raises(Unavailable, match="does not fit"):
                    attempt()
                [wait] = waits_for_room(embedded, "flare", names)
                seconds.append(wait.seconds)
            assert seconds[0] < seconds[1]
            assert call(embedded, "DBSIZE") == 1
        finally:
            call(embedded, "CONFIG", "SET", "maxmemory", 0)
        attempt()
        assert waits_for_room(embedded, "flare", names) == ()

    def test_a_put_to_an_unreachable_server_ends_when_it_is_stopped(self) -> None:
        asked: list[bool] = []

        def stop() -> bool:
            asked.append(len(asked) == 1)
            return asked[-1]

        with Server.connect("unix:///nowhere/redis.sock") as server, pytest.raises(Unavailable, match="nowhere"):
            RedisPayloadStore(server).put("p", views([10]), chunk=4, ttl_ms=TTL, stop=stop)
        assert asked == [False, True]


class TestDamage:
    def test_a_missing_chunk_is_named(self, server: Server) -> None:
        ref = put(server, [10], chunk=4)
        call(server, "DEL", f"{ref.prefix}:1")

        with pytest.raises(BlobMissing, match=re.escape(f"{ref.prefix}:1")):
            fetch(server, ref)

    def test_a_truncated_chunk_is_refused(self, server: Server) -> None:
        ref = put(server, [10], chunk=4)
        call(server, "SET", f"{ref.prefix}:0", "cut")

        with pytest.raises(DecodeError, match=re.escape(f"{ref.prefix}:0' holds 3 bytes where 4 were announced")):
            fetch(server, ref)

    def test_a_target_of_another_size_is_refused(self, server: Server) -> None:
        ref = put(server, [10], chunk=4)

        with pytest.raises(DecodeError, match="there is room for"):
            RedisPayloadStore(server).fetch(ref, room([9]))

    def test_the_next_payload_works_after_a_damaged_one(self, server: Server) -> None:
        bad, good = put(server, [10], chunk=4), put(server, [11], chunk=4)
        RedisPayloadStore(server).remove(bad)

        with pytest.raises(BlobMissing):
            fetch(server, bad)
        assert fetch(server, good) == views([11])

    @pytest.mark.parametrize(
        ("chunk", "sizes", "words"),
        [
            (0, (1,), "cut every 0 bytes"),
            (1, (1, -5), "claims a buffer of -5 bytes"),
            (1 << 20, (10 << 30,), "claims 10737418240 bytes; max_bytes allows 4294967296"),
            (1, (1 << 17,), "claims 131072 chunks"),
        ],
    )
    def test_an_implausible_reference_is_refused(self, chunk: int, sizes: tuple[int, ...], words: str) -> None:
        with pytest.raises(DecodeError, match=words):
            check_ref(BlobRef(prefix="p", chunk=chunk, sizes=sizes), CodecLimits())

    def test_a_plausible_reference_is_accepted(self) -> None:
        check_ref(BlobRef(prefix="p", chunk=1 << 20, sizes=(4 << 30, 0)), CodecLimits())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ServerError("no permission")], ids=["interrupted", "refused"])
def test_a_put_that_fails_half_way_leaves_nothing(
    fake: Server, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    prefix = next(_ids)
    with fake.borrow(f"{prefix}:0") as connection:
        kind, store = type(connection), type(connection).store

        def half(self: object, chunks: object, ttl_ms: int) -> None:
            store(self, chunks, ttl_ms)  # type: ignore[arg-type]
            assert connection.call("EXISTS", f"{prefix}:0", f"{prefix}:1") == 2
            raise error

        monkeypatch.setattr(kind, "store", half)
        with pytest.raises(type(error)):
            RedisPayloadStore(fake).put(prefix, [memoryview(b"x" * 20)], chunk=10, ttl_ms=TTL)
        assert connection.call("EXISTS", f"{prefix}:0", f"{prefix}:1") == 0
