"""The replies of each script, and the keys that it writes."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
from redflare_broker.errors import ServerError
from redflare_broker.keys import Keys
from redflare_broker.scripts import script
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.link_scripts import HELLO, KEEP_AGENTS
from redflare_broker.scripts.script import ScriptReply
from redflare_broker.transport.replies import ReplyError
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.wire.task_entry import BlobRef, Entry

from tests.support.link.bench import LinkBench


@pytest.fixture
def bench(options: ConnectionOptions) -> Iterator[LinkBench]:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=client, options=options) as server, server.borrow("any") as connection:
        yield LinkBench(connection)


# -- who may do anything -----------------------------------------------------------------------------------------------


def everything(bench: LinkBench, agent: Lease, cj: Lease) -> dict[str, str]:
    """The status in the reply to every step of these instances."""
    bench.agent, bench.cj = agent, cj
    return {
        "assign": bench.assign("t1").status,
        "take": bench.take("t1").status,
        "refuse": bench.refuse("t1", "BAD").status,
        "submit": bench.submit("t1").status,
        "settle": bench.settle("t1").status,
        "abort": bench.abort("t1", cj).status,
        "bury by the agent": bench.bury(agent, bench.keys.tasks, "1-1").status,
        "bury by the CJ": bench.bury(cj, bench.keys.results, "1-1").status,
        "beat of the agent": bench.beat(agent, "t1").status,
        "beat of the CJ": bench.beat(cj, "t1").status,
        "bye of the agent": bench.bye(agent).status,
        "bye of the CJ": bench.bye(cj).status,
    }


def test_an_instance_that_was_replaced_is_fenced_at_every_step(bench: LinkBench) -> None:
    agent, cj = bench.agent, bench.cj
    bench.start(Lease(name="agent", instance="a2"))
    bench.start(Lease(name="cj", instance="c2"))
    assert set(everything(bench, agent, cj).values()) == {"FENCED"}
    assert bench.scripts.hello(bench.connection, agent).status == "FENCED"


def test_an_instance_that_redis_lost_gets_lost_at_every_step(bench: LinkBench) -> None:
    bench.connection.call("FLUSHALL")
    assert set(everything(bench, bench.agent, bench.cj).values()) == {"LOST"}


def test_an_instance_that_has_not_said_hello_is_lost(bench: LinkBench) -> None:
    assert set(everything(bench, Lease(name="agent", instance="x"), Lease(name="cj", instance="y")).values()) == {
        "LOST"
    }


def test_an_older_epoch_does_not_come_back_before_a_newer_one_after_all_data_are_lost(bench: LinkBench) -> None:
    old, new = bench.agent, bench.start(Lease(name="agent", instance="a2"))
    bench.connection.call("FLUSHALL")
    assert bench.scripts.hello(bench.connection, old).status == "OK"
    assert bench.beat(new).status == "LOST"
    assert bench.scripts.hello(bench.connection, new) == ScriptReply(status="OK", rest=(new.epoch,))
    assert bench.scripts.hello(bench.connection, old).status == "FENCED"


def test_an_instance_that_starts_after_all_data_are_lost_is_newer_than_all_before(bench: LinkBench) -> None:
    old = bench.agent
    bench.connection.call("FLUSHALL")
    assert bench.start(Lease(name="agent", instance="a2")).epoch > old.epoch
    assert bench.scripts.hello(bench.connection, old).status == "FENCED"


@pytest.mark.parametrize("field", ["agent_epoch", "cj_closed"])
def test_an_instance_that_starts_after_the_clock_of_redis_was_set_back_is_newer_than_all_before(
    bench: LinkBench, field: str
) -> None:
    """It is also newer than a goodbye of the CJ, which was meant for those before."""
    later = bench.agent.epoch + 10**9
    bench.connection.call("HSET", bench.keys.link, field, later)
    newer = bench.start(Lease(name="agent", instance="a2"))
    assert newer.epoch == later + 1
    assert bench.beat(newer).status == "OK"


def test_a_first_hello_offers_an_epoch_and_changes_nothing(bench: LinkBench) -> None:
    before = bench.connection.call("HGETALL", bench.keys.link)
    reply = HELLO.run(
        bench.connection,
        {},
        link=bench.keys.link,
        tasks=bench.keys.tasks,
        results=bench.keys.results,
        notice=bench.keys.notice,
        role="agent",
        instance="a2",
        epoch=0,
        retention_ms=1000,
        publish="PUBLISH",
    )
    assert reply.status == "NEXT"
    assert reply.number() > bench.agent.epoch
    assert bench.connection.call("HGETALL", bench.keys.link) == before


# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_assign_drops_the_ledger_that_its_cj_keeps_no_longer(bench: LinkBench) -> None:
    for task in ("t1", "t2"):
        bench.submitted(task)
        bench.settle(task)
    entry = Entry(topic="get_task", task_id="t3", task_name="train")
    command = bench.scripts.assign_command(bench.cj, entry, size=0, forget="t1")
    assert script.run_command(bench.connection, command).status == "NEW"
    assert [bench.field(task, "status") for task in ("t1", "t2", "t3")] == ["", "ACCEPTED", "NEW"]


def test_the_first_assign_makes_both_streams_and_no_other_does(bench: LinkBench) -> None:
    streams = (bench.keys.tasks, bench.keys.results)
    assert [bench.connection.call("EXISTS", key) for key in streams] == [0, 0], "a hello makes none"
    bench.assign("t1")
    assert [bench.connection.call("TYPE", key) for key in streams] == [b"stream", b"stream"]
    assert [len(bench.entries(key)) for key in streams] == [1, 0]
    assert bench.connection.call("HGET", bench.keys.link, "streams") == b"1"
    bench.connection.call("DEL", bench.keys.results)
    bench.assign("t2", expected="t1")
    assert bench.connection.call("EXISTS", bench.keys.results) == 0


def test_a_link_whose_results_are_older_than_its_first_task_keeps_them(bench: LinkBench) -> None:
    """Somebody else has written into the stream: the reader buries that, and nothing else may take it away."""
    foreign = bench.connection.call("XADD", bench.keys.results, "*", "x", "1")
    bench.assign("t1")
    assert [entry.encode() for entry, _ in bench.entries(bench.keys.results)] == [foreign]


def test_assign_adds_a_task_once(bench: LinkBench) -> None:
    assert bench.assign("t1") == bench.assign("t1") == ScriptReply(status="NEW", rest=(b"",))
    assert len(bench.entries(bench.keys.tasks)) == 1


def test_assign_of_another_task_needs_the_id_of_the_open_one_and_aborts_it(bench: LinkBench) -> None:
    bench.submitted("t1")
    assert bench.assign("t2") == ScriptReply(status="BUSY", rest=(b"t1",))
    assert bench.assign("t2", expected="t1").status == "NEW"
    assert (bench.field("t1", "status"), bench.field("t1", "reason")) == ("ABORTED", "replaced by task t2")
    assert bench.entries(bench.keys.results) == []


@pytest.mark.parametrize("status", ["ACCEPTED", "REJECTED"])
def test_assign_of_a_settled_task_gives_its_result_and_does_not_open_it(bench: LinkBench, status: str) -> None:
    bench.submitted("t1")
    bench.settle("t1", status)
    assert bench.assign("t1") == ScriptReply(status=status, rest=(bench.field("t1", "result").encode(),))
    assert bench.take("t1").status == "NONE"


@pytest.mark.parametrize("open_task", [True, False])
@pytest.mark.parametrize("lost", [True, False])
def test_assign_of_an_accepted_task_after_another_says_that_its_result_is_gone(
    bench: LinkBench, open_task: bool, lost: bool
) -> None:
    bench.submitted("t1")
    bench.settle("t1")
    result = bench.field("t1", "result") if lost else ""
    bench.submitted("t2")
    if not open_task:
        bench.settle("t2", "REJECTED")
    status = bench.field("t2", "status")
    reply = bench.assign("t1", expected="t2", lost=result)
    assert (reply.status, reply.text()) == ("ACCEPTED", "")
    assert (bench.field("t1", "status"), bench.field("t2", "status")) == ("ACCEPTED", status)
    assert bench.assign("t2").status == status


def test_assign_of_the_last_task_whose_result_is_gone_opens_it_again(bench: LinkBench) -> None:
    bench.submitted("t1")
    bench.settle("t1")
    bench.bye(bench.cj)
    bench.cj = bench.start(Lease(name="cj", instance="c2"))
    result = bench.assign("t1").text()
    assert result
    assert bench.assign("t1", lost=result).status == "NEW"


def test_assign_of_an_aborted_task_does_not_open_it(bench: LinkBench) -> None:
    bench.abort("t1", bench.cj)
    assert bench.assign("t1") == ScriptReply(status="ABORTED", rest=(b"",))


@pytest.mark.parametrize("settled", [False, True])
def test_a_result_whose_payload_is_lost_is_asked_for_again(bench: LinkBench, settled: bool) -> None:
    bench.submitted("t1")
    if settled:
        bench.settle("t1")
    lost = bench.field("t1", "result")
    assert bench.assign("t1", lost="1-1").status in ("SUBMITTED", "ACCEPTED")
    assert bench.assign("t1", lost=lost) == bench.assign("t1", lost=lost) == ScriptReply(status="NEW", rest=(b"",))
    assert bench.submit("t1", "s1").status == "RESEND"
    assert bench.submit("t1", "s2").status == "SUBMITTED"
    assert bench.assign("t1", lost=lost).status == "SUBMITTED"


def test_take_gives_the_open_task_alone_and_counts_the_instances_that_took_it(bench: LinkBench) -> None:
    assert bench.take("t1") == ScriptReply(status="NONE")
    bench.assign("t1")
    assert bench.take("t1") == bench.take("t1") == ScriptReply(status="FETCHED", rest=(1, 0))
    assert bench.take("t2") == ScriptReply(status="NONE")
    bench.agent = bench.start(Lease(name="agent", instance="a2"))
    assert bench.take("t1") == ScriptReply(status="FETCHED", rest=(2, 1))
    bench.submit("t1")
    assert bench.take("t1") == ScriptReply(status="SUBMITTED")


def test_a_task_whose_payload_is_lost_is_returned_to_the_cj(bench: LinkBench) -> None:
    assert bench.refuse("t1", "BLOB_MISSING").status == "GONE"
    bench.assign("t1")
    assert bench.refuse("t1", "BLOB_MISSING").status == "NEW"
    bench.take("t1")
    assert bench.refuse("t1", "BLOB_MISSING").status == "NEW"
    refusals = [entry for entry, fields in bench.entries(bench.keys.results) if fields[b"topic"] == b"get_task"]
    assert bench.entries(bench.keys.tasks) == []
    assert bench.assign("t1", lost=refusals[0]).status == "NEW"
    assert bench.entries(bench.keys.results) == []
    assert bench.take("t1") == ScriptReply(status="FETCHED", rest=(2, 0))


@pytest.mark.parametrize(("bye", "died"), [("", 1), ("failed", 1), ("in order", 0)])
def test_an_agent_that_goes_without_a_goodbye_in_order_has_died_with_its_task(
    bench: LinkBench, bye: str, died: int
) -> None:
    bench.assign("t1")
    bench.take("t1")
    if bye:
        bench.scripts.bye(bench.connection, bench.agent, failed=bye == "failed")
    bench.agent = bench.start(Lease(name="agent", instance="a2"))
    assert bench.take("t1") == bench.take("t1") == ScriptReply(status="FETCHED", rest=(2, died))


def test_a_task_that_too_many_have_died_with_is_no_dead_letter(bench: LinkBench) -> None:
    bench.assign("t1")
    bench.take("t1")
    assert bench.refuse("t1", "EXECUTION_EXCEPTION").status == "REJECTED"
    assert bench.entries(bench.keys.dead) == bench.entries(bench.keys.tasks) == []
    assert bench.field("t1", "rc") == "EXECUTION_EXCEPTION"


def test_a_task_that_was_taken_late_and_refused_again_has_one_refusal(bench: LinkBench) -> None:
    bench.assign("t1")
    for _ in range(2):
        bench.take("t1")
        assert bench.refuse("t1", "BLOB_MISSING").status == "NEW"
    refusals = [entry for entry, fields in bench.entries(bench.keys.results) if fields[b"topic"] == b"get_task"]
    assert refusals == [bench.field("t1", "result")]


def test_a_result_takes_the_place_of_the_refusal_before_it(bench: LinkBench) -> None:
    bench.assign("t1")
    bench.take("t1")
    bench.refuse("t1", "BLOB_MISSING")
    assert bench.submit("t1").status == "SUBMITTED"
    assert [fields[b"topic"] for _, fields in bench.entries(bench.keys.results)] == [b"submit_result"]


def test_a_task_is_refused_by_the_instance_alone_that_has_taken_it(bench: LinkBench) -> None:
    bench.assign("t1")
    bench.take("t1")
    bench.agent = bench.start(Lease(name="agent", instance="a2"))
    assert bench.refuse("t1", "EXECUTION_EXCEPTION").status == "FETCHED"
    assert bench.entries(bench.keys.results) == []


def test_the_chunks_of_a_result_that_is_sent_again_are_the_links_although_the_earlier_ones_were_lent(
    bench: LinkBench,
) -> None:
    bench.submitted("t1")
    bench.scripts.settle(bench.connection, bench.cj, "t1", "ACCEPTED", lent=True)
    assert bench.field("t1", "lent") == "1"
    assert bench.assign("t1", lost=bench.field("t1", "result")).status == "NEW"
    assert bench.field("t1", "lent") == ""


def test_a_task_that_cannot_be_read_is_rejected_and_buried(bench: LinkBench) -> None:
    bench.assign("t1")
    bench.take("t1")
    assert bench.refuse("t1", "BAD_TASK_DATA").status == "REJECTED"
    assert bench.refuse("t1", "BAD_TASK_DATA").status == "REJECTED"
    assert bench.submit("t1").status == "REJECTED"
    assert (bench.field("t1", "rc"), bench.field("t1", "reason")) == ("BAD_TASK_DATA", "why")
    assert len(bench.entries(bench.keys.dead)) == 1
    assert len(bench.entries(bench.keys.results)) == 1
    bench.assign("t2")
    assert bench.entries(bench.keys.results) == [], "the refusal goes with the next task"


def test_submit_returns_the_status_of_the_task(bench: LinkBench) -> None:
    assert bench.submit("").status == "UNKNOWN"
    assert bench.submit("t1").status == "UNKNOWN"
    bench.assign("t1")
    assert bench.submit("") == ScriptReply(status="OPEN", rest=(b"t1",))
    assert bench.submit("t1").status == bench.submit("t1").status == "SUBMITTED"
    assert bench.submit("t1", "s2").status == "DUPLICATE"
    bench.settle("t1")
    assert bench.submit("t1").status == "ACCEPTED"
    assert bench.submit("t1", "s2").status == "DUPLICATE"
    bench.abort("t2", bench.cj)
    assert bench.submit("t2").status == "ABORTED"


def test_settle_accepts_only_a_submitted_result(bench: LinkBench) -> None:
    assert bench.settle("t1").status == "UNKNOWN"
    bench.assign("t1")
    assert bench.settle("t1").status == "NEW"
    bench.take("t1")
    assert bench.settle("t1").status == "FETCHED"
    bench.submit("t1")
    assert bench.settle("t1").status == bench.settle("t1").status == "ACCEPTED"


def test_a_cj_that_cannot_read_an_accepted_result_rejects_it(bench: LinkBench) -> None:
    bench.submitted("t1")
    bench.settle("t1")
    assert bench.settle("t1", "REJECTED").status == bench.settle("t1", "ACCEPTED").status == "REJECTED"
    assert bench.entries(bench.keys.results) == []
    assert len(bench.entries(bench.keys.dead)) == 1


def test_a_result_that_was_deleted_for_the_next_task_stays_accepted(bench: LinkBench) -> None:
    bench.submitted("t1")
    bench.settle("t1")
    bench.assign("t2")
    assert bench.settle("t1", "REJECTED").status == "ACCEPTED"


def test_a_large_result_is_not_accepted_unread(bench: LinkBench) -> None:
    bench.assign("t1")
    blob = BlobRef(prefix=bench.keys.result_blob("x"), chunk=10, sizes=(4,))
    entry = Entry(topic="submit_result", task_id="t1", blob=blob)
    bench.scripts.submit(bench.connection, bench.agent, entry, submit_id="s1", size=4)
    assert bench.accept_unread("t1").status == "SUBMITTED"
    assert bench.settle("t1").status == "ACCEPTED"


def test_a_small_result_is_accepted_unread(bench: LinkBench) -> None:
    bench.assign("t1")
    assert bench.accept_unread("t1").status == "NEW"
    bench.submit("t1")
    assert bench.accept_unread("t1").status == "ACCEPTED"
    assert bench.assign("t1") == ScriptReply(status="ACCEPTED", rest=(bench.field("t1", "result").encode(),))


def test_an_accepted_result_is_kept_until_the_next_task(bench: LinkBench) -> None:
    bench.submitted("t1")
    bench.settle("t1")
    assert bench.field("t1", "result") in [entry for entry, _ in bench.entries(bench.keys.results)]
    bench.assign("t2")
    assert bench.field("t1", "result") not in [entry for entry, _ in bench.entries(bench.keys.results)]


def test_a_rejected_result_is_buried(bench: LinkBench) -> None:
    bench.submitted("t1")
    assert bench.settle("t1", "REJECTED").status == "REJECTED"
    assert [fields[b"raw.topic"] for _, fields in bench.entries(bench.keys.dead)] == [b"submit_result"]


def test_abort_ends_an_open_task_and_leaves_a_settled_one(bench: LinkBench) -> None:
    bench.submitted("t1")
    assert bench.abort("t1").status == bench.abort("t1", bench.cj).status == "ABORTED"
    assert bench.settle("t1").status == "ABORTED"
    bench.submitted("t2")
    bench.settle("t2")
    assert bench.abort("t2").status == "ACCEPTED"


def test_the_abort_of_another_task_leaves_the_open_one(bench: LinkBench) -> None:
    bench.assign("t1")
    assert bench.abort("t0", bench.cj).status == "ABORTED"
    assert bench.take("t1").status == "FETCHED"


def test_an_operator_cannot_abort_an_unknown_task(bench: LinkBench) -> None:
    assert bench.abort("t1").status == "UNKNOWN"
    assert bench.assign("t1").status == "NEW"


def test_a_beat_returns_open_task_status_and_peer(bench: LinkBench) -> None:
    bench.submitted("t1")
    bench.beat(bench.cj)
    reply = bench.beat(bench.agent, "t1")
    assert reply.rest[:3] == (b"t1", b"SUBMITTED", b"{}")
    assert 0 < reply.number(3) <= 60_000
    assert reply.rest[4:] == (b"c1", b"0", b"1")


def test_a_bye_deletes_the_heartbeat_and_a_late_beat_does_not_restore_it(bench: LinkBench) -> None:
    bench.beat(bench.agent)
    assert bench.bye(bench.agent).status == "OK"
    assert bench.beat(bench.agent).status == "OK"
    assert bench.connection.call("EXISTS", bench.keys.heartbeat("agent")) == 0
    reply = bench.beat(bench.cj)
    assert reply.text(4) == "a1"
    assert reply.number(5) >= bench.agent.epoch


def test_after_both_byes_the_link_lives_as_long_as_a_settled_ledger(bench: LinkBench) -> None:
    bench.submitted("t1")
    bench.settle("t1")
    bench.bye(bench.cj)
    bench.bye(bench.agent)
    for key in (bench.keys.link, bench.keys.tasks, bench.keys.results, bench.keys.task("t1")):
        assert 0 < bench.ttl_ms(key) <= bench.scripts.policy.settled_ms
    assert bench.entries(bench.keys.results) == []


def test_agents_that_were_not_seen_for_the_retention_time_are_trimmed(
    bench: LinkBench, options: ConnectionOptions
) -> None:
    agents, retention = Keys().agents, bench.scripts.policy.retention
    clock = bench.connection.call("TIME")
    assert isinstance(clock, list)
    now = int(clock[0])  # type: ignore[arg-type]
    bench.connection.call("ZADD", agents, now - retention - 10, "long-gone", now - retention + 10, "silent")
    bench.scripts.register(bench.connection, agents)
    if options.functions:
        # it may not do more than add: the server trims
        assert bench.connection.call("PTTL", agents) == -1
        KEEP_AGENTS.run(bench.connection, {"agents": agents, "retention_ms": round(retention * 1000)})
    assert bench.connection.call("ZRANGE", agents, 0, -1) == [b"silent", bench.keys.fqcn.encode()]
    assert bench.ttl_ms(agents) > 0


def test_an_unknown_script_is_loaded(bench: LinkBench) -> None:
    bench.connection.call("SCRIPT", "FLUSH")
    assert bench.assign("t1").status == "NEW"


def test_an_error_of_a_script_names_it() -> None:
    with pytest.raises(ServerError, match="script link/take failed in Redis: ERR broken"):
        script.parse_reply("link/take", ReplyError("ERR broken"))
    with pytest.raises(ServerError, match="script link/take answered 7"):
        script.parse_reply("link/take", 7)
