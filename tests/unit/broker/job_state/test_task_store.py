"""The task store of a job: what the next server recovers, and what is deleted when it is not needed any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import fakeredis
import orjson
import pytest
from redflare_broker.errors import DecodeError, Fenced, JobEnded, JobLost, RedflareError, Unavailable
from redflare_broker.job_state.task_store import JobTaskStore, OwnedBlob
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.wire.task_entry import BlobRef

from tests.support.job.state import JobBench, large, prefixes, received, sent, small, task


@pytest.fixture
def bench(options: ConnectionOptions) -> Iterator[JobBench]:
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=redis, options=options) as server, server.borrow("any") as connection:
        yield JobBench(server, connection)


# -- records come back -------------------------------------------------------------------------------------------------


def test_a_new_job_has_nothing_to_recover(bench: JobBench) -> None:
    found = bench.started().recover()
    assert (found.checkpoint, found.state, found.tasks) == (0, None, ())


def test_what_was_written_is_recovered_by_the_next_server(bench: JobBench) -> None:
    store = bench.started()
    broadcast = task(
        "t1", 1, timeout=30, targets=("site-1", "site-2"), options={"min_responses": 2}, meta={"h": [1]}, data=small()
    )
    relay = task("t2", 2, "relay", targets=None, data=large())
    store.schedule(relay)
    store.schedule(broadcast)
    bench.run(store.note_command("t1", sent("ct1", "site-1")))
    bench.run(store.note_command("t1", sent("ct2", "site-2", count=2)))
    bench.run(store.note_command("t1", received("ct1", "site-1")))
    found = bench.started().recover()
    clients = (received("ct1", "site-1"), sent("ct2", "site-2", count=2))
    assert found.tasks == (replace(broadcast, client_tasks=clients), relay)
    assert found.prefixes() == prefixes([relay.data.blob])  # type: ignore[union-attr]


def test_a_result_in_chunks_is_recovered_by_reference_and_owned(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task())
    bench.run(store.note_command("t1", received(result=large(5, chunks=4))))
    assert store.owned() == [OwnedBlob(prefix="flare:blob:{b5}", chunks=4, run="r1")]
    next_one = bench.started()
    [found] = next_one.recover().tasks
    assert found.client_tasks == (received(result=large(5, chunks=4)),)
    assert next_one.orphans() == []


def test_a_task_that_has_ended_since_the_checkpoint_is_recovered_with_its_results(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task(data=small()))
    bench.run(store.note_command("t1", received()))
    store.finish("t1", "OK", 1_004.5)
    assert bench.members(bench.keys.standing) == []
    assert bench.started().recover().tasks == (task(status="OK", ended=1_004.5, client_tasks=(received(),)),)


def test_open_and_ended_tasks_are_recovered_in_the_order_in_which_they_were_scheduled(bench: JobBench) -> None:
    store = bench.started()
    for order, root_id in enumerate(("c", "b", "a")):
        store.schedule(task(root_id, order))
    store.finish("b", "OK", 1_004.5)
    assert [each.root_id for each in bench.started().recover().tasks] == ["c", "b", "a"]


def test_client_tasks_are_recovered_in_the_order_in_which_they_were_sent_first(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task(kind="relay"))
    first = sent("b", "site-1", first_sent=1_001.5)
    store.note("t1", [first, replace(sent("a", "site-2", first_sent=1_002.5), sent=1_002.5)])
    store.note("t1", [replace(first, sent=1_003.5, count=2)])
    [found] = bench.started().recover().tasks
    assert [(each.id, each.sent, each.first_sent) for each in found.client_tasks] == [
        ("b", 1_003.5, 1_001.5),
        ("a", 1_002.5, 1_002.5),
    ]


def test_a_task_that_is_scheduled_again_is_open_again_with_its_client_tasks(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task())
    bench.run(store.note_command("t1", received()))
    store.finish("t1", "OK", 1_004.5)
    store = bench.started()
    store.schedule(task(data=small("again")))
    assert (bench.members(bench.keys.standing), bench.members(bench.keys.ended)) == (["t1"], [])
    assert store.recover().tasks == (task(data=small("again"), client_tasks=(received(),)),)


def test_a_record_written_after_the_end_of_its_task_changes_nothing(bench: JobBench) -> None:
    store = bench.started()
    late = task(client_tasks=(sent(),))
    schedule, note = store.schedule_commands(late)
    store.finish("t1", "OK", 1_004.5, unwritten=late)
    assert bench.members(bench.keys.ended) == ["t1"]
    bench.run(schedule)
    bench.run(note)
    assert bench.members(bench.keys.standing) == []
    assert bench.started().recover().tasks == (task(status="OK", ended=1_004.5, client_tasks=(sent(),)),)


def test_a_record_written_with_the_first_reply_equals_one_written_when_the_task_is_scheduled(bench: JobBench) -> None:
    store = bench.started()
    whole = task(data=small(), client_tasks=(sent(),))
    for command in store.schedule_commands(whole):
        bench.run(command)
    assert bench.members(bench.keys.standing) == ["t1"]
    store.finish("t1", "OK", 1_004.5, unwritten=whole)
    assert bench.started().recover().tasks == (task(status="OK", ended=1_004.5, client_tasks=(sent(),)),)


def test_records_can_be_written_again_when_redis_has_lost_them(bench: JobBench) -> None:
    store = bench.started()
    whole = task(data=large(), client_tasks=(received("ct1"), sent("ct2", "site-2")))
    bench.connection.call("FLUSHALL")
    with pytest.raises(JobLost):
        store.schedule(whole)
    bench.hold_cell()
    bench.begin()
    store.schedule(whole)
    assert store.recover().tasks == (whole,)
    assert prefixes(store.owned()) == {"flare:blob:{b1}"}


def test_many_client_tasks_are_written_at_once(bench: JobBench) -> None:
    store = bench.started()
    clients = tuple(sent(f"ct{number:04}", f"site-{number}") for number in range(600))
    store.schedule(task(client_tasks=clients[:300]))
    store.note("t1", clients[300:])
    assert store.recover().tasks[0].client_tasks == clients


def test_a_record_can_be_read_with_hgetall(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task(targets=("site-1",), data=small()))
    bench.run(store.note_command("t1", received()))
    ledger = bench.hash(bench.keys.task("t1"))
    assert {name: ledger[name] for name in ("status", "name", "kind", "order", "scheduled", "ended", "targets")} == {
        "status": "STANDING",
        "name": "train",
        "kind": "broadcast",
        "order": "1",
        "scheduled": "1000250",
        "ended": "0",
        "targets": '["site-1"]',
    }
    client_task = orjson.loads(ledger["client:ct1"])
    assert client_task == {
        "received": 1_002_125,
        "client": "site-1",
        "sent": 1_001_500,
        "first_sent": 0,
        "count": 1,
        "rc": "OK",
        "meta": {"h": 1},
    }


# -- a result counts once ----------------------------------------------------------------------------------------------


def test_the_first_result_counts(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task())
    assert bench.status(store.note_command("t1", received(rc="OK"))) == "OK"
    assert bench.status(store.note_command("t1", received(rc="LATE", result=large()))) == "OK"
    assert bench.status(store.note_command("t1", sent(count=9))) == "OK"
    assert store.recover().tasks[0].client_tasks == (received(rc="OK"),)
    assert store.owned() == []


def test_a_result_for_a_record_that_is_gone_leaves_no_key_and_frees_its_payload(bench: JobBench) -> None:
    store = bench.started()
    assert bench.status(store.note_command("gone", received(result=large()))) == "GONE"
    assert bench.status(store.note_command("gone", sent())) == "GONE"
    assert bench.connection.call("EXISTS", bench.keys.task("gone")) == 0
    assert [(blob.prefix, blob.free) for blob in store.orphans()] == [("flare:blob:{b1}", True)]


def test_a_task_that_may_not_have_been_written_is_ended_once(bench: JobBench) -> None:
    store = bench.started()
    whole = task(client_tasks=(sent(),))
    for status in ("OK", "TIMEOUT"):
        store.finish("t1", status, 1_004.5, unwritten=whole)
    assert [each.status for each in bench.started().recover().tasks] == ["OK"]


def test_the_first_end_of_a_task_counts(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task())
    store.finish("t1", "TIMEOUT", 1_004.0)
    store.finish("t1", "OK", 1_005.0)
    store.finish("gone", "OK", 1_005.0)
    [found] = store.recover().tasks
    assert (found.status, found.ended) == ("TIMEOUT", 1_004.0)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_keeps_the_newest_state(bench: JobBench) -> None:
    store = bench.started()
    store.checkpoint({"round": 1}, small("first"))
    assert [blob.prefix for blob in store.checkpoint({"round": 2}, large(2))] == []
    freed = store.checkpoint({"round": 3}, small("third"))
    assert [(blob.prefix, blob.free) for blob in freed] == [("flare:blob:{b2}", True)]
    found = bench.started().recover()
    assert (found.checkpoint, found.state) == (3, ({"round": 3}, small("third")))


def test_the_next_server_continues_the_count_of_checkpoints(bench: JobBench) -> None:
    bench.started().checkpoint({}, small())
    store = bench.started()
    store.recover()
    store.checkpoint({"round": 2}, small("second"))
    assert bench.started().recover().checkpoint == 2


def test_a_journal_that_was_not_recovered_first_keeps_its_state_as_well(bench: JobBench) -> None:
    bench.started().checkpoint({}, small("first"))
    bench.started().checkpoint({}, small("second"))
    found = bench.started().recover()
    assert (found.checkpoint, found.state) == (2, ({}, small("second")))


def test_a_state_without_buffers_is_a_state(bench: JobBench) -> None:
    bench.started().checkpoint({"round": 1}, EncodedPayload(b"null"))
    assert bench.started().recover().state == ({"round": 1}, EncodedPayload(b"null"))


def test_a_checkpoint_drops_ended_tasks_and_returns_the_payloads_that_are_free(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task("t1", 1))
    store.schedule(task("t2", 2))
    bench.run(store.note_command("t1", received("ct1", result=large(1))))
    bench.run(store.note_command("t1", received("ct2", "site-2")))
    bench.run(store.note_command("t2", received("ct3", result=large(3))))
    bench.run(store.note_command("t2", sent("ct4", "site-2")))
    store.finish("t1", "OK", 1_004.0)
    assert prefixes(store.checkpoint({"round": 2}, small())) == {"flare:blob:{b1}", "flare:blob:{b3}"}
    [found] = bench.started().recover().tasks
    assert found.client_tasks == (received("ct3", result=None), sent("ct4", "site-2"))
    assert not [name for name in bench.hash(bench.keys.task("t1")) if name.startswith("result:")]
    assert 0 < bench.ttl_ms(bench.keys.task("t1")) <= bench.policy.settled_ms
    assert bench.connection.call("EXISTS", bench.keys.ended) == 0


def test_a_payload_that_two_results_name_is_freed_once(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task())
    store.note("t1", [received("ct1", result=large(5)), received("ct2", "site-2", result=large(5))])
    assert prefixes(store.checkpoint({}, small())) == {"flare:blob:{b5}"}
    assert [payload.free for payload in store.owned()] == [True]


def test_tasks_that_have_ended_are_listed_in_the_order_in_which_they_were_scheduled(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task("b", 1))
    store.schedule(task("a", 2))
    for root_id in ("a", "b"):
        store.finish(root_id, "OK", 1_004.5)
    assert bench.members(bench.keys.ended) == ["b", "a"]


def test_a_checkpoint_of_a_task_that_is_sent_for_ever_leaves_only_open_client_tasks(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task(kind="broadcast_forever"))
    for number in range(5):
        bench.run(store.note_command("t1", received(f"ct{number}")))
    bench.run(store.note_command("t1", sent("ct9")))
    assert len(store.recover().tasks[0].client_tasks) == 6
    store.checkpoint({}, small())
    assert store.recover().tasks[0].client_tasks == (sent("ct9"),)


def test_a_state_that_keeps_its_payload_keeps_it(bench: JobBench) -> None:
    store = bench.started()
    store.checkpoint({"round": 1}, large())
    assert store.checkpoint({"round": 2}, large()) == []
    assert bench.started().orphans() == []


def test_free_payloads_are_returned_until_they_are_discarded(bench: JobBench) -> None:
    store = bench.started()
    store.checkpoint({}, large(1))
    assert prefixes(store.checkpoint({}, small())) == prefixes(store.checkpoint({}, small())) == {"flare:blob:{b1}"}
    assert prefixes(bench.started().orphans()) == {"flare:blob:{b1}"}
    bench.task_store().disown("flare:blob:{b1}")
    assert bench.task_store().checkpoint({}, small()) == []


# -- without resume ----------------------------------------------------------------------------------------------------


def test_without_resume_no_data_and_no_results_are_kept(bench: JobBench) -> None:
    store = bench.started(resume=False)
    store.schedule(task(data=small()))
    bench.run(store.note_command("t1", received(result=large())))
    [found] = store.recover().tasks
    assert found == task(client_tasks=(received(result=None),))
    assert store.owned() == []


def test_without_resume_an_ended_task_expires(bench: JobBench) -> None:
    store = bench.started(resume=False)
    store.schedule(task())
    store.finish("t1", "OK", 1_004.0)
    assert store.recover().tasks == ()
    assert 0 < bench.ttl_ms(bench.keys.task("t1")) <= bench.policy.settled_ms
    bench.list_members()
    assert bench.ttl_ms(bench.keys.task("t1")) <= bench.policy.settled_ms


def test_without_resume_a_task_that_is_sent_for_ever_does_not_grow(bench: JobBench) -> None:
    store = bench.started(resume=False)
    store.schedule(task(kind="broadcast_forever"))
    size = len(bench.hash(bench.keys.task("t1")))
    for number in range(5):
        bench.run(store.note_command("t1", sent(f"ct{number}")))
        bench.run(store.note_command("t1", received(f"ct{number}")))
    assert len(bench.hash(bench.keys.task("t1"))) == size


# -- payloads ----------------------------------------------------------------------------------------------------------


def stored(bench: JobBench, number: int) -> BlobRef:
    """Store a payload of three chunks in Redis."""
    view = memoryview(b"x" * 30)
    return RedisPayloadStore(bench.server).put(f"flare:blob:{{b{number}}}", [view], chunk=10, ttl_ms=60_000)


def test_payloads_of_a_dead_server_that_no_record_needs_are_found_and_deleted(bench: JobBench) -> None:
    store = bench.started()
    for number in (1, 2):
        store.own(f"flare:blob:{{b{number}}}", 3)
        stored(bench, number)
    store.schedule(task(data=large(1)))
    successor = bench.started()
    successor.own("flare:blob:{b4}", 3)
    assert successor.orphans() == [OwnedBlob(prefix="flare:blob:{b2}", chunks=3, run="r1")]
    successor.discard(successor.orphans())
    assert [key for key in bench.own_keys() if "{b2}" in key] == []
    assert len([key for key in bench.own_keys() if "{b1}" in key]) == 3
    assert prefixes(successor.owned()) == {"flare:blob:{b1}", "flare:blob:{b4}"}


def test_a_successor_that_cannot_resume_finds_all_payloads(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task(data=large(1)))
    store.checkpoint({}, large(2))
    assert prefixes(bench.started(resume=False).orphans()) == {"flare:blob:{b1}", "flare:blob:{b2}"}


def test_data_that_are_replaced_are_free(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task(data=large(1)))
    store.schedule(task(data=large(2)))
    assert [(blob.prefix, blob.free) for blob in store.owned()] == [
        ("flare:blob:{b1}", True),
        ("flare:blob:{b2}", False),
    ]


def test_of_data_that_are_replaced_nothing_is_left_in_the_record(bench: JobBench) -> None:
    store = bench.started()
    store.schedule(task(data=large(1)))
    store.schedule(task(data=small("again")))
    assert store.recover().tasks == (task(data=small("again")),)
    store.schedule(task(data=EncodedPayload(b"1")))
    assert store.recover().tasks == (task(data=EncodedPayload(b"1")),)


def test_payloads_in_use_are_renewed(bench: JobBench) -> None:
    store = bench.started()
    store.checkpoint({}, large(1))
    store.checkpoint({}, large(2))
    stored(bench, 1)
    stored(bench, 2)
    store.renew()
    assert bench.ttl_ms("flare:blob:{b1}:2") <= 60_000
    assert bench.ttl_ms("flare:blob:{b2}:2") > 60_000


def test_a_successor_renews_the_payloads_that_its_predecessor_has_noted(bench: JobBench) -> None:
    bench.started().schedule(task(data=large(1)))
    stored(bench, 1)
    bench.started().renew()
    assert bench.ttl_ms("flare:blob:{b1}:2") > 60_000


def test_a_payload_whose_chunks_are_not_counted_yet_is_the_servers(bench: JobBench) -> None:
    store = bench.started()
    store.own("flare:blob:{b1}", 0)
    assert prefixes(store.owned()) == {"flare:blob:{b1}"}


def test_a_payload_that_is_discarded_by_its_reference_is_gone(bench: JobBench) -> None:
    store = bench.started()
    store.own("flare:blob:{b1}", 3)
    store.discard([stored(bench, 1)])
    store.discard([])
    assert store.owned() == []
    assert [key for key in bench.own_keys() if ":blob:" in key] == []


def test_payloads_of_an_ended_job_can_be_deleted(bench: JobBench) -> None:
    store = bench.started()
    for number in (1, 2):
        store.own(f"flare:blob:{{b{number}}}", 3)
        stored(bench, number)
    bench.membership.end(bench.connection, bench.lease)
    store.discard(store.owned())
    assert store.owned() == []
    assert [key for key in bench.own_keys() if ":blob:" in key] == []


# -- who may write -----------------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[JobTaskStore], object]] = {
    "scheduled": lambda store: store.schedule(task()),
    "note": lambda store: store.note("t1", [sent()]),
    "ended": lambda store: store.finish("t1", "OK", 1.0),
    "checkpoint": lambda store: store.checkpoint({}, small()),
    "append": lambda store: store.append(0, [b"1"]),
    "own": lambda store: store.own("flare:blob:{x}", 1),
    "disown": lambda store: store.disown("flare:blob:{x}"),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_server_that_was_replaced_writes_nothing(bench: JobBench, step: Callable[[JobTaskStore], object]) -> None:
    store = bench.started()
    store.schedule(task())
    bench.started()
    before = {key: bench.connection.call("DUMP", key) for key in bench.own_keys()}
    with pytest.raises(Fenced):
        step(store)
    assert {key: bench.connection.call("DUMP", key) for key in bench.own_keys()} == before


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_job_that_redis_lost_is_not_written_in_part(bench: JobBench, step: Callable[[JobTaskStore], object]) -> None:
    store = bench.started()
    bench.connection.call("FLUSHALL")
    bench.hold_cell()
    with pytest.raises(JobLost):
        step(store)
    assert bench.own_keys() == [bench.keys.cell]


@pytest.mark.parametrize("step", [name for name in STEPS if name != "disown"])
def test_nothing_is_written_to_an_ended_job(bench: JobBench, step: str) -> None:
    store = bench.started()
    store.schedule(task())
    bench.membership.end(bench.connection, bench.lease, reason="done")
    with pytest.raises(JobEnded, match="done"):
        STEPS[step](store)
    for key in bench.own_keys():
        assert bench.ttl_ms(key) > 0


# -- bad words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order", b"x"),
        ("targets", b"7"),
        ("options", b"["),
        ("name", b"\xff"),
        ("client:c", b"{}"),
        ("client:c", b"7"),
        ("data:blobs", b"{}"),
        ("kind", None),
    ],
)
def test_an_invalid_record_is_named(bench: JobBench, field: str, value: bytes | None) -> None:
    store = bench.started()
    store.schedule(task(data=small()))
    key = bench.keys.task("t1")
    bench.connection.call("HDEL", key, field) if value is None else bench.connection.call("HSET", key, field, value)
    with pytest.raises(DecodeError, match=r"\{server.job-1\}:task:t1"):
        store.recover()


@pytest.mark.parametrize("value", [b"", b"3", b"x r1"])
def test_an_invalid_payload_reference_is_named(bench: JobBench, value: bytes) -> None:
    store = bench.started()
    bench.connection.call("HSET", bench.keys.blobs, "flare:blob:{x}", value)
    with pytest.raises(RedflareError, match=r"flare:blob:\{x\}"):
        store.owned()


def test_a_payload_whose_node_is_away_does_not_keep_others_from_being_deleted(
    bench: JobBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, remove = bench.started(), RedisPayloadStore.remove
    names = ["flare:blob:{a}", "flare:blob:{b}"]
    for name in names:
        store.own(name, 1)
        bench.connection.call("SET", f"{name}:0", "x")

    def first_is_away(self: RedisPayloadStore, ref: BlobRef, **options: object) -> None:
        if ref.prefix == names[0]:
            raise Unavailable("the shard is away")
        remove(self, ref)

    monkeypatch.setattr(RedisPayloadStore, "remove", first_is_away)
    with pytest.raises(Unavailable):
        store.discard(store.owned())
    assert [blob.prefix for blob in store.owned()] == names[:1]
    monkeypatch.undo()
    store.discard(store.owned())
    assert store.owned() == []
    assert bench.connection.call("EXISTS", *[f"{name}:0" for name in names]) == 0


@pytest.mark.parametrize(
    "step",
    [
        lambda store: store.recover(),
        lambda store: store.owned(),
        lambda store: store.orphans(),
        lambda store: store.renew(),
        lambda store: store.own("flare:blob:{b}", 1),
        lambda store: store.discard([large().blob]),
        lambda store: store.schedule(task()),
        lambda store: store.finish("t1", "ok", 1.0),
        lambda store: store.checkpoint({}, small()),
        lambda store: store.append(0, [b"1"]),
    ],
    ids=["recover", "owned", "orphans", "renew", "own", "discard", "schedule", "finish", "checkpoint", "append"],
)
def test_every_step_ends_when_its_server_stops_while_redis_is_away(
    bench: JobBench, step: Callable[[JobTaskStore], object]
) -> None:
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return True

    bench.serve()
    bench.begin()
    with Server.connect(client=fakeredis.FakeRedis(server=(away := fakeredis.FakeServer()))) as server:
        away.connected = False
        store = JobTaskStore(server, bench.keys, bench.lease, bench.policy, resume=True, stop=stop)
        # a step that does not ask ends with the connection
        closing = threading.Timer(10.0, server.close)
        closing.start()
        with pytest.raises(Unavailable):
            step(store)
        closing.cancel()
    assert asked
