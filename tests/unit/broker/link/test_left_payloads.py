"""Payloads whose maker has died: who deletes them, and when; on fakeredis, in which nothing is killed but dropped."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from redflare_agent import TaskResult
from redflare_broker.errors import Unavailable
from redflare_broker.link import payloads
from redflare_broker.link.agent_link import AgentLink
from redflare_broker.link.cj_link import CJLink
from redflare_broker.link.exchange import ExchangeOutcome, OutgoingTask
from redflare_broker.link.submission import ResultSubmission
from redflare_broker.payload.encoded_payload import encode_payload, store_payload
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.scripts.link_scripts import LinkScripts
from redflare_broker.scripts.script import ScriptReply
from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, SUBMITTED
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_broker.wire.codec import encode
from redflare_broker.wire.task_entry import BlobRef
from redflare_workers.client.parent.agent_abort import notify_agents

from tests.support.link.endpoints import BIG, agent_link, beat, echo, fake_server, job_link
from tests.support.waiting import wait_until

#: Seconds that a payload which no entry names outlives its maker.
UNNAMED = 10.0


def chunks(link: LinkUnderTest) -> list[str]:
    """The keys of all chunks."""
    return sorted(key.decode() for key in link.client.keys("*blob:*"))  # type: ignore[attr-defined]


def lives(link: LinkUnderTest) -> list[float]:
    """Seconds that each chunk has left."""
    return [link.client.pttl(key) / 1000 for key in chunks(link)]  # type: ignore[attr-defined]


def outgoing(side: CJLink, task_id: str, data: object = BIG) -> OutgoingTask:
    prefix = side.session.keys.task_blob(f"{task_id}-{side.session.lease.epoch}")
    return OutgoingTask.make(task_id, "train", {}, data, prefix, side.session.settings.limits)


def assign_and_die(link: LinkUnderTest, task_id: str) -> None:
    """A CJ that is killed when it has assigned a large task."""
    with job_link(link) as side:
        side._assign(outgoing(side, task_id))


def submit_and_die(link: LinkUnderTest, data: object = BIG) -> None:
    """An agent that is killed when it has handed in a large result of the open task."""
    with agent_link(link) as agent:
        task = agent.next_task(1.0)
        assert task is not None
        encoded = encode({}, data, agent.session.settings.limits)
        sending = ResultSubmission(agent.session, agent.payloads, task.task_id, "train", "OK", encoded)
        assert sending.once() == SUBMITTED


def exchange(side: CJLink, task_id: str, data: object = BIG, **options: Any) -> ExchangeOutcome:
    return side.exchange(task_id, "train", {}, data, **{"give_up": lambda: "", **options})


# -- a payload that no entry names -------------------------------------------------------------------------------------


def test_a_payload_of_a_task_has_a_short_life_until_an_entry_names_it(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        task = outgoing(side, "t")
        task.entry = side._entry(task)
        assert 0 < max(lives(redflare_link)) <= UNNAMED
        side._assign(task)
        assert min(lives(redflare_link)) > UNNAMED


def test_a_payload_of_a_result_has_a_short_life_until_an_entry_names_it(redflare_link: LinkUnderTest) -> None:
    before: list[float] = []

    class Watching(LinkScripts):
        def submit(self, *args: Any, **options: Any) -> ScriptReply:
            before.extend(lives(redflare_link))
            return LinkScripts.submit(self, *args, **options)

    with job_link(redflare_link) as side, agent_link(redflare_link) as agent:
        side._assign(outgoing(side, "t", 1))
        assert agent.next_task(1.0) is not None
        session = agent.session
        session.scripts = Watching(keys=session.keys, publish="PUBLISH", policy=session.settings.policy)
        encoded = encode({}, BIG, session.settings.limits)
        assert ResultSubmission(session, agent.payloads, "t", "train", "OK", encoded).once() == SUBMITTED
    assert before
    assert 0 < max(before) <= UNNAMED
    assert min(lives(redflare_link)) > UNNAMED


def test_a_payload_that_is_being_written_is_renewed_by_heartbeats(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        side._entry(outgoing(side, "t"))
        (key,) = chunks(redflare_link)
        redflare_link.client.pexpire(key, 100)  # type: ignore[attr-defined]
        side.payloads._unnamed_renewed -= UNNAMED / 4
        side.on_beat(beat(side))
        assert UNNAMED / 2 < lives(redflare_link)[0] <= UNNAMED


def test_a_payload_whose_naming_failed_is_named_by_the_next_heartbeat(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        task = outgoing(side, "t")
        task.entry = side._entry(task)
        assert task.blob is not None
        store = side.payloads._store
        side.payloads._store = Away()  # type: ignore[assignment]
        side.payloads.name(task.blob)
        side.payloads._store = store
        assert max(lives(redflare_link)) <= UNNAMED
        side.on_beat(beat(side))
        assert min(lives(redflare_link)) > UNNAMED


class Away:
    """A store that cannot be reached."""

    def renew(self, *args: object, **options: object) -> bool:
        raise Unavailable("away")


def test_a_killed_agents_upload_goes_soon(redflare_link: LinkUnderTest) -> None:
    with agent_link(redflare_link) as agent:
        agent.payloads.write(encode({}, BIG, agent.session.settings.limits), agent.session.keys.result_blob("r"))
    assert 0 < max(lives(redflare_link)) <= UNNAMED


# -- what a predecessor has left ---------------------------------------------------------------------------------------


def test_all_payloads_of_a_task_go_at_its_end_however_many_cjs_died_with_it(redflare_link: LinkUnderTest) -> None:
    for _ in range(4):
        assign_and_die(redflare_link, "t")
    assert len(chunks(redflare_link)) == 1
    with redflare_link.agent(echo), job_link(redflare_link) as side:
        outcome = exchange(side, "t")
        assert outcome.status == ACCEPTED
        np.testing.assert_array_equal(outcome.data, BIG)
        (kept_result,) = lives(redflare_link)
        assert kept_result <= redflare_link.settings.policy.result_keep
        exchange(side, "next", 1)
        assert not chunks(redflare_link)


def test_a_payload_that_was_taken_over_and_is_gone_is_sent_again(redflare_link: LinkUnderTest) -> None:
    assign_and_die(redflare_link, "t")
    redflare_link.client.delete(*chunks(redflare_link))  # type: ignore[attr-defined]
    with redflare_link.agent(echo), job_link(redflare_link) as side:
        np.testing.assert_array_equal(exchange(side, "t").data, BIG)
        exchange(side, "next", 1)
        assert not chunks(redflare_link)


def test_a_successor_renews_the_payload_that_it_takes_over(redflare_link: LinkUnderTest) -> None:
    assign_and_die(redflare_link, "t")
    with job_link(redflare_link) as side:
        task = outgoing(side, "t")
        side._assign(task)
        assert task.inherited is not None
        assert task.inherited.prefix in [ref.prefix for ref in side.payloads.kept]


def test_payloads_of_a_dead_cjs_task_go_when_another_task_takes_its_place(redflare_link: LinkUnderTest) -> None:
    assign_and_die(redflare_link, "old")
    submit_and_die(redflare_link)
    assert len(chunks(redflare_link)) == 2
    with redflare_link.agent(echo), job_link(redflare_link) as side:
        assert exchange(side, "new", 1).status == ACCEPTED
        assert not chunks(redflare_link)


def test_payloads_of_a_task_that_is_about_to_be_replaced_live_short(redflare_link: LinkUnderTest) -> None:
    assign_and_die(redflare_link, "old")
    submit_and_die(redflare_link)
    with job_link(redflare_link) as side:
        side.payloads.inherit(outgoing(side, "new", 1))
        assert 0 < max(lives(redflare_link)) <= UNNAMED


def test_an_accepted_result_that_a_dead_cj_had_not_yet_released_goes_with_the_next_task(
    redflare_link: LinkUnderTest,
) -> None:
    assign_and_die(redflare_link, "old")
    submit_and_die(redflare_link)
    with job_link(redflare_link) as side:
        side.session.step(lambda connection, me: side.session.scripts.settle(connection, me, "old", ACCEPTED))
    assert max(lives(redflare_link)) > UNNAMED
    with redflare_link.agent(echo), job_link(redflare_link) as side:
        assert exchange(side, "new", 1).status == ACCEPTED
        assert not chunks(redflare_link)


def test_a_result_that_was_handed_over_is_no_successors_to_delete(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(echo):
        with job_link(redflare_link) as side:
            exchange(side, "old", encode_payload({"w": BIG}), encoded_result=True)
            side.release_result(handed_over=True)
        with job_link(redflare_link) as side:
            assert exchange(side, "new", 1).status == ACCEPTED
    (life,) = lives(redflare_link)
    assert life > UNNAMED


def test_a_payload_that_others_made_is_no_successors_to_delete(redflare_link: LinkUnderTest) -> None:
    with redflare_link.server() as server:
        passed_on = store_payload(server, encode_payload(BIG), "flare:{server.job-1}:blob:model", ttl_ms=60_000)
    with job_link(redflare_link) as side:
        side._assign(outgoing(side, "old", passed_on))
    with redflare_link.agent(echo), job_link(redflare_link) as side:
        assert exchange(side, "new", 1).status == ACCEPTED
    assert chunks(redflare_link) == ["flare:{server.job-1}:blob:model:0"]


# -- a task that ends without a result ---------------------------------------------------------------------------------


def test_the_result_of_a_dead_agent_goes_when_its_task_is_aborted(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        side._assign(outgoing(side, "t"))
        submit_and_die(redflare_link)
        assert exchange(side, "t", give_up=lambda: "enough").status == ABORTED
        assert not chunks(redflare_link)


def test_the_result_of_a_dead_agent_goes_when_an_abort_is_made_up_for(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        task = outgoing(side, "t")
        side._assign(task)
        submit_and_die(redflare_link)
        side.payloads.end(task)
        side._owed_aborts["t"] = "Redis was away"
        side.on_beat(beat(side))
        assert not chunks(redflare_link)


def test_a_task_that_is_taken_up_again_before_its_abort_was_written_keeps_its_payloads(
    redflare_link: LinkUnderTest,
) -> None:
    with job_link(redflare_link) as side:
        side._assign(outgoing(side, "t"))
        submit_and_die(redflare_link)
        before = chunks(redflare_link)
        # what a given up exchange owes when Redis was away
        side.payloads.delete_of("t")
        assert chunks(redflare_link) == before
        np.testing.assert_array_equal(exchange(side, "t").data, BIG)
        side.payloads.delete_of("t")
        assert chunks(redflare_link)


def test_what_is_left_of_a_result_whose_payload_is_lost_goes(redflare_link: LinkUnderTest) -> None:
    two_chunks = np.zeros(200_000)
    outcomes: list[ExchangeOutcome] = []
    with job_link(redflare_link) as side:
        side._assign(outgoing(side, "t", 1))
        submit_and_die(redflare_link, two_chunks)
        first, second = chunks(redflare_link)
        redflare_link.client.delete(first)  # type: ignore[attr-defined]
        working = threading.Thread(target=lambda: outcomes.append(exchange(side, "t", 1)))
        working.start()
        wait_until(lambda: second not in chunks(redflare_link))
        with redflare_link.agent(echo):
            working.join(10)
    assert [outcome.status for outcome in outcomes] == [ACCEPTED]


def test_a_cj_that_was_replaced_leaves_the_payload_of_its_task_to_its_successor(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        task = outgoing(side, "t")
        side._assign(task)
        with job_link(redflare_link) as successor:
            successor._assign(outgoing(successor, "t"))
            side.session.fenced = True
            side.payloads.end(task)
            assert task.blob is not None
            assert f"{task.blob.prefix}:0" in chunks(redflare_link)


def test_what_a_killed_cj_has_left_goes_when_its_site_ends_the_job(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        side._assign(outgoing(side, "t"))
        pid = int(side.session.lease.instance.split(":")[1])
    submit_and_die(redflare_link)
    with redflare_link.server() as server:
        notify_agents(server, redflare_link.settings, [redflare_link.fqcn], pid, "killed", patience=0.0)
    assert not chunks(redflare_link)


def test_a_ledger_names_what_can_be_deleted(redflare_link: LinkUnderTest) -> None:
    assign_and_die(redflare_link, "t")
    ledger = redflare_link.client.hgetall(f"flare:{{{redflare_link.fqcn}}}:task:t")  # type: ignore[attr-defined]
    assert (ledger[b"chunks"], ledger[b"blob"].decode() + ":0") == (b"1", *chunks(redflare_link))


def put(side: CJLink | AgentLink) -> BlobRef:
    """Store a large payload that this side answers for."""
    encoded = encode({}, BIG, side.session.settings.limits)
    _, ref = side.payloads.write(encoded, side.session.keys.task_blob("x"))
    assert ref is not None
    return ref


def test_a_payload_that_could_not_be_told_when_to_expire_is_told_with_a_later_heartbeat(
    redflare_link: LinkUnderTest,
) -> None:
    with job_link(redflare_link) as side:
        ref = put(side)
        side.payloads.name(ref)
        fake_server(redflare_link).connected = False
        side.payloads.expire(ref, 5.0)
        fake_server(redflare_link).connected = True
        assert min(lives(redflare_link)) > 5
        side.on_beat(beat(side))
        assert 0 < max(lives(redflare_link)) <= 5


def test_a_payload_that_is_kept_again_before_it_was_told_to_expire_lives_on(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        ref = put(side)
        side.payloads.name(ref)
        fake_server(redflare_link).connected = False
        side.payloads.expire(ref, 5.0)
        fake_server(redflare_link).connected = True
        side.payloads.keep(ref)
        side.on_beat(beat(side))
        assert min(lives(redflare_link)) > UNNAMED


def test_a_payload_that_could_not_be_written_is_not_renewed(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object, **options: object) -> None:
        raise Unavailable("away")

    client: Any = redflare_link.client
    with job_link(redflare_link) as side:
        monkeypatch.setattr(RedisPayloadStore, "put", away)
        prefix = side.session.keys.result_blob("x")
        with pytest.raises(Unavailable, match="away"):
            side.payloads.write(encode({}, BIG, side.session.settings.limits), prefix)
        client.set(f"{prefix}:0", "what is left of it", px=3000)
        side.payloads._unnamed_renewed -= UNNAMED / 4
        side.on_beat(beat(side))
        assert client.pttl(f"{prefix}:0") <= 3000


def test_the_heartbeats_of_an_agent_renew_the_result_that_it_has_handed_in(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with job_link(redflare_link) as side, agent_link(redflare_link) as agent:
        side._assign(outgoing(side, "t", 1))
        assert agent.next_task(1.0) is not None
        encoded = encode({}, BIG, agent.session.settings.limits)
        assert ResultSubmission(agent.session, agent.payloads, "t", "train", "OK", encoded).once() == SUBMITTED
        [key] = chunks(redflare_link)
        redflare_link.client.pexpire(key, 5_000)  # type: ignore[attr-defined]
        later = time.monotonic() + agent.session.settings.policy.retention
        monkeypatch.setattr(payloads, "time", SimpleNamespace(monotonic=lambda: later))
        agent.on_beat(beat(agent))
        assert lives(redflare_link)[0] > UNNAMED


@pytest.mark.parametrize("bye", [True, False])
def test_a_kept_result_goes_with_the_bye_of_its_cj_and_stays_for_a_successor_without(
    redflare_link: LinkUnderTest, bye: bool
) -> None:
    with redflare_link.agent(lambda _: TaskResult({}, BIG)), job_link(redflare_link) as side:
        assert exchange(side, "t", 1).status == "ACCEPTED"
        assert len(chunks(redflare_link)) == 1
        side.close(bye=bye)
        assert len(chunks(redflare_link)) == (0 if bye else 1)


def test_a_new_connection_reads_from_the_beginning(redflare_link: LinkUnderTest) -> None:
    """It may be to a Redis that lost its streams, whose ids begin anew."""
    with job_link(redflare_link) as side:
        redflare_link.client.xadd(side.session.keys.results, {"x": 1}, id="5-5")  # type: ignore[attr-defined]
        side.session.cursor = "7-7"
        side.session.drop_connection()
        entries, _ = side.session.read(side.session.keys.results, side.session.cursor, 0.1, then=lambda: ["PING"])
        assert [entry for entry, _ in entries] == ["5-5"]
