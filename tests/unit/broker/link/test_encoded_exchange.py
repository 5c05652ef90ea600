"""A CJ that passes encoded tasks and results on: what the agent receives, and who owns the chunks, on fakeredis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from redflare_broker.constants import TaskResult
from redflare_broker.errors import EncodeError, Fenced, MessageTooLarge
from redflare_broker.keys import names_payload
from redflare_broker.link import payloads
from redflare_broker.link.agent_link import ReceivedTask
from redflare_broker.link.cj_link import CJLink
from redflare_broker.link.exchange import ExchangeOutcome, OutgoingTask
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload, store_payload
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, REJECTED
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_broker.wire.codec import Encoded
from redflare_broker.wire.task_entry import BlobRef, Entry
from redflare_workers.apis import DXO, DataKind, ReturnCode, Signal, from_shareable, make_reply
from redflare_workers.apis.fl_context import FLContextManager
from redflare_workers.ipc.exchanger import IPCExchanger

from tests.support.link.blocked import until_blocked
from tests.support.link.endpoints import BIG, agent_link, beat, echo, job_link

#: The name of a payload of the server's cell.
PREFIX = "flare:{server.job-1}:blob:model"
SMALL = np.arange(3.0)


def stored(link: LinkUnderTest, data: object = BIG, prefix: str = PREFIX) -> EncodedPayload:
    """A payload as a server stores it."""
    with link.server() as server:
        return store_payload(server, encode_payload({"w": data}), prefix, ttl_ms=60_000)


def lose(link: LinkUnderTest, payload: EncodedPayload) -> None:
    assert payload.blob is not None
    with link.server() as server:
        RedisPayloadStore(server).remove(payload.blob)


def chunks(link: LinkUnderTest, payload: EncodedPayload) -> int:
    """The number of its chunks in Redis."""
    assert payload.blob is not None
    return len(link.client.keys(f"{payload.blob.prefix}:*"))  # type: ignore[attr-defined]


def ttl(link: LinkUnderTest, payload: EncodedPayload) -> float:
    """The TTL of its first chunk, in seconds."""
    assert payload.blob is not None
    return float(link.client.pttl(f"{payload.blob.prefix}:0")) / 1000  # type: ignore[attr-defined]


def exchange(side: CJLink, data: object, task_id: str = "t", **options: Any) -> ExchangeOutcome:
    return side.exchange(task_id, "train", {"round": 1}, data, **{"give_up": lambda: "", **options})


def given_out(side: CJLink, task_id: str, data: object = None) -> EncodedPayload:
    """The encoded result of a task."""
    outcome = exchange(side, encode_payload({"w": BIG} if data is None else data), task_id, encoded_result=True)
    assert outcome.status == ACCEPTED
    assert isinstance(outcome.data, EncodedPayload)
    return outcome.data


def decoded(link: LinkUnderTest, payload: EncodedPayload) -> Any:
    with link.server() as server:
        return payload.decode(server)


@contextmanager
def echoed(link: LinkUnderTest, kind: type[CJLink] = CJLink) -> Iterator[CJLink]:
    with link.agent(echo), job_link(link, kind) as side:
        yield side


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [BIG, SMALL], ids=["chunks", "in the entry"])
def test_the_agent_sees_an_encoded_task_as_any_other(redflare_link: LinkUnderTest, data: Any) -> None:
    with redflare_link.agent(echo) as agent, job_link(redflare_link) as side:
        outcome = exchange(side, stored(redflare_link, data))
    assert agent.received[0].meta == {"round": 1}
    np.testing.assert_array_equal(agent.received[0].data["w"], data)
    np.testing.assert_array_equal(outcome.data["w"], data)


def test_the_chunks_of_an_encoded_task_are_named_and_never_deleted(redflare_link: LinkUnderTest) -> None:
    payload = stored(redflare_link)
    with echoed(redflare_link) as side:
        exchange(side, payload, "a")
        exchange(side, payload, "b")
        exchange(side, {}, "c")
        assert chunks(redflare_link, payload) == 1
        assert not redflare_link.client.keys("flare:blob:*")  # type: ignore[attr-defined]


def test_a_large_payload_that_was_not_stored_is_stored_by_the_link(redflare_link: LinkUnderTest) -> None:
    with echoed(redflare_link) as side:
        outcome = exchange(side, encode_payload({"w": BIG}))
        np.testing.assert_array_equal(outcome.data["w"], BIG)
        assert not redflare_link.client.keys("flare:blob:*")  # type: ignore[attr-defined]


@pytest.mark.parametrize("meta", [{"scale": SMALL}, {"key": b"x"}])
def test_meta_beside_an_encoded_payload_may_not_hold_arrays(redflare_link: LinkUnderTest, meta: dict[str, Any]) -> None:
    with job_link(redflare_link) as side, pytest.raises(EncodeError, match="put them into the data"):
        side.exchange("t", "train", meta, encode_payload({}), give_up=lambda: "")
    assert not redflare_link.client.keys("*:task:t")  # type: ignore[attr-defined]


def test_an_encoded_payload_over_the_limit_is_refused(redflare_link: LinkUnderTest) -> None:
    huge = EncodedPayload(b"{}", blob=BlobRef(prefix=PREFIX, chunk=1 << 30, sizes=(8 << 40,)))
    with job_link(redflare_link) as side, pytest.raises(MessageTooLarge, match="max_bytes"):
        exchange(side, huge)


def test_a_payload_under_a_name_that_is_no_payloads_is_refused_by_the_agent(redflare_link: LinkUnderTest) -> None:
    foreign = EncodedPayload(
        b'{"$bytes":[0,5]}', blob=BlobRef(prefix="flare:{site-2--agent}:task", chunk=5, sizes=(5,))
    )
    with echoed(redflare_link) as side:
        outcome = exchange(side, foreign)
    assert outcome.status == REJECTED
    assert "is that of no payload" in outcome.reason


@pytest.mark.parametrize(
    ("prefix", "legal"),
    [
        ("ns:blob:{0a1b}", False),
        ("ns:{server.job-1}:blob:0a1b", True),
        ("ns:{site-1--agent}:blob:round.1~x", True),
        ("other:blob:{0a1b}", False),
        ("ns:blob:{}", False),
        ("ns:blob:{0a1b}:more", False),
        ("ns:{server}:blob:", False),
        ("ns:{server}:job", False),
        ("ns:{server}:task:blob:x", False),
        ("ns:{a}:{b}:blob:x", False),
        ("ns:link", False),
    ],
)
def test_names_of_chunks(prefix: str, legal: bool) -> None:
    assert names_payload("ns", prefix) is legal


# -- a task's chunks are gone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_an_encoded_task_whose_chunks_are_lost_is_sent_again_by_their_owner(
    redflare_link: LinkUnderTest, restarted: bool
) -> None:
    payload = stored(redflare_link)
    lose(redflare_link, payload)
    with redflare_link.agent(echo) as agent, job_link(redflare_link) as side:
        outcome = exchange(side, payload)
        assert (outcome.status, outcome.rc) == (REJECTED, BLOB_MISSING)
        assert "model" in outcome.reason
        again = stored(redflare_link, prefix=PREFIX + "-2")
        if restarted:
            with job_link(redflare_link) as successor:
                outcome = exchange(successor, again)
        else:
            outcome = exchange(side, again)
    np.testing.assert_array_equal(outcome.data["w"], BIG)
    assert [task.task_id for task in agent.received] == ["t"]


def test_another_task_replaces_one_whose_chunks_are_gone(redflare_link: LinkUnderTest) -> None:
    payload = stored(redflare_link)
    lose(redflare_link, payload)
    with redflare_link.agent(echo) as agent, job_link(redflare_link) as side:
        exchange(side, payload, "a")
        assert exchange(side, {"x": 1}, "b").data == {"x": 1}
        assert exchange(side, payload, "a").status == ABORTED
    assert [task.task_id for task in agent.received] == ["b"]


def test_an_entry_that_names_a_predecessors_chunks_is_replaced(redflare_link: LinkUnderTest) -> None:
    old = stored(redflare_link)
    with job_link(redflare_link) as side:
        entry = Entry(topic="get_task", task_id="t", task_name="train", sender="x", data=old.data, blob=old.blob)
        side.session.step(lambda connection, me: side.session.scripts.assign(connection, me, entry, size=1))
    lose(redflare_link, old)
    with echoed(redflare_link) as side:
        outcome = exchange(side, stored(redflare_link, prefix=PREFIX + "-2"))
    np.testing.assert_array_equal(outcome.data["w"], BIG)


# -- results -----------------------------------------------------------------------------------------------------------


def test_a_result_is_returned_encoded_on_request(redflare_link: LinkUnderTest) -> None:
    with echoed(redflare_link) as side:
        large = given_out(side, "a")
        assert large.blob is not None
        assert large.blob.prefix.startswith("flare:{site-1--agent}:blob:")
        np.testing.assert_array_equal(decoded(redflare_link, large)["w"], BIG)
        small = given_out(side, "b", {"w": SMALL})
        assert small.blob is None
        np.testing.assert_array_equal(small.decode()["w"], SMALL)


def test_a_result_with_arrays_in_its_meta_is_returned_as_a_tree(redflare_link: LinkUnderTest) -> None:
    answer = TaskResult({"scale": SMALL}, {"w": BIG})
    with redflare_link.agent(lambda task: answer), job_link(redflare_link) as side:
        outcome = exchange(side, encode_payload({}), encoded_result=True)
        np.testing.assert_array_equal(outcome.meta["scale"], SMALL)
        np.testing.assert_array_equal(outcome.data["w"], BIG)


@pytest.mark.parametrize("data", [b"{", b'{"$bytes":[0,5]}', b'{"$what":1}'])
def test_an_encoded_result_that_is_not_one_is_rejected(redflare_link: LinkUnderTest, data: bytes) -> None:
    outcomes: list[ExchangeOutcome] = []
    with agent_link(redflare_link) as agent, job_link(redflare_link) as side:
        asking = threading.Thread(
            target=lambda: outcomes.append(exchange(side, encode_payload({}), encoded_result=True))
        )
        asking.start()
        assert agent.next_task(10) is not None
        damaged = Encoded(b"{}", data, [], len(data))
        agent.submit("t", "train", "OK", damaged, resend_interval=0.1, answer_timeout=5, give_up=lambda: bool(outcomes))
        asking.join(10)
    assert (outcomes[0].status, outcomes[0].rc) == (REJECTED, "EXECUTION_EXCEPTION")


# -- whose the chunks of a result are ----------------------------------------------------------------------------------


def test_a_result_that_was_handed_over_is_left_alone(redflare_link: LinkUnderTest) -> None:
    with echoed(redflare_link) as side:
        result = given_out(side, "a")
        side.release_result(handed_over=True)
        exchange(side, {}, "b")
        side.close(bye=True)
        assert chunks(redflare_link, result) == 1


@pytest.mark.parametrize("released", [False, True])
def test_a_result_that_was_not_handed_over_is_deleted_with_the_next_task(
    redflare_link: LinkUnderTest, released: bool
) -> None:
    with echoed(redflare_link) as side:
        result = given_out(side, "a")
        assert ttl(redflare_link, result) > side.session.settings.policy.result_keep
        if released:
            side.release_result(handed_over=False)
            assert 0 < ttl(redflare_link, result) <= side.session.settings.policy.result_keep
        exchange(side, {}, "b")
        assert chunks(redflare_link, result) == 0


def renewed(link: LinkUnderTest, side: CJLink, payload: EncodedPayload) -> bool:
    """Shorten its life; whether the next heartbeat prolongs it."""
    assert payload.blob is not None
    link.client.pexpire(f"{payload.blob.prefix}:0", 5_000)  # type: ignore[attr-defined]
    side.on_beat(beat(side))
    return ttl(link, payload) > 5


def test_a_result_is_renewed_until_it_is_released(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with echoed(redflare_link) as side:
        result = given_out(side, "a")
        assert not renewed(redflare_link, side, result), "it is not due yet"
        much_later = time.monotonic() + side.session.settings.policy.retention
        monkeypatch.setattr(payloads, "time", SimpleNamespace(monotonic=lambda: much_later))
        assert renewed(redflare_link, side, result)
        side.release_result(handed_over=True)
        monkeypatch.setattr(payloads, "time", SimpleNamespace(monotonic=lambda: 2 * much_later))
        assert not renewed(redflare_link, side, result)


def test_a_result_that_was_not_handed_over_is_returned_again(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(echo) as agent, job_link(redflare_link) as side:
        first = given_out(side, "a")
        side.release_result(handed_over=False)
        assert given_out(side, "a") == first
        assert ttl(redflare_link, first) > side.session.settings.policy.result_keep
        side.release_result(handed_over=True)
        exchange(side, {}, "b")
        assert chunks(redflare_link, first) == 1
    assert [task.task_id for task in agent.received] == ["a", "b"]


def test_a_cj_that_restarts_gets_the_same_encoded_result(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(echo) as agent:
        with job_link(redflare_link) as side:
            first = given_out(side, "a")
        with job_link(redflare_link) as successor:
            assert given_out(successor, "a") == first
            exchange(successor, {}, "b")
            assert chunks(redflare_link, first) == 0
    assert [task.task_id for task in agent.received] == ["a", "b"]


def test_a_cj_that_was_replaced_leaves_its_successors_result_alone(redflare_link: LinkUnderTest) -> None:
    with echoed(redflare_link) as side:
        result = given_out(side, "a")
        with job_link(redflare_link) as successor:
            given_out(successor, "a")
            with pytest.raises(Fenced):
                side.session.step(lambda connection, me: side.session.scripts.settle(connection, me, "a", ACCEPTED))
            side.release_result(handed_over=False)
            side.close(bye=True)
            assert ttl(redflare_link, result) > side.session.settings.policy.result_keep


class Loses(CJLink):
    """A link that loses the chunks of the first result before it has renewed them."""

    lost = 0

    def _content(self, task: OutgoingTask, entry: Entry) -> tuple[dict[str, Any], Any]:
        if not self.lost and entry.blob is not None:
            self.lost += 1
            RedisPayloadStore(self.session.server).remove(entry.blob)
        return super()._content(task, entry)


def test_a_result_whose_chunks_are_lost_before_it_is_accepted_is_asked_for_again(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(echo), job_link(redflare_link, Loses) as side:
        result = given_out(side, "a")
        assert isinstance(side, Loses)
        assert side.lost == 1
        np.testing.assert_array_equal(decoded(redflare_link, result)["w"], BIG)


# -- the executor ------------------------------------------------------------------------------------------------------


def context() -> Any:
    return FLContextManager(identity_name="site-1", job_id="job-1").new_context()


def executed(exchanger: IPCExchanger, data: Any, kind: str = DataKind.WEIGHTS) -> Any:
    return exchanger.execute("train", DXO(kind, data).to_shareable(), context(), Signal())


def test_an_executor_answers_an_encoded_task_with_an_encoded_result(redflare_link: LinkUnderTest) -> None:
    def diff(task: ReceivedTask) -> TaskResult:
        return TaskResult({"data_kind": DataKind.WEIGHT_DIFF, "steps": 7}, task.data)

    with redflare_link.agent(diff), IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        assert exchanger.accepts_encoded
        reply = executed(exchanger, stored(redflare_link))
        assert reply.get_return_code() == ReturnCode.OK
        dxo = from_shareable(reply)
        assert (dxo.data_kind, dxo.meta["steps"]) == (DataKind.WEIGHT_DIFF, 7)
        result: Any = dxo.data
        np.testing.assert_array_equal(decoded(redflare_link, result)["w"], BIG)
        exchanger.release_result(handed_over=True)
        executed(exchanger, {})
        assert chunks(redflare_link, result) == 1


@pytest.mark.parametrize("encoded_results", [False, True])
def test_an_executor_returns_the_encoded_result_of_a_plain_task_on_request(
    redflare_link: LinkUnderTest, encoded_results: bool
) -> None:
    args = {**redflare_link.exchanger_args, "encoded_results": encoded_results}
    with redflare_link.agent(echo), IPCExchanger(**args) as exchanger:
        data = from_shareable(executed(exchanger, {"w": BIG}, DataKind.APP_DEFINED)).data
        assert isinstance(data, EncodedPayload) is encoded_results


def test_an_executor_reports_that_the_chunks_of_its_task_are_lost(redflare_link: LinkUnderTest) -> None:
    payload = stored(redflare_link)
    lose(redflare_link, payload)
    with redflare_link.agent(echo), IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        reply = executed(exchanger, payload)
        assert "(expired, or lost in a failover); its sender must send it again" in reply.get_header("__error__")
        assert reply == make_reply("BLOB_MISSING", {"__error__": reply.get_header("__error__")})


def test_there_may_be_nothing_to_release(redflare_link: LinkUnderTest) -> None:
    exchanger = IPCExchanger(**redflare_link.exchanger_args)
    exchanger.release_result(handed_over=True)
    with exchanger:
        exchanger.release_result(handed_over=False)


def test_an_encoded_task_that_is_aborted_keeps_its_chunks(redflare_link: LinkUnderTest) -> None:
    payload = stored(redflare_link)
    signal = Signal()
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        replies: list[Any] = []
        task = DXO(DataKind.WEIGHTS, payload).to_shareable()
        asking = threading.Thread(target=lambda: replies.append(exchanger.execute("train", task, context(), signal)))
        asking.start()
        until_blocked(exchanger)
        signal.trigger(True)
        asking.join(10)
    assert replies[0].get_return_code() == ReturnCode.TASK_ABORTED
    assert chunks(redflare_link, payload) == 1
