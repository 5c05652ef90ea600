"""Invalid requests of sites: each is logged with site and task, and answered, and the run continues for the others."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import fakeredis
import numpy as np
import pytest
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload, store_payload
from redflare_broker.scripts.script import BLOB_MISSING
from redflare_workers.apis.dxo import DXO, DataKind
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership
from redflare_workers.protocol.job_messages import (
    RC_FENCED,
    RC_JOB_ENDED,
    RC_NOT_JOINED,
    Submit,
    TasksEndEvent,
)
from redflare_workers.protocol.job_outcome import COMPLETED

from tests.support.job.runs import FunctionController, JobRuns, RawSite, parked_requests, serving, task
from tests.support.waiting import wait_until

BIG = 300_000


def model(size: int = 3, **headers: Any) -> Shareable:
    result = DXO(DataKind.WEIGHTS, {"w": np.ones(size, np.float32)}).to_shareable()
    for key, value in headers.items():
        result.set_header(key, value)
    return result


class Flow:
    """One task for one site; ``got`` lists its results."""

    def __init__(self, name: str = "train", **more: Any) -> None:
        self.got: list[Shareable] = []
        self.task = Task(name, model(), result_received_cb=self._take, **more)

    def _take(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        assert client_task.result is not None
        self.got.append(client_task.result)

    def __call__(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.send_and_wait(self.task, fl_ctx, targets=["a"], abort_signal=abort)


def test_a_submission_sent_twice_counts_once(job: JobRuns) -> None:
    flow, hold = Flow(), threading.Event()

    def then(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        flow(controller, abort, fl_ctx)
        hold.wait(20)

    job.serve(then)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        assert site.submit("train", task_id, model(BIG)).meta["verdict"] == "ACCEPT"
        assert site.submit("train", task_id, model(BIG)).meta["verdict"] == "DUPLICATE"
        hold.set()
        assert job.outcome().status == COMPLETED
    assert len(flow.got) == 1


def test_a_copy_of_a_result_that_is_being_handled_waits_and_counts_once(job: JobRuns) -> None:
    inside, leave = threading.Event(), threading.Event()
    calls = []

    def block(client_task: ClientTask, fl_ctx: FLContext) -> None:
        calls.append(client_task.id)
        inside.set()
        leave.wait(20)

    one = task(model(), result_received_cb=block)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.send_and_wait(one, fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        verdicts: list[str] = []
        threads = [
            threading.Thread(target=lambda: verdicts.append(site.submit("train", task_id, model(BIG)).meta["verdict"]))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        assert inside.wait(10)
        results = serving(job.servers[0][0]).results
        wait_until(lambda: len(next(iter(results._in_hand.values())).copies) == 2)
        assert verdicts == []
        leave.set()
        for thread in threads:
            thread.join(10)
        assert sorted(verdicts) == ["ACCEPT", "DUPLICATE", "DUPLICATE"]
        assert len(calls) == 1
        assert job.outcome().status == COMPLETED


def test_a_request_with_an_unknown_topic_is_refused_and_is_no_submission(job: JobRuns) -> None:
    flow = Flow()
    job.serve(flow)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        assert site.ask("third", {}, task_name="train", task_id=task_id, message={}).rc == "TOPIC_UNKNOWN"
        served = serving(job.servers[0][0])
        faults: list[str] = []
        odd = SimpleNamespace(
            topic="third",
            origin="a.job",
            meta={"task_name": "train", "task_id": task_id},
            note_fault=lambda kind, text: faults.append(kind),
        )
        assert served.handle(odd) == ("TOPIC_UNKNOWN", {"error": "no handler for topic 'third'"}, None)  # type: ignore[arg-type]
        assert faults == ["unknown topic"]
        assert flow.got == []
        assert site.submit("train", task_id, model()).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED


def test_the_result_of_another_sites_task_is_dropped_also_while_that_site_submits(
    job: JobRuns, caplog: pytest.LogCaptureFixture
) -> None:
    flow = Flow()
    job.serve(flow)
    with RawSite(job, "a") as site, RawSite(job, "b") as other:
        task_id = site.get_task().meta["task_id"]
        assert other.submit("train", task_id, model(BIG)).meta["verdict"] == "WRONG_CLIENT"
        assert flow.got == []
        assert site.submit("train", task_id, model()).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert "client b" in caplog.text
    assert task_id in caplog.text


def test_a_result_under_another_name_is_dropped(job: JobRuns, caplog: pytest.LogCaptureFixture) -> None:
    flow = Flow()
    job.serve(flow)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        assert site.submit("validate", task_id, model(BIG)).meta["verdict"] == "WRONG_NAME"
        assert site.submit("train", task_id, model()).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert "WRONG_NAME" in caplog.text


def test_the_result_of_an_unknown_task_goes_to_the_controller(job: JobRuns) -> None:
    flow = Flow()
    controller = FunctionController(flow)
    job.serve(controller)
    with RawSite(job, "a") as site:
        assert site.submit("train", "no-such-id", model(BIG)).meta["verdict"] == "UNKNOWN"
        site.submit("train", site.get_task().meta["task_id"], model())
        assert job.outcome().status == COMPLETED
    assert [(client, task_id) for client, task_id, _ in controller.unknown] == [("a", "no-such-id")]


def test_a_controller_that_fails_on_an_unknown_result_is_not_asked_again_and_again(job: JobRuns) -> None:
    flow, calls = Flow(), []

    class Strict(FunctionController):
        def process_result_of_unknown_task(self, client: Any, task_name: str, *rest: Any) -> None:
            calls.append(task_name)
            raise LookupError("what is this")

    job.serve(Strict(flow))
    with RawSite(job, "a") as site:
        reply = site.submit("train", "no-such-id", model(BIG))
        assert (reply.rc, reply.meta["reason"]) == ("EXECUTION_EXCEPTION", "LookupError: what is this")
        site.submit("train", site.get_task().meta["task_id"], model())
        assert job.outcome().status == COMPLETED
    assert calls == ["train"]


@pytest.mark.parametrize(
    ("name", "task_id"), [(None, "x"), ("train", None), (7, "x"), ("train", ["x"]), ({}, {})], ids=repr
)
def test_a_submission_without_name_or_id_is_refused(job: JobRuns, name: object, task_id: object) -> None:
    flow = Flow()
    job.serve(flow)
    with RawSite(job, "a") as site:
        assert site.submit(name, task_id, model(BIG)).rc == "BAD_REQUEST_DATA"
        site.submit("train", site.get_task().meta["task_id"], model())
        assert job.outcome().status == COMPLETED


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (None, {}),
        ("text", {}),
        ({"headers": 7}, {}),
        ({"headers": {}}, [1, 2]),
        ({"headers": {}}, None),
        ({"kind": 7, "dxo_meta": [], "others": 1}, {}),
        ({"kind": "WEIGHTS"}, [1]),
        ({}, {"__headers__": 5}),
        ({}, EncodedPayload(b'{"$nd": [9, "float32", [3]]}')),
        ({}, EncodedPayload(b"not json")),
    ],
    ids=repr,
)
def test_a_submission_that_is_no_shareable_counts_as_a_result_with_an_error(
    job: JobRuns, message: object, data: object
) -> None:
    flow = Flow()
    job.serve(flow)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        reply = site.ask(Submit.TOPIC, data, task_name="train", task_id=task_id, message=message)
        assert (reply.rc, reply.meta.get("verdict")) == ("OK", "ACCEPT"), reply.meta
        assert job.outcome().status == COMPLETED
    assert [result.get_return_code() for result in flow.got] == ["EXECUTION_RESULT_ERROR"]


def test_false_headers_change_nothing(job: JobRuns) -> None:
    flow = Flow()
    job.serve(flow)
    lies: dict[str, Any] = {
        "__task_id__": "other",
        "__task_name__": "other",
        "__reply_is_late__": True,
        "__peer_props__": {"x": 1},
    }
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        assert site.submit("train", task_id, model(**lies)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert flow.task.completion_status is TaskCompletionStatus.OK
    assert not flow.got[0].get_header("__reply_is_late__")


def test_a_result_whose_payload_is_gone_is_asked_for_again(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    flow = Flow()
    job.serve(flow)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        message: dict[str, Any] = {"headers": {}}
        data = {"w": np.ones(BIG)}
        prefix = site.host.cell.keys.blob("x")
        payload = store_payload(site.host.server, encode_payload(data), prefix, ttl_ms=10_000)
        for key in redis.scan_iter(f"{prefix}*"):
            redis.delete(key)
        reply = site.ask(Submit.TOPIC, payload, task_name="train", task_id=task_id, message=message)
        assert reply.rc == BLOB_MISSING
        assert site.get_task().meta["task_id"] == task_id
        assert site.submit("train", task_id, model()).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED


@pytest.mark.parametrize(
    "who",
    [{"client": "nobody"}, {"client": 7}, {"client": None}, {"client": ["a"]}, {"epoch": 1 << 50, "instance": "x"}],
    ids=repr,
)
def test_a_site_that_has_not_joined_is_refused_and_keeps_its_payload(job: JobRuns, who: dict[str, Any]) -> None:
    flow = Flow()
    job.serve(flow)
    with RawSite(job, "a") as site:
        assert site.get_task(**who).rc == RC_NOT_JOINED
        task_id = site.get_task().meta["task_id"]
        payload = store_payload(
            site.host.server, encode_payload(model(BIG)["DXO"]["data"]), site.host.cell.keys.blob("x"), ttl_ms=9_000
        )
        message = {"headers": {}, "kind": "WEIGHTS"}
        given = {"task_name": "train", "task_id": task_id, "message": message}
        assert site.ask(Submit.TOPIC, payload, **given, **who).rc == RC_NOT_JOINED
        assert site.ask(Submit.TOPIC, payload, **given).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert flow.got[0]["DXO"]["data"]["w"].shape == (BIG,)


def test_of_two_processes_of_one_name_the_newer_is_served_and_the_older_fenced(job: JobRuns) -> None:
    flow, go = Flow(), threading.Event()

    def wait_first(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        go.wait(20)
        flow(controller, abort, fl_ctx)

    server = job.serve(wait_first)
    # in hosts of their own, so that only the member list knows that they are the same site
    with RawSite(job, "a") as older:
        codes: list[str] = []
        thread = threading.Thread(target=lambda: codes.append(older.get_task().rc))
        thread.start()
        wait_until(lambda: len(parked_requests(server)))
        with CellHost("elsewhere", "job", client=job.place["client"], settings=job.settings) as host:
            newer = Membership(host, "server.job", "a", {}, lambda membership: None)
            newer.join(lambda: "")
            thread.join(10)
            assert codes == [RC_FENCED]
            assert older.get_task().rc == RC_FENCED
            assert older.submit("train", "x", model()).rc == RC_FENCED
            go.set()
            reply = host.cell.send_request("job", "get_task", "server.job", newer.credentials.to_meta(), timeout=10)
            assert reply.ok
            job.servers[0][0].abort()
            newer.leave()


def test_a_request_that_its_client_has_replaced_is_answered_and_forgotten(job: JobRuns) -> None:
    go, flow = threading.Event(), Flow()

    def wait_first(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        go.wait(20)
        flow(controller, abort, fl_ctx)

    server = job.serve(wait_first)
    with RawSite(job, "a") as site:
        codes: list[str] = []
        first = threading.Thread(target=lambda: codes.append(site.get_task().rc))
        first.start()
        wait_until(lambda: len(parked_requests(server)))
        second = threading.Thread(target=lambda: codes.append(site.get_task().rc))
        second.start()
        first.join(10)
        assert codes == ["SUPERSEDED"]
        go.set()
        second.join(10)
        assert codes == ["SUPERSEDED", "OK"]
        server.abort()


def test_a_request_after_the_end_of_the_job_gets_its_outcome(job: JobRuns) -> None:
    flow, closing, end = Flow(), threading.Event(), threading.Event()

    class Slow(FunctionController):
        def stop_controller(self, fl_ctx: FLContext) -> None:
            closing.set()
            end.wait(20)

    server = job.serve(Slow(flow))
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        site.submit("train", task_id, model())
        assert closing.wait(10)
        replies: list[str] = []
        thread = threading.Thread(target=lambda: replies.append(site.get_task().rc))
        thread.start()
        wait_until(lambda: len(parked_requests(server)))
        end.set()
        thread.join(10)
        assert replies == [RC_JOB_ENDED]


def test_a_site_whose_result_is_stuck_in_a_callback_is_answered_when_the_task_ends(job: JobRuns) -> None:
    inside, leave = threading.Event(), threading.Event()

    def block(client_task: ClientTask, fl_ctx: FLContext) -> None:
        inside.set()
        leave.wait(20)

    one = task(model(), result_received_cb=block)
    cancelled = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.send(one, fl_ctx, targets=["a"])
        inside.wait(10)
        controller.cancel_task(one, fl_ctx=fl_ctx)
        cancelled.wait(20)

    job.serve(flow)
    with RawSite(job, "a") as site:
        reply = site.submit("train", site.get_task().meta["task_id"], model(BIG))
        assert reply.meta["verdict"] == "FINISHED"
        leave.set()
        cancelled.set()
        assert job.outcome().status == COMPLETED


def test_a_site_is_notified_of_the_end_of_its_task_and_its_late_result_is_dropped(job: JobRuns) -> None:
    one, sent, end = task(model()), threading.Event(), threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.send(one, fl_ctx, targets=["a"])
        sent.wait(20)
        controller.cancel_task(one, fl_ctx=fl_ctx)
        end.wait(20)

    controller = FunctionController(flow)
    job.serve(controller)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        with CellHost("b", "job", client=job.place["client"], settings=job.settings) as other:
            # of a site that would like the others to stop
            event = TasksEndEvent(clients=["a"], task_ids=["of another site"])
            other.cell.fire_and_forget(event.CHANNEL, event.TOPIC, "a.job", event.to_meta())
            wait_until(lambda: site.host.cell.faults.totals == {"sent in the name of another": 1})
        sent.set()
        wait_until(lambda: site.events)
        assert site.events[0] == TasksEndEvent(clients=["a"], task_ids=[task_id])
        assert site.submit("train", task_id, model(BIG)).meta["verdict"] == "UNKNOWN"
        end.set()
        assert job.outcome().status == COMPLETED
    assert len(controller.unknown) == 1
