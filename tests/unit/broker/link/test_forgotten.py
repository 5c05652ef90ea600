"""A server forgets what it has acknowledged: a test of each row of that table in ``docs/protocol.md``."""

from __future__ import annotations

import threading
from typing import Any, Final

import pytest
from redflare_broker.errors import Unavailable
from redflare_broker.link.agent_link import AgentLink, encode_result
from redflare_broker.link.cj_link import CJLink
from redflare_broker.link.liveness import Liveness, Peer
from redflare_broker.link.submission import ResultSubmission
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_broker.transport.replies import RedisReply
from redflare_broker.wire.task_entry import Entry

from tests.support.calls import in_thread
from tests.support.link.endpoints import BIG, agent_link, beat, echo, exchanging, job_link
from tests.support.redis_server.snapshot import Snapshot
from tests.support.tables import protocol_rows
from tests.support.waiting import wait_until


def assign(cj: CJLink, task_id: str = "t") -> None:
    """Let the CJ assign a task, and not wait for it."""
    entry = Entry(topic="get_task", task_id=task_id, task_name="train", data=b"1")
    cj.session.step(lambda connection, lease: cj.session.scripts.assign(connection, lease, entry, size=1))


def settle(cj: CJLink, status: str = "ACCEPTED") -> str:
    scripts = cj.session.scripts
    return cj.session.step(lambda connection, lease: scripts.settle(connection, lease, "t", status)).status


def exchange(cj: CJLink, task_id: str = "t", reason: str = "") -> Any:
    return cj.exchange(task_id, "train", {}, {}, give_up=lambda: reason)


def taken(agent: AgentLink) -> None:
    task = agent.next_task(1.0)
    assert task is not None
    assert task.task_id == "t"


def submission(agent: AgentLink, data: object = "done", task_id: str = "t") -> ResultSubmission:
    """Make a result of the task, to be handed in."""
    encoded = encode_result({}, data, agent.session.settings)
    return ResultSubmission(agent.session, agent.payloads, task_id, "train", "OK", encoded)


def ledger(link: LinkUnderTest, agent: AgentLink | CJLink, field: str, task_id: str = "t") -> str:
    value = link.client.hget(agent.session.keys.task(task_id), field)  # type: ignore[attr-defined]
    return value.decode() if isinstance(value, bytes) else ""


# -- the rows ----------------------------------------------------------------------------------------------------------


def test_who_says_hello_and_is_forgotten_says_hello_again_with_its_epoch(redflare_link: LinkUnderTest) -> None:
    with agent_link(redflare_link) as agent, job_link(redflare_link) as cj:
        agent.session.open_connection()
        epoch = agent.session.lease.epoch
        redflare_link.client.flushall()  # type: ignore[attr-defined]
        assign(cj)
        agent.on_beat(beat(agent))
        assert (agent.session.losses, cj.session.losses) == (1, 1)
        assert agent.session.lease.epoch == epoch
        assert agent.next_task(1.0) is None, "it is woken to look again"
        taken(agent)
        assert ledger(redflare_link, agent, "epoch") == str(epoch)


def test_a_forgotten_assign_is_noticed_by_a_beat_and_repeated(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as cj, exchanging(cj, "t"):
        wait_until(lambda: ledger(redflare_link, cj, "status") == "NEW")
        redflare_link.client.flushall()  # type: ignore[attr-defined]
        cj.on_beat(beat(cj))
        wait_until(lambda: ledger(redflare_link, cj, "status") == "NEW")


def test_an_assign_that_is_forgotten_as_the_connection_breaks_is_repeated(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with job_link(redflare_link) as cj:
        before = Snapshot(redflare_link.client)

        def break_once(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            assert ledger(redflare_link, cj, "status")
            before.restore()
            cj.session.drop_connection()
            raise Unavailable("the connection broke")

        monkeypatch.setattr(cj.session, "read", break_once)
        with redflare_link.agent(echo):
            assert exchange(cj).status == "ACCEPTED"


def test_a_forgotten_take_is_repeated_by_the_next_beat(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as cj, agent_link(redflare_link) as agent:
        agent.session.open_connection()
        assign(cj)
        before = Snapshot(redflare_link.client)
        taken(agent)
        before.restore()
        assert ledger(redflare_link, agent, "status") == "NEW"
        agent.on_beat(beat(agent))
        assert ledger(redflare_link, agent, "status") == "FETCHED"
        assert ledger(redflare_link, agent, "epoch") == str(agent.session.lease.epoch)


def test_a_result_of_a_task_whose_take_was_forgotten_is_accepted(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as cj, agent_link(redflare_link) as agent:
        assign(cj)
        before = Snapshot(redflare_link.client)
        taken(agent)
        before.restore()
        assert submission(agent).once() == "SUBMITTED"
        assert settle(cj) == "ACCEPTED"


def test_a_forgotten_result_is_handed_in_again_and_counts_once(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as cj, agent_link(redflare_link) as agent:
        assign(cj)
        taken(agent)
        before = Snapshot(redflare_link.client)
        sending = submission(agent)
        assert sending.once() == "SUBMITTED"
        before.restore()
        assert ledger(redflare_link, agent, "status") == "FETCHED"
        assert sending.once() == sending.once() == "SUBMITTED"
        results = [fields.get(b"topic") for _, fields in redflare_link.client.xrange(cj.session.keys.results)]  # type: ignore[attr-defined]
        assert results.count(b"submit_result") == 1
        assert exchange(cj).data == "done"
        assert sending.once() == "ACCEPTED"


def test_after_a_forgotten_verdict_the_next_task_replaces_what_is_open(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as cj, agent_link(redflare_link) as agent:
        assign(cj)
        taken(agent)
        sending = submission(agent)
        assert sending.once() == "SUBMITTED"
        before = Snapshot(redflare_link.client)
        assert exchange(cj).data == "done"
        before.restore()
        with exchanging(cj, "t2"):
            wait_until(lambda: ledger(redflare_link, cj, "status", "t2") == "NEW")
            assert ledger(redflare_link, cj, "status") == "ABORTED"
            assert sending.once() == "ABORTED"


@pytest.mark.parametrize("same_id", [False, True])
def test_after_a_forgotten_abort_the_next_task_decides(redflare_link: LinkUnderTest, same_id: bool) -> None:
    with job_link(redflare_link) as cj, agent_link(redflare_link) as agent:
        assign(cj)
        taken(agent)
        before = Snapshot(redflare_link.client)
        assert cj.abort("t", "nobody wants it") == "ABORTED"
        agent.on_beat(beat(agent))
        assert agent.was_aborted("t")
        before.restore()
        assert ledger(redflare_link, cj, "status") == "FETCHED"
        if same_id:
            assert submission(agent).once() == "SUBMITTED"
            assert exchange(cj).status == "ACCEPTED"
        else:
            with exchanging(cj, "t2"):
                wait_until(lambda: ledger(redflare_link, cj, "status") == "ABORTED")
                assert submission(agent).once() == "ABORTED"


def test_a_payload_that_is_gone_is_asked_for_and_sent_again(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as cj, agent_link(redflare_link) as agent:
        assign(cj)
        taken(agent)
        sending = submission(agent, BIG)
        assert sending.once() == "SUBMITTED"
        client: Any = redflare_link.client
        client.delete(*client.keys("*:blob:*"))
        with exchanging(cj, "t") as outcomes:
            wait_until(lambda: ledger(redflare_link, cj, "lost") != "")
            assert sending.once() == "RESEND"
            assert sending.once() == "SUBMITTED"
            wait_until(lambda: outcomes)
        assert outcomes[0].data.nbytes == BIG.nbytes


def test_a_forgotten_result_whose_cj_died_is_worked_out_again(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(echo) as agent:
        with job_link(redflare_link) as cj:
            before = Snapshot(redflare_link.client)
            assert exchange(cj).status == "ACCEPTED"
            wait_until(lambda: ledger(redflare_link, cj, "status") == "ACCEPTED")
        before.restore()
        with job_link(redflare_link) as successor:
            assert exchange(successor).status == "ACCEPTED"
    assert [task.task_id for task in agent.received] == ["t", "t"]


#: The tests of each row, by what was forgotten.
ROWS: Final = {
    "a hello": [test_who_says_hello_and_is_forgotten_says_hello_again_with_its_epoch],
    "an assign": [
        test_a_forgotten_assign_is_noticed_by_a_beat_and_repeated,
        test_an_assign_that_is_forgotten_as_the_connection_breaks_is_repeated,
    ],
    "a take": [
        test_a_forgotten_take_is_repeated_by_the_next_beat,
        test_a_result_of_a_task_whose_take_was_forgotten_is_accepted,
    ],
    "a submit": [test_a_forgotten_result_is_handed_in_again_and_counts_once],
    "a verdict": [test_after_a_forgotten_verdict_the_next_task_replaces_what_is_open],
    "an abort": [test_after_a_forgotten_abort_the_next_task_decides],
    "a payload": [test_a_payload_that_is_gone_is_asked_for_and_sent_again],
    "a kept result": [test_a_forgotten_result_whose_cj_died_is_worked_out_again],
}


def test_every_row_of_the_protocols_table_has_a_test() -> None:
    assert protocol_rows("What was forgotten") == list(ROWS)


# -- ends that are told late -------------------------------------------------------------------------------------------


def test_a_result_that_was_accepted_just_as_the_task_is_given_up_counts(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as cj, agent_link(redflare_link) as agent:
        assign(cj)
        taken(agent)
        submission(agent).once()
        settle(cj)
        outcome = exchange(cj, reason="no result in time")
        assert (outcome.status, outcome.data) == ("ACCEPTED", "done")


@pytest.mark.parametrize("verdict", ["ACCEPTED", "REJECTED"])
def test_an_agent_looks_once_more_for_the_verdict_of_a_cj_that_said_bye(
    redflare_link: LinkUnderTest, verdict: str
) -> None:
    with agent_link(redflare_link) as agent:
        agent.session.open_connection()
        with job_link(redflare_link) as cj:
            assign(cj)
            gave_up = []

            def give_up() -> bool:
                """Let the CJ decide and leave behind the agent's back, as soon as the result is there."""
                if ledger(redflare_link, agent, "status") == "SUBMITTED":
                    settle(cj, verdict)
                    cj.close(bye=True)
                    agent.on_beat(beat(agent))
                    gave_up.append(agent.peer is Peer.LEFT)
                return bool(gave_up)

            encoded = encode_result({}, "done", agent.session.settings)
            # as a successor's: its heartbeats do not ask for a task
            status = agent.submit("", "train", "OK", encoded, resend_interval=5.0, answer_timeout=5.0, give_up=give_up)
    assert gave_up == [True]
    assert status == verdict


@pytest.mark.parametrize("verdict", ["ACCEPTED", "REJECTED"])
def test_an_agent_that_missed_the_verdict_learns_it_by_its_heartbeat(
    redflare_link: LinkUnderTest, verdict: str
) -> None:
    with job_link(redflare_link) as cj, agent_link(redflare_link) as agent:
        assign(cj)
        taken(agent)
        statuses: list[str] = []
        tested = threading.Event()

        def hand_in() -> None:
            encoded = encode_result({}, "done", agent.session.settings)
            status = agent.submit(
                "t", "train", "OK", encoded, resend_interval=60.0, answer_timeout=60.0, give_up=tested.is_set
            )
            statuses.append(status)

        working = in_thread(hand_in)
        wait_until(lambda: ledger(redflare_link, agent, "status") == "SUBMITTED")
        settle(cj, verdict)
        agent.on_beat(beat(agent))
        working.join(5)
        tested.set()
        agent.wake_submit()
        working.join(5)
    assert statuses == [verdict]


def test_an_abort_that_was_not_written_does_not_end_a_task_that_is_taken_up_again(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object, **options: object) -> None:
        raise Unavailable("away")

    with job_link(redflare_link) as cj:
        assign(cj)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(cj.session.server, "run", away)
            assert cj.abort("t", "no result in time") == ""
        cj.work_on("t")
        cj.on_beat(beat(cj))
        cj.work_on(None)
        cj.on_beat(beat(cj))
        assert ledger(redflare_link, cj, "status") == "NEW"


def test_a_message_that_tells_of_the_cj_makes_an_agent_ask_redis_at_once(redflare_link: LinkUnderTest) -> None:
    beats: list[RedisReply] = []

    class Counting(AgentLink):
        def on_beat(self, reply: RedisReply) -> None:
            super().on_beat(reply)
            beats.append(reply)

    with redflare_link.server() as server:
        heartbeats = Heartbeats(server)
        side = Counting(redflare_link.session(server, "agent"), Liveness(60.0), heartbeats, lambda: None, print)
        side.interval = 3600.0
        side.session.open_connection()
        heartbeats.add(side)
        wait_until(lambda: len(beats) == 1)
        side.on_message(["bye", "cj"])
        wait_until(lambda: len(beats) == 2)
        side.on_message(["hello", "agent", str(side.session.lease.epoch + 1)])
        wait_until(lambda: len(beats) == 3)
        heartbeats.stop()
        side.session.drop_connection()


def test_an_abort_of_a_link_that_redis_has_lost_is_written_all_the_same(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as cj:
        epoch = cj.session.lease.epoch
        redflare_link.client.flushall()  # type: ignore[attr-defined]
        assert cj.abort("t", "nobody wants it") == "ABORTED"
        assert (ledger(redflare_link, cj, "status"), ledger(redflare_link, cj, "reason")) == (
            "ABORTED",
            "nobody wants it",
        )
        assert (cj.session.losses, cj.session.lease.epoch) == (1, epoch)
        assert exchange(cj).status == "ABORTED"
