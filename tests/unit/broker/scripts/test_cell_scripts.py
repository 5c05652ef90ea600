"""The replies of a cell's scripts, and that an instance without the lease changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import fakeredis
import pytest
from redflare_broker.scripts.lease import Lease
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.cell.bench import CellBench


@pytest.fixture
def redis() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


@pytest.fixture
def cell(redis: fakeredis.FakeRedis, options: ConnectionOptions) -> Iterator[CellBench]:
    with Server.connect(client=redis, options=options) as server, server.borrow("any") as connection:
        yield CellBench(connection)


#: Every step that an instance takes under its lease, with an entry of the inbox.
STEPS: Final[dict[str, Callable[[CellBench, Lease, str], Any]]] = {
    "beat": lambda cell, lease, _: cell.beat(lease),
    "bye": lambda cell, lease, _: cell.bye(lease),
    "settle": lambda cell, lease, entry: cell.settle(lease, entry),
    "bury": lambda cell, lease, entry: cell.bury(lease, entry),
}
step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


def content(redis: Any) -> dict[bytes, bytes]:
    return {key: redis.dump(key) for key in redis.scan_iter()}


def test_an_instance_takes_the_cell_over_and_is_told_its_epoch_twice(cell: CellBench, redis: Any) -> None:
    before = content(redis)
    assert cell.lease.epoch > 0
    assert cell.hello(cell.lease).number() == cell.lease.epoch
    # one whose epoch was lost on the way is told it again
    assert cell.hello(Lease(instance=cell.lease.instance)).number() == cell.lease.epoch
    assert content(redis) == before


def test_a_replaced_instance_cannot_take_the_cell_back(cell: CellBench, redis: Any) -> None:
    newer = cell.start("y:1:1")
    before = content(redis)
    reply = cell.hello(cell.lease)
    assert (reply.status, reply.number()) == ("FENCED", newer.epoch)
    assert content(redis) == before


@step
def test_a_replaced_instance_changes_nothing(
    cell: CellBench, redis: Any, step: Callable[[CellBench, Lease, str], Any]
) -> None:
    entry = cell.post()
    newer = cell.start("y:1:1")
    cell.beat(newer)
    before = content(redis)
    assert step(cell, cell.lease, entry).status == "FENCED"
    assert content(redis) == before
    assert step(cell, newer, entry).status in ("OK", "BURIED")


@step
@pytest.mark.parametrize("change", [{"epoch": 0}, {"instance": "z:1:1"}, {"epoch": 1 << 50}], ids=str)
def test_an_instance_that_redis_does_not_know_is_lost_and_changes_nothing(
    cell: CellBench, redis: Any, step: Callable[[CellBench, Lease, str], Any], change: dict[str, Any]
) -> None:
    entry, before = cell.post(), content(redis)
    before = content(redis)
    assert step(cell, replace(cell.lease, **change), entry).status == "LOST"
    assert content(redis) == before
    redis.flushall()
    assert step(cell, cell.lease, entry).status == "LOST"
    assert content(redis) == {}


def test_a_bye_leaves_what_is_unread_and_nothing_else(cell: CellBench, redis: Any) -> None:
    entry = cell.post()
    cell.beat(cell.lease)
    assert cell.bye(cell.lease).status == "OK"
    closed = redis.hget(cell.keys.cell, "closed")
    assert int(closed) >= cell.lease.epoch
    assert not redis.exists(cell.keys.heartbeat)
    assert cell.entries() == [entry]
    redis.xdel(cell.inbox, entry)
    redis.hset(cell.keys.cell, "closed", 7)
    assert cell.bye(cell.lease).status == "OK"
    assert not redis.exists(cell.inbox), "an empty inbox goes"
    assert redis.hget(cell.keys.cell, "closed") == b"7", "the first goodbye counts"
    assert cell.beat(cell.lease).status == "OK"
    assert not redis.exists(cell.keys.heartbeat), "a late beat does not make it look alive"


def test_a_successor_opens_a_cell_that_was_closed(cell: CellBench, redis: Any) -> None:
    cell.bye(cell.lease)
    newer = cell.start("y:1:1")
    assert redis.hget(cell.keys.cell, "closed") == b"0"
    cell.beat(newer)
    assert redis.exists(cell.keys.heartbeat)


def test_entries_are_settled_and_buried_once(cell: CellBench, redis: Any) -> None:
    first, second, third = (cell.post() for _ in range(3))
    assert cell.still_posted(first, "1-1", third) == [1, 0, 1]
    assert cell.settle(cell.lease, first, third).status == "OK"
    assert cell.entries() == [second]
    assert cell.bury(cell.lease, second).status == "BURIED"
    assert cell.bury(cell.lease, second).status == "GONE"
    assert cell.still_posted(first, second) == [0, 0]
    [(_, letter)] = redis.xrange(cell.keys.dead)
    assert (letter[b"reason"], letter[b"entry"], letter[b"raw.x"]) == (b"why", second.encode(), b"1")


@pytest.mark.parametrize("known", [True, False])
def test_a_reply_to_a_dead_cell_does_not_shorten_the_life_of_what_others_have_posted(
    cell: CellBench, redis: Any, known: bool
) -> None:
    cell.post()
    if not known:
        redis.delete(cell.keys.cell)
    redis.pexpire(cell.inbox, 10**10)
    assert cell.reply() is not None
    assert redis.pttl(cell.inbox) > 9 * 10**9


def test_an_instance_that_starts_after_the_clock_of_redis_was_set_back_takes_the_cell_over(
    cell: CellBench, redis: Any
) -> None:
    later = cell.lease.epoch + 10**9
    redis.hset(cell.keys.cell, mapping={"instance": "x:1:1", "epoch": later})
    newer = cell.start("y:1:1")
    assert newer.epoch == later + 1
    assert cell.beat(newer).status == "OK"


def test_thousands_of_entries_are_settled_in_one_step(cell: CellBench, redis: Any) -> None:
    with redis.pipeline() as steps:
        for _ in range(2100):
            steps.xadd(cell.inbox, {"x": "1"})
        entries = [entry.decode() for entry in steps.execute()]
    assert cell.settle(cell.lease, *entries[:-1]).status == "OK"
    assert cell.entries() == entries[-1:]
