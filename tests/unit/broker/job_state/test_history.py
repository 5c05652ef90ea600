"""What a controller has appended: stored once, counted by the checkpoint that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
from redflare_broker.job_state import task_store
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.job.state import JobBench, small


@pytest.fixture
def bench(options: ConnectionOptions) -> Iterator[JobBench]:
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=redis, options=options) as server, server.borrow("any") as connection:
        yield JobBench(server, connection)


def stored(bench: JobBench) -> list[str]:
    found = bench.hash(bench.keys.history)
    return [found[str(number)] for number in range(len(found))]


def test_the_next_server_finds_what_was_appended_by_the_last_checkpoint(bench: JobBench) -> None:
    store = bench.started()
    assert store.append(0, [b'{"round":1}', b"2"])
    store.checkpoint({"round": 2}, small(), 2)
    assert store.append(2, [b"null"])
    found = bench.started().recover()
    assert (found.history, found.state) == (({"round": 1}, 2), ({"round": 2}, small()))


def test_entries_behind_the_checkpoint_are_replaced_by_what_comes_instead(bench: JobBench) -> None:
    store = bench.started()
    store.append(0, [b"1", b"2"])
    for _ in range(2):
        assert store.append(1, [b"3", b"4"])
    assert stored(bench) == ["1", "3", "4"]
    assert store.append(0, [b"5"])
    assert stored(bench) == ["5"]


def test_a_history_of_which_redis_has_lost_entries_is_left_as_it_is(bench: JobBench) -> None:
    store = bench.started()
    store.append(0, [b"1"])
    assert not store.append(3, [b"4"])
    assert stored(bench) == ["1"]


def test_a_recovered_history_ends_before_an_entry_that_redis_has_lost(bench: JobBench) -> None:
    store = bench.started()
    store.append(0, [b"1", b"2", b"3"])
    store.checkpoint({}, small(), 3)
    bench.connection.call("HDEL", bench.keys.history, "1")
    assert bench.started().recover().history == (1,)


def test_a_long_history_is_appended_and_read_in_parts(bench: JobBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_store, "_ENTRIES", 3)
    store = bench.started()
    entries = [str(number).encode() for number in range(8)]
    assert store.append(0, entries)
    store.checkpoint({}, small(), 7)
    assert bench.started().recover().history == tuple(range(7))


def test_a_history_lives_as_long_as_its_job(bench: JobBench) -> None:
    store, key = bench.started(), bench.keys.history
    store.append(0, [b"1"])
    bench.connection.call("PEXPIRE", key, 1000)
    store.append(1, [b"2"])
    assert bench.ttl_ms(key) > bench.policy.retention_ms / 2
    bench.connection.call("PEXPIRE", key, 1000)
    bench.list_members()
    assert bench.ttl_ms(key) > bench.policy.retention_ms / 2
    bench.serve()
    bench.connection.call("PEXPIRE", key, 1000)
    bench.begin()
    assert bench.ttl_ms(key) > bench.policy.retention_ms / 2
    bench.membership.end(bench.connection, bench.lease)
    assert 0 < bench.ttl_ms(key) <= bench.policy.settled_ms


def test_a_server_that_does_not_resume_drops_the_history(bench: JobBench) -> None:
    bench.started().append(0, [b"1"])
    bench.serve()
    bench.begin(resume=False)
    assert bench.connection.call("EXISTS", bench.keys.history) == 0
