"""The members of a job: joining, leaving, heartbeats, and fencing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import fakeredis
import orjson
import pytest
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.errors import Fenced, JobEnded, JobLost, ServerError
from redflare_broker.job_state.awaited_sites import AwaitedSites
from redflare_broker.job_state.members import Member, Members
from redflare_broker.keys import Keys
from redflare_broker.scripts.script import ScriptReply
from redflare_broker.transport.replies import ReplyError
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.job.state import JobBench, client, small, task


@pytest.fixture
def bench(options: ConnectionOptions) -> Iterator[JobBench]:
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=redis, options=options) as server, server.borrow("any") as connection:
        yield JobBench(server, connection)


# -- clients join ------------------------------------------------------------------------------------------------------


def test_a_client_that_joins_is_a_member_with_its_own_properties(bench: JobBench) -> None:
    bench.serve()
    bench.begin()
    epoch = bench.join(gpus=2, rate=0.1, tags=[], deep={"a": {}}).number()
    [member] = bench.list_members().members
    assert member == Member(
        name="site-1",
        instance="gpu-1:7:c1",
        epoch=epoch,
        cell="site-1.job-1",
        host="gpu-1",
        pid=7,
        joined=member.joined,
        left=0,
        props={"gpus": 2, "rate": 0.1, "tags": [], "deep": {"a": {}}},
    )
    assert member.joined >= epoch > 1_700_000_000_000
    assert not member.alive


def test_clients_may_join_and_beat_before_the_server_has_begun(bench: JobBench) -> None:
    lease = bench.joined()
    reply = bench.beat(lease)
    assert (reply.status, reply.run, reply.server_age) == ("OK", "", None)
    bench.serve()
    assert not bench.begin().resumed
    assert [(member.name, member.alive) for member in bench.list_members().members] == [("site-1", True)]


def test_joining_twice_changes_nothing(bench: JobBench) -> None:
    lease = bench.joined()
    before = bench.record("site-1")
    assert bench.join() == bench.join(epoch=lease.epoch) == ScriptReply(status="OK", rest=(lease.epoch,))
    assert bench.record("site-1") == before


def test_the_newest_instance_of_a_name_wins(bench: JobBench) -> None:
    old, new = bench.joined(instance="c1"), bench.joined(instance="c2")
    assert new.epoch > old.epoch
    assert bench.beat(old).status == "FENCED"
    assert bench.membership.leave(bench.connection, old).status == "FENCED"
    assert bench.join(instance="c1", epoch=old.epoch) == ScriptReply(status="FENCED", rest=(new.epoch,))
    assert bench.beat(new).status == "OK"


def test_an_instance_does_not_take_a_name_whose_holder_has_the_same_epoch(bench: JobBench) -> None:
    held = bench.joined(instance="c1")
    assert bench.join(instance="c2", epoch=held.epoch) == ScriptReply(status="FENCED", rest=(held.epoch,))
    assert bench.beat(held).status == "OK"


def test_a_new_instance_has_a_higher_epoch_than_one_whose_clock_was_ahead(bench: JobBench) -> None:
    ahead = 9_000_000_000_000
    assert bench.join(instance="c1", epoch=ahead).status == "OK"
    assert bench.join(instance="c2") == ScriptReply(status="OK", rest=(ahead + 1,))


def test_a_client_that_redis_lost_gets_an_error_and_joins_again_with_its_epoch(bench: JobBench) -> None:
    old, new = bench.joined(instance="c1"), bench.joined(instance="c2")
    bench.connection.call("FLUSHALL")
    assert bench.beat(new).status == bench.membership.leave(bench.connection, new).status == "LOST"
    assert bench.join(instance="c1", epoch=old.epoch).status == "OK"
    assert bench.beat(new).status == "LOST"
    assert bench.join(instance="c2", epoch=new.epoch) == ScriptReply(status="OK", rest=(new.epoch,))
    assert bench.beat(old).status == "FENCED"


def test_a_client_that_has_not_joined_is_lost(bench: JobBench) -> None:
    assert bench.beat(client()).status == bench.membership.leave(bench.connection, client()).status == "LOST"


def test_a_client_that_left_has_no_heartbeat_and_a_late_beat_does_not_restore_it(bench: JobBench) -> None:
    bench.serve()
    bench.begin()
    lease = bench.joined()
    bench.beat(lease)
    assert bench.membership.leave(bench.connection, lease).status == "OK"
    left = bench.list_members().members[0].left
    assert left >= lease.epoch
    assert bench.beat(lease).status == bench.membership.leave(bench.connection, lease).status == "OK"
    [member] = bench.list_members().members
    assert (member.left, member.alive, member.heartbeat_ms) == (left, False, -2)


def test_a_client_that_joins_again_after_it_left_is_a_member(bench: JobBench) -> None:
    bench.membership.leave(bench.connection, bench.joined(instance="c1"))
    bench.serve()
    bench.begin()
    bench.beat(bench.joined(instance="c2"))
    [member] = bench.list_members().members
    assert (member.instance, member.left, member.alive) == ("gpu-1:7:c2", 0, True)


# -- what a beat tells -------------------------------------------------------------------------------------------------


def test_a_beat_returns_the_run_and_the_age_of_the_servers_heartbeat(bench: JobBench) -> None:
    bench.serve()
    bench.begin()
    lease = bench.joined()
    bench.connection.call("SET", bench.keys.server_heartbeat, b'{"ttl_ms":60000,"instance":"s1"}', "PX", 50_000)
    reply = bench.beat(lease)
    assert (reply.status, reply.run, reply.server_instance) == ("OK", "r1", "s1")
    assert reply.server_age is not None
    assert 10 <= reply.server_age < 20


@pytest.mark.parametrize("beat", [b"no JSON", b"7", b"{}", b'{"ttl_ms":[]}'])
def test_an_invalid_heartbeat_counts_as_silence(bench: JobBench, beat: bytes) -> None:
    lease = bench.joined()
    bench.connection.call("SET", bench.keys.server_heartbeat, beat, "PX", 50_000)
    assert bench.beat(lease).server_age is None


def test_a_heartbeat_is_readable_json_and_expires(bench: JobBench) -> None:
    lease = bench.joined()
    bench.beat(lease, ttl_ms=30_000)
    text = bench.connection.call("GET", bench.keys.heartbeat("site-1"))
    assert isinstance(text, bytes)
    heartbeat = orjson.loads(text)
    assert (heartbeat["instance"], heartbeat["epoch"], heartbeat["host"], heartbeat["ttl_ms"]) == (
        "gpu-1:7:c1",
        lease.epoch,
        "gpu-1",
        30_000,
    )
    assert 29_000 < bench.ttl_ms(bench.keys.heartbeat("site-1")) <= 30_000


# -- the server begins and ends ----------------------------------------------------------------------------------------


def test_the_first_run_is_new_and_the_next_one_resumes_it(bench: JobBench) -> None:
    bench.serve()
    first = bench.begin()
    assert (first.resumed, first.previous) == (False, "")
    assert bench.begin() == first
    bench.serve()
    second = bench.begin()
    assert (second.resumed, second.previous) == (True, "r1")
    assert bench.begin() == second
    assert bench.hash(bench.keys.job)["began"] == "RESUMED"


def test_a_server_that_does_not_resume_drops_the_tasks_and_keeps_the_clients(bench: JobBench) -> None:
    bench.joined()
    tasks = bench.started()
    tasks.schedule(task("t1", 1))
    tasks.schedule(task("t2", 2))
    tasks.finish("t1", "OK", 1_003.0)
    tasks.checkpoint({"round": 1}, small())
    tasks.finish("t2", "OK", 1_003.0)
    bench.serve()
    began = bench.begin(resume=False)
    assert (began.resumed, began.previous) == (False, "r1")
    assert not bench.task_store().recover().tasks
    assert bench.task_store().recover().state is None
    assert bench.connection.call("EXISTS", bench.keys.task("t2"), bench.keys.standing, bench.keys.ended) == 0
    assert [member.name for member in bench.list_members().members] == ["site-1"]


def test_a_job_that_has_ended_is_started_anew(bench: JobBench) -> None:
    bench.joined()
    bench.started().schedule(task())
    bench.membership.end(bench.connection, bench.lease, reason="done")
    bench.serve()
    began = bench.begin()
    assert (began.resumed, began.previous) == (False, "r1")
    assert bench.list_members().members == ()
    assert bench.task_store().recover().tasks == ()
    assert bench.ttl_ms(bench.keys.job) > bench.policy.settled_ms


def test_clients_learn_that_the_job_has_ended_and_why(bench: JobBench) -> None:
    bench.started()
    lease = bench.joined()
    bench.beat(lease)
    bench.membership.end(bench.connection, bench.lease, "FINISHED:COMPLETED", "all rounds done")
    assert (bench.beat(lease).status, bench.beat(lease).reason) == ("ENDED", "all rounds done")
    assert bench.join("site-2") == ScriptReply(status="ENDED", rest=(b"all rounds done",))
    assert bench.membership.leave(bench.connection, lease).status == "OK"
    assert bench.list_members().status == "ENDED"
    assert bench.hash(bench.keys.job)["status"] == "FINISHED:COMPLETED"


def test_the_first_end_counts(bench: JobBench) -> None:
    bench.started()
    bench.membership.end(bench.connection, bench.lease, reason="first")
    bench.membership.end(bench.connection, bench.lease, reason="second")
    assert bench.list_members().reason == "first"
    with pytest.raises(JobEnded, match=r"server\.job-1 has ended: first"):
        bench.begin()


def test_a_server_that_was_replaced_is_fenced_at_every_step(bench: JobBench) -> None:
    bench.started()
    old = bench.lease
    bench.serve()
    with pytest.raises(Fenced, match=r"a newer server has taken over server\.job-1"):
        bench.begin(old)
    with pytest.raises(Fenced):
        bench.membership.end(bench.connection, old)
    assert bench.list_members(old).status == "FENCED"
    assert bench.hash(bench.keys.job)["status"] == "RUNNING"


def test_a_server_whose_cell_redis_forgot_is_lost_at_every_step(bench: JobBench) -> None:
    bench.started()
    bench.connection.call("FLUSHALL")
    with pytest.raises(JobLost, match="begin it again"):
        bench.begin()
    bench.hold_cell()
    assert bench.list_members().status == "LOST"
    with pytest.raises(JobLost):
        bench.membership.end(bench.connection, bench.lease)
    assert not bench.begin().resumed
    assert bench.list_members().status == "OK"


@pytest.mark.parametrize("change", [{"instance": "x"}, {"epoch": 2}, {"epoch": 0}, {"run": "x"}], ids=str)
def test_a_lease_that_is_not_the_one_in_redis_is_lost(bench: JobBench, change: dict[str, str]) -> None:
    bench.started()
    assert bench.list_members(replace(bench.lease, **change)).status == "LOST"  # type: ignore[arg-type]


# -- whom the server waits for -----------------------------------------------------------------------------------------


def awaited(bench: JobBench) -> AwaitedSites | None:
    return AwaitedSites.parse(bench.hash(bench.keys.job).get("awaited", ""))


def test_the_sites_that_are_awaited_are_noted_until_the_next_run(bench: JobBench) -> None:
    bench.started()
    sites = AwaitedSites(sites=("site-1", "site-2"), least=1, until=99)
    for _ in range(2):
        bench.membership.note_awaited(bench.connection, bench.lease, sites)
        assert awaited(bench) == sites
    bench.started()
    assert awaited(bench) is None
    bench.membership.note_awaited(bench.connection, bench.lease, sites)
    bench.membership.note_awaited(bench.connection, bench.lease, None)
    assert awaited(bench) is None


def test_a_note_of_awaited_sites_renews_the_job(bench: JobBench) -> None:
    bench.started()
    bench.connection.call("PEXPIRE", bench.keys.job, 1000)
    bench.membership.note_awaited(bench.connection, bench.lease, AwaitedSites(least=1))
    assert bench.ttl_ms(bench.keys.job) > bench.policy.retention_ms / 2


def test_only_the_current_run_of_a_running_job_notes_whom_it_waits_for(bench: JobBench) -> None:
    bench.started()
    old = bench.lease
    bench.started()
    with pytest.raises(Fenced):
        bench.membership.note_awaited(bench.connection, old, AwaitedSites(least=1))
    with pytest.raises(JobLost):
        bench.membership.note_awaited(bench.connection, replace(bench.lease, run="x"), AwaitedSites(least=1))
    bench.membership.end(bench.connection, bench.lease, reason="done")
    with pytest.raises(JobEnded):
        bench.membership.note_awaited(bench.connection, bench.lease, AwaitedSites(least=1))
    assert awaited(bench) is None


@pytest.mark.parametrize("text", ["", "7", "{}", "[1]", '{"sites":1,"least":1,"until":1}', "no JSON"])
def test_an_invalid_note_of_awaited_sites_is_none(text: str) -> None:
    assert AwaitedSites.parse(text) is None


# -- bad words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [b"7", b"{}", b"[1]", b'{"instance":1'])
def test_an_invalid_record_is_named_and_hides_no_other(
    bench: JobBench, record: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    bench.started()
    for name in ("site-8", "site-9"):
        bench.joined(name)
    bench.connection.call("SET", bench.keys.client("site-9"), record)
    assert [member.name for member in bench.list_members().members] == ["site-8"]
    assert "a client is left out: the record of member b'site-9' is" in caplog.text


def test_a_record_of_another_type_hides_no_other(bench: JobBench) -> None:
    bench.started()
    for name in ("site-8", "site-9"):
        bench.joined(name)
    bench.connection.call("DEL", bench.keys.client("site-9"))
    bench.connection.call("HSET", bench.keys.client("site-9"), "a", "b")
    assert [member.name for member in bench.list_members().members] == ["site-8"]


def test_a_name_that_redis_has_lost_comes_back_with_the_next_heartbeat(bench: JobBench) -> None:
    bench.started()
    lease = bench.joined()
    bench.connection.call("DEL", bench.keys.clients)
    assert bench.list_members().members == ()
    assert bench.beat(lease).status == "OK"
    assert [member.name for member in bench.list_members().members] == ["site-1"]


def test_a_client_may_leave_the_life_of_the_set_to_the_server(bench: JobBench) -> None:
    bench.membership._values |= {"may_keep": 0}
    bench.joined()
    assert bench.ttl_ms(bench.keys.clients) == -1
    assert bench.ttl_ms(bench.keys.client("site-1")) > 0
    bench.membership._values |= {"may_keep": 1}
    bench.joined(instance="c2")
    assert bench.ttl_ms(bench.keys.clients) > 0


def test_an_error_reply_is_raised() -> None:
    with pytest.raises(ServerError, match="script job/beat failed"):
        Members.read_beat(ReplyError("ERR broken"))
    with pytest.raises(ServerError, match="script job/list_members answered None"):
        Members(Keys().job("server.job-1"), RetentionPolicy()).read_members(None)


def test_a_client_that_joins_beating_is_never_seen_silent(bench: JobBench) -> None:
    bench.started()
    bench.membership.join(bench.connection, client(), "site-1.job-1", beating=True)
    (member,) = bench.list_members().members
    assert member.alive
    assert member.missed_beats < 1


def test_a_job_finds_nothing_of_another_of_its_id_once_that_is_forgotten(bench: JobBench) -> None:
    store = bench.started()
    bench.joined()
    store.schedule(task("t1", 1))
    store.schedule(task("t2", 2))
    store.finish("t2", "OK", 7.0)
    bench.membership.end(bench.connection, bench.lease, reason="the first is over")
    assert bench.join().status == "ENDED"
    bench.membership.forget(bench.connection)
    assert [key for key in bench.own_keys() if not key.endswith((":cell", ":heartbeat:site-1"))] == []
    assert bench.join().status == "OK"
    bench.serve()
    assert not bench.begin().resumed
