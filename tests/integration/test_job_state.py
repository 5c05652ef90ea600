"""A job's state on real servers: every step may be run twice, every key expires, and a real cell holds the lease."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import fakeredis
import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import Fenced
from redflare_broker.job_state.members import Members
from redflare_broker.job_state.task_record import blob_of, payload_fields
from redflare_broker.job_state.task_store import JobTaskStore
from redflare_broker.scripts.job_scripts import (
    BEAT,
    BEGIN,
    CHECKPOINT,
    END,
    FINISH,
    FORGET,
    JOIN,
    LEAVE,
    LIST_MEMBERS,
    OWN_PAYLOADS,
    SCHEDULE,
    job_values,
)
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import Script
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.transport.server import Server

from tests.support.calls import together
from tests.support.job.state import JobBench, client, large, received, sent, small, task
from tests.support.redis_server.kinds import KINDS
from tests.support.waiting import wait_until

#: Short TTLs, so that a test can wait for them.
POLICY: Final = RetentionPolicy(retention=3.0, settled_retention=1.0)
_NAMES = iter(range(1_000_000))


@contextmanager
def fake() -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer())) as server:
        yield server


@contextmanager
def real(kind: str) -> Iterator[Server]:
    with KINDS[kind]() as node, Server.connect(node.url, node.options) as server:
        yield server


@pytest.fixture(scope="module", params=["fakeredis", "embedded", "redis70", "cluster"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with fake() if request.param == "fakeredis" else real(request.param) as made:
        yield made


@pytest.fixture
def new_bench(server: Server) -> Iterator[Callable[..., JobBench]]:
    """A factory of benches, each in a namespace of its own."""
    with server.borrow("ns:{server.job-1}:job") as connection:
        yield lambda policy=None: JobBench(server, connection, f"job{next(_NAMES)}", policy or RetentionPolicy())


# -- every script, run twice -------------------------------------------------------------------------------------------


class Steps:
    """The commands of a job from its start to its end, each run once or more often."""

    def __init__(self, bench: JobBench, times: int) -> None:
        self.bench = bench
        self.times = times
        self.values = job_values(bench.keys, bench.policy)
        self.replies: list[str] = []
        self.ran: set[str] = set()

    def run(self, name: str, command: list[Arg]) -> None:
        """Run a step, check that its replies are equal without times, and record the reply."""
        answers = [without_times(self.bench.run(command)) for _ in range(self.times)]
        assert answers == answers[:1] * self.times, name
        self.replies.append(f"{name} {answers[0]}")
        self.ran.add(name)
        for key in self.bench.own_keys():
            assert self.bench.ttl_ms(key) > 0, f"{key} is left without an end by {name}"

    def take(self, script: Script, lease: Lease, rest: Sequence[Arg] = (), **values: Arg) -> None:
        """Run the step of one script under a lease."""
        self.run(script.name, script.command(self.values | lease.args, rest, **values))

    def beat(self, lease: Lease) -> None:
        self.take(BEAT, lease, (), **self._keys_of(lease.name), beat=b"{}", beat_ttl_ms=60_000)

    def leave(self, lease: Lease) -> None:
        self.take(LEAVE, lease, (), **self._keys_of(lease.name))

    def _keys_of(self, name: str) -> dict[str, Arg]:
        return {"client": self.bench.keys.client(name), "heartbeat": self.bench.keys.heartbeat(name)}

    def finish(self, lease: Lease, root_id: str, status: str, at: int, *, resume: bool) -> None:
        key = self.bench.keys.task(root_id)
        self.take(FINISH, lease, task=key, root_id=root_id, status=status, ended_ms=at, resume=int(resume))

    def joins(self, name: str, instance: str) -> int:
        record = b'{"instance":"gpu-1:7:c1","epoch":0}'
        values = self.values | client(name, instance).args
        key = self.bench.keys.client(name)
        command = JOIN.command(values, client=key, record=record, beat=b"", beat_ttl_ms=0)
        epoch = int(self.bench.run(command)[1])  # type: ignore[index, arg-type]
        record = b'{"instance":"gpu-1:7:%s","epoch":%d,"cell":"x","host":"h","pid":1,"props":{}}' % (
            instance.encode(),
            epoch,
        )
        self.run("job/join", command)
        self.take(JOIN, client(name, instance, epoch), client=key, record=record, beat=b"", beat_ttl_ms=0)
        return epoch

    def life(self) -> None:
        """Run all steps of a job from its first client to its end."""
        b = self.bench
        first = client("site-1", "c1", self.joins("site-1", "c1"))
        self.beat(first)
        lease = b.serve()
        self.take(BEGIN, lease, resume=1)
        self.take(LIST_MEMBERS, lease)
        store = b.task_store()
        self.take(OWN_PAYLOADS, lease, ["flare:blob:{b1}", 3])
        self._schedule(lease, 1, "broadcast", large(1))
        self._schedule(lease, 2, "broadcast_forever", small())
        for note in (sent("ct1"), received("ct1"), received("ct1", result=large(2)), sent("ct2", "site-2")):
            self.run("job/note_client_task", store.note_command("t1", note))
        self.run("job/note_client_task", store.note_command("t2", received("ct3", result=large(3))))
        self.run("job/note_client_task", store.note_command("none", received("ct4", result=large(4))))
        self.finish(lease, "t1", "OK", 5, resume=True)
        self._checkpoint(lease, "k1", 5)
        self._schedule(lease, 3, "send", None)
        self.finish(lease, "t3", "TIMEOUT", 6, resume=False)
        self.finish(lease, "t9", "OK", 6, resume=True)
        self._checkpoint(lease, "k2", 6)
        self.take(OWN_PAYLOADS, lease, ["flare:blob:{b3}", 0, "flare:blob:{b4}", 0])
        self.joins("site-1", "c2")
        self.beat(first)
        self.leave(first)
        second = client("site-2", "c3", self.joins("site-2", "c3"))
        self.leave(second)
        self.beat(second)
        lease = b.serve()
        self.take(BEGIN, lease, resume=1)
        self.take(LIST_MEMBERS, lease)
        self.take(END, lease, status="ENDED", reason="done")
        self.beat(second)
        self.run("job/forget", FORGET.command(self.values))

    def _schedule(self, lease: Lease, number: int, kind: str, data: object) -> None:
        record = task(f"t{number}", number, kind, data=data)
        fields = ["status", "STANDING", "order", number, "kind", kind, *payload_fields("data", record.data)]
        prefix, chunks = blob_of(record.data)
        values: dict[str, Arg] = {"task": self.bench.keys.task(record.root_id), "root_id": record.root_id, "again": 1}
        self.take(SCHEDULE, lease, fields, order=number, data_prefix=prefix, chunks=chunks, **values)

    def _checkpoint(self, lease: Lease, checkpoint_id: str, number: int) -> None:
        state = large(number)
        fields = ["state", b"{}", *payload_fields("state_data", state)]
        prefix, chunks = blob_of(state)
        self.take(CHECKPOINT, lease, fields, checkpoint_id=checkpoint_id, state_prefix=prefix, chunks=chunks)

    def content(self) -> dict[str, object]:
        """The content of all keys, without times."""
        found: dict[str, object] = {}
        for key in self.bench.own_keys():
            short = key.removeprefix(self.bench.keys.prefix)
            kind = self.bench.connection.call("TYPE", key)
            if kind == b"hash":
                found[short] = {name: _timeless(value) for name, value in self.bench.hash(key).items()}
            elif kind == b"zset":
                found[short] = self.bench.members(key)
            else:
                found[short] = kind
        return found


def without_times(reply: RedisReply) -> str:
    return re.sub(r"\b\d{5,}\b", "T", _timeless(repr(reply)))


def _timeless(text: str) -> str:
    return re.sub(r"\b\d{13}\b", "T", text)


def test_a_job_with_every_step_run_twice_ends_in_the_same_state(new_bench: Callable[..., JobBench]) -> None:
    once, twice = Steps(new_bench(), 1), Steps(new_bench(), 2)
    once.life()
    twice.life()
    assert once.replies == twice.replies
    assert once.content() == twice.content()
    methods = {
        "begin",
        "join",
        "beat",
        "leave",
        "list_members",
        "end",
        "schedule",
        "note_client_task",
        "finish",
        "checkpoint",
        "own_payloads",
        "forget",
    }
    assert once.ran == {f"job/{name}" for name in methods}


# -- nothing is left ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [True, False])
def test_no_key_of_a_finished_job_is_left(new_bench: Callable[..., JobBench], resume: bool) -> None:
    bench = new_bench(POLICY)
    store = whole_job(bench, resume=resume)
    store.discard(store.orphans())
    bench.membership.end(bench.connection, bench.lease, reason="done")
    settled = [key for key in bench.own_keys() if key not in (bench.keys.cell, bench.keys.heartbeat("site-1"))]
    assert settled
    for key in settled:
        assert 0 < bench.ttl_ms(key) <= POLICY.settled_ms, key
    wait_until(lambda: not bench.own_keys(), 10, "the end of all keys")


@pytest.mark.parametrize("resume", [True, False])
def test_no_key_is_left_when_all_processes_are_killed(new_bench: Callable[..., JobBench], resume: bool) -> None:
    bench = new_bench(POLICY)
    whole_job(bench, resume=resume)
    for key in bench.own_keys():
        assert 0 < bench.ttl_ms(key) <= POLICY.retention_ms, key
    wait_until(lambda: not bench.own_keys(), 10, "the end of all keys")


def test_listing_the_members_keeps_a_job_alive(new_bench: Callable[..., JobBench]) -> None:
    bench = new_bench(POLICY)
    whole_job(bench, resume=True)
    bench.policy = RetentionPolicy()
    bench.membership = Members(bench.keys, bench.policy)
    bench.list_members()
    ended = bench.keys.task("t2")
    others = (bench.keys.cell, bench.keys.heartbeat("site-1"), ended)
    for key in bench.own_keys():
        if key not in others:
            assert bench.ttl_ms(key) > POLICY.retention_ms, key


def whole_job(bench: JobBench, *, resume: bool) -> JobTaskStore:
    """A running job with keys of every kind."""
    lease = bench.joined()
    bench.beat(lease, ttl_ms=1_000)
    store = bench.started(resume=resume)
    store.own("flare:blob:{b1}", 3)
    store.schedule(task("t1", 1, data=large(1)))
    store.schedule(task("t2", 2, data=small()))
    store.note("t2", [sent("ct1"), received("ct1", result=large(2))])
    store.finish("t2", "OK", 5.0)
    if resume:
        store.checkpoint({"round": 1}, large(3))
    store.schedule(task("t3", 3))
    store.note("t3", [received("ct3")])
    store.finish("t3", "OK", 5.0)
    return store


# -- a server that is replaced, on a real cell -------------------------------------------------------------------------


def test_the_lease_of_a_real_cell_is_the_jobs_servers(server: Server, new_bench: Callable[..., JobBench]) -> None:
    bench = new_bench()
    settings = LinkSettings(namespace=bench.keys.namespace, heartbeat_interval=0.05, heartbeat_ttl=1.0)
    lease = bench.joined()
    with Cell(server, "server.job-1", settings) as old:
        first = Lease(instance=old.instance, epoch=old.epoch, run="a")
        assert not bench.begin(first).resumed
        store = bench.task_store(lease=first)
        store.schedule(task(data=small()))
        wait_until(lambda: bench.beat(lease).server_age is not None)
        assert bench.beat(lease).server_instance == old.instance
        with Cell(server, "server.job-1", settings) as new:
            second = Lease(instance=new.instance, epoch=new.epoch, run="b")
            with pytest.raises(Fenced):
                store.schedule(task("t2", 2))
            began = bench.begin(second)
            assert (began.resumed, began.previous) == (True, "a")
            assert bench.task_store(lease=second).recover().tasks == (task(data=small()),)
    assert bench.beat(lease).server_age is None


def test_of_two_runs_of_one_cell_that_begin_at_once_one_continues(
    server: Server, new_bench: Callable[..., JobBench]
) -> None:
    bench = new_bench()
    bench.serve()
    leases = [replace(bench.lease, run=f"run-{number}") for number in range(8)]

    def begin(lease: Lease) -> str:
        with server.borrow(bench.keys.job) as connection:
            return bench.membership.begin(connection, lease).previous

    began = together([partial(begin, lease) for lease in leases])
    assert len(set(began)) == len(leases), "each has followed another"
    assert [bench.list_members(lease).status for lease in leases].count("OK") == 1
