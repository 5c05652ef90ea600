"""A CJ with a server in this process: executors, filters, and how it ends."""

from __future__ import annotations

import threading
import time
from typing import Any

import fakeredis
import numpy as np
import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import LATER, HandlerResult, Request
from redflare_broker.errors import BlobMissing
from redflare_broker.keys import Keys
from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.transport.server import Server
from redflare_workers.apis.dxo import DXO, DataKind, from_shareable
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.executor import Executor
from redflare_workers.apis.filter import Filter
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable, make_reply
from redflare_workers.apis.signal import Signal
from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.protocol.job_messages import RC_JOB_ENDED, GetTask, Submit
from redflare_workers.protocol.job_outcome import COMPLETED, FAILED, FENCED, STOPPED

from tests.support.job.runs import (
    FunctionController,
    FunctionExecutor,
    JobRuns,
    RunThread,
    echo,
    serving,
    task,
    until_aborted,
)
from tests.support.process.handlers import aborting_thread, handling
from tests.support.waiting import wait_until

BIG = 300_000


def model(size: int = 3, **meta: Any) -> Shareable:
    return DXO(DataKind.WEIGHTS, {"w": np.ones(size, np.float32)}, meta).to_shareable()


def one_task(job: JobRuns, data: Shareable | None = None) -> list[Shareable]:
    """Run a server with one task for site a; return its results."""
    results: list[Shareable] = []

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = task(data or model())
        controller.send_and_wait(one, fl_ctx, targets=["a"], abort_signal=abort)
        results.extend(each.result for each in one.client_tasks if each.result is not None)

    job.serve(flow)
    return results


def fails(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
    raise RuntimeError("no GPU")


# -- what executors do wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "rc"),
    [
        (fails, "EXECUTION_EXCEPTION"),
        (lambda *args: None, "EMPTY_RESULT"),
        (lambda *args: {"w": 1}, "EXECUTION_RESULT_ERROR"),
        (lambda *args: make_reply("TASK_ABORTED"), "TASK_ABORTED"),
        (lambda *args: Shareable({"x": object()}), "EXECUTION_RESULT_ERROR"),
        (lambda *args: DXO(DataKind.WEIGHTS, {"w": np.array([object()])}).to_shareable(), "EXECUTION_RESULT_ERROR"),
    ],
    ids=["raises", "nothing", "no Shareable", "a return code", "cannot be sent", "objects in an array"],
)
def test_errors_of_an_executor_reach_the_controller_as_return_codes(job: JobRuns, work: Any, rc: str) -> None:
    results = one_task(job)
    job.join("a", work)
    assert job.outcome().status == COMPLETED
    assert [result.get_return_code() for result in results] == [rc]
    assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED]


def test_a_task_that_no_executor_is_named_for_is_unknown(job: JobRuns) -> None:
    results = one_task(job)
    job.join("a", {"validate": FunctionExecutor(echo)})
    assert job.outcome().status == COMPLETED
    assert [result.get_return_code() for result in results] == ["TASK_UNKNOWN"]


class Times(Filter):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        dxo = from_shareable(shareable)
        dxo.data = {key: value * self.factor for key, value in dxo.data.items()}
        return dxo.update_shareable(shareable)


class Broken(Filter):
    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Any:
        raise RuntimeError("no noise left")


class Silent(Filter):
    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Any:
        return None


def test_filters_see_tasks_and_results_in_order(job: JobRuns) -> None:
    results = one_task(job)
    job.join("a", echo, task_filters=[Times(2), Times(3)], result_filters=[Times(5)])
    assert job.outcome().status == COMPLETED
    assert from_shareable(results[0]).data["w"][0] == 30


@pytest.mark.parametrize("bad", [Broken, Silent])
@pytest.mark.parametrize("where", ["task_filters", "result_filters"])
def test_a_filter_that_fails_lets_nothing_through(job: JobRuns, where: str, bad: type[Filter]) -> None:
    results = one_task(job)
    executor = FunctionExecutor(echo)
    job.join("a", executor, **{where: [bad()]})
    assert job.outcome().status == COMPLETED
    rc = {"task_filters": "TASK_DATA_FILTER_ERROR", "result_filters": "TASK_RESULT_FILTER_ERROR"}[where]
    assert [(result.get_return_code(), "DXO" in result) for result in results] == [(rc, False)]
    assert len(executor.done) == (where == "result_filters")


class PassesOn(Executor):
    """Does not decode data, like an IPCExchanger."""

    accepts_encoded = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        self.seen.append(from_shareable(shareable).data)
        return Shareable()


@pytest.mark.parametrize("odd", [False, True], ids=["plain meta", "arrays in the meta"])
def test_an_executor_that_passes_data_on_always_gets_a_dxo(job: JobRuns, odd: bool) -> None:
    one_task(job, model(BIG, extra=np.ones(3)) if odd else model(BIG, accuracy=np.float32(0.5)))
    executor = PassesOn()
    job.join("a", executor)
    assert job.outcome().status == COMPLETED
    [seen] = executor.seen
    assert isinstance(seen, dict) is odd


def test_a_task_whose_payload_is_gone_is_asked_for_again(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    results = one_task(job, model(BIG))
    server = job.servers[0][0]
    lost = threading.Event()

    class Forgetful(Executor):
        accepts_encoded = True

        def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
            encoded: Any = from_shareable(shareable).data
            if not lost.is_set():
                redis.delete(*redis.scan_iter(f"{encoded.blob.prefix}*"))
                lost.set()
            try:
                encoded.decode(serving(server).payloads.server)
            except BlobMissing:
                return make_reply(BLOB_MISSING)
            return Shareable()

    job.join("a", Forgetful())
    assert job.outcome().status == COMPLETED
    assert [result.get_return_code() for result in results] == ["OK"]


# -- ends --------------------------------------------------------------------------------------------------------------


def test_stop_ends_a_running_task_and_fires_events(job: JobRuns) -> None:
    events: list[str] = []

    class EventRecorder(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            if event_type in (EventType.START_RUN, EventType.ABOUT_TO_END_RUN, EventType.END_RUN):
                events.append(event_type)

    one_task(job)
    executor = FunctionExecutor(until_aborted)
    site = job.join("a", executor, components={"watch": EventRecorder()})
    wait_until(lambda: executor.done)
    site.stop("going home")
    [outcome] = job.site_outcomes()
    assert (outcome.status, outcome.reason) == (STOPPED, "going home")
    assert events == [EventType.START_RUN, EventType.ABOUT_TO_END_RUN, EventType.END_RUN]


def test_stop_ends_a_site_that_waits_for_its_server(job: JobRuns) -> None:
    site = job.join("a")
    wait_until(lambda: site._host._cell is not None and len(site._host._cell._outgoing))
    site.stop()
    assert job.site_outcomes()[0].status == STOPPED


def test_stop_and_abort_end_a_wait_for_a_redis_that_is_not_there() -> None:
    with JobRuns(url="redis://127.0.0.1:1") as runs:
        site = runs.join("a")
        server = runs.serve(lambda *args: None)
        wait_until(lambda: site._host._cell is not None and server.engine.abort_signal._callbacks)
        started = time.monotonic()
        site.stop()
        server.abort("never mind")
        assert runs.site_outcomes()[0].status == STOPPED
        assert runs.outcome().reason == "never mind"
        assert time.monotonic() - started < 5


def test_a_panic_at_a_site_ends_its_part_and_not_the_job(job: JobRuns) -> None:
    class Nervous(Executor):
        def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
            self.system_panic("my disk is full", fl_ctx)
            return Shareable()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast(task(name="first"), fl_ctx, targets=["a"])
        controller.send_and_wait(task(name="second"), fl_ctx, targets=["b"], abort_signal=abort)

    job.serve(flow, job_meta={"min_clients": 1})
    job.join("a", Nervous())
    outcome = job.sites[0][1].outcome()
    assert (outcome.status, outcome.reason) == (FAILED, "my disk is full")
    job.join("b")
    assert job.outcome().status == COMPLETED


def test_a_newer_process_of_a_site_takes_over_its_task_and_the_older_ends(job: JobRuns) -> None:
    answered: list[str] = []

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = task(model(BIG))
        controller.send_and_wait(one, fl_ctx, targets=["a"], abort_signal=abort)
        answered.extend(each.id for each in one.client_tasks if each.result is not None)
        wait_until(lambda: not job.sites[0][1].running)

    older, newer = FunctionExecutor(until_aborted), FunctionExecutor(echo)
    job.serve(flow)
    job.join("a", older)
    wait_until(lambda: older.done)
    job.join("a", newer)
    assert job.outcome().status == COMPLETED
    assert [outcome.status for outcome in job.site_outcomes()] == [FENCED, COMPLETED]
    assert older.done == newer.done == answered


def test_sites_that_share_a_host_each_do_their_own_tasks(job: JobRuns) -> None:
    got: list[str] = []

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = task(model(BIG))
        controller.broadcast_and_wait(one, fl_ctx, targets=names, abort_signal=abort)
        got.extend(each.client.name for each in one.client_tasks)

    names = [f"site-{number}" for number in range(20)]
    job.serve(flow)
    with CellHost("many", "job", client=job.place["client"], settings=job.settings) as host:
        sites = [ClientJob(name, FunctionExecutor(echo), host=host) for name in names]
        running = [RunThread(site.site_name, site.run) for site in sites]
        assert job.outcome().status == COMPLETED
        assert [each.outcome().status for each in running] == [COMPLETED] * 20
    assert sorted(got) == sorted(names)


# -- servers that misbehave --------------------------------------------------------------------------------------------


class ScriptedServer:
    """A cell in the place of a server; replies to each request with the next of ``answers``."""

    def __init__(self, job: JobRuns, answers: list[Any]) -> None:
        self.asked: list[str] = []
        self._answers = answers
        self._server = Server.connect("redis://fake", client=job.place["client"])
        self.cell = Cell(self._server, "server.job", job.settings)
        for message in (GetTask, Submit):
            self.cell.register_request_cb(message.CHANNEL, message.TOPIC, self._answer)

    def _answer(self, request: Request) -> HandlerResult:
        self.asked.append(request.topic)
        if not self._answers:
            return LATER
        answer = self._answers.pop(0)
        result: HandlerResult = answer(request) if callable(answer) else answer
        return result

    def __enter__(self) -> ScriptedServer:
        self.cell.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cell.stop()
        self._server.close()


TASK = ("OK", {"task_name": "train", "task_id": "t1", "message": {"headers": {}}}, {"x": 1})
ENDED = (RC_JOB_ENDED, {"reason": COMPLETED}, None)


@pytest.mark.parametrize(
    "answer",
    [
        ("OK", {}, None),
        ("OK", {"task_name": "train"}, None),
        ("OK", {"task_name": "train", "task_id": "x", "message": 5}, None),
        ("OK", {"task_name": "train", "task_id": "x", "message": {"headers": 3}}, None),
        ("OK", {"task_name": "train", "task_id": "x", "message": {"kind": 3}}, None),
    ],
    ids=repr,
)
def test_a_reply_that_is_no_task_ends_the_site_with_a_reason(job: JobRuns, answer: Any) -> None:
    with ScriptedServer(job, [answer]):
        job.join("a")
        [outcome] = job.site_outcomes()
    assert outcome.status == FAILED
    assert "is no task" in outcome.reason


def test_a_site_waits_between_requests_to_a_failing_server(job: JobRuns) -> None:
    def broken(request: Request) -> HandlerResult:
        raise RuntimeError("out of order")

    with ScriptedServer(job, [broken] * 4 + [ENDED]) as server:
        started = time.monotonic()
        job.join("a")
        assert job.site_outcomes()[0].status == COMPLETED
        assert time.monotonic() - started > 0.05 * 0.5 * (1 + 2 + 4 + 8)
    assert server.asked == [GetTask.TOPIC] * 5


@pytest.mark.parametrize("rc", ["EXECUTION_EXCEPTION", "BAD_REQUEST_DATA"])
def test_a_result_that_the_server_cannot_handle_is_not_submitted_again(job: JobRuns, rc: str) -> None:
    with ScriptedServer(job, [TASK, (rc, {"reason": "no"}, None), ENDED]) as server:
        job.join("a")
        assert job.site_outcomes()[0].status == COMPLETED
    assert server.asked == [GetTask.TOPIC, Submit.TOPIC, GetTask.TOPIC]


def test_a_result_whose_handler_failed_is_submitted_again(job: JobRuns) -> None:
    def broken(request: Request) -> HandlerResult:
        raise RuntimeError("out of order")

    with ScriptedServer(job, [TASK, broken, ("OK", {"verdict": "ACCEPT"}, None), ENDED]) as server:
        job.join("a")
        assert job.site_outcomes()[0].status == COMPLETED
    assert server.asked == [GetTask.TOPIC, Submit.TOPIC, Submit.TOPIC, GetTask.TOPIC]


def test_a_result_whose_payload_is_lost_at_the_server_is_computed_again(job: JobRuns) -> None:
    executor = FunctionExecutor(echo)
    answers = [TASK, (BLOB_MISSING, {"reason": "gone"}, None), TASK, ("OK", {"verdict": "ACCEPT"}, None), ENDED]
    with ScriptedServer(job, answers) as server:
        job.join("a", executor)
        assert job.site_outcomes()[0].status == COMPLETED
    assert server.asked == [GetTask.TOPIC, Submit.TOPIC, GetTask.TOPIC, Submit.TOPIC, GetTask.TOPIC]
    assert executor.done == ["t1", "t1"]


def test_an_event_that_arrives_before_its_task_ends_the_task_too(job: JobRuns) -> None:
    aborted = threading.Event()

    def work(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        if abort.triggered:
            aborted.set()
        return data

    with ScriptedServer(job, []) as server:
        site = job.join("a", work)
        wait_until(lambda: server.asked)
        server.cell.fire_and_forget("job", "task_ended", "a.job", {"clients": ["a"], "task_ids": ["t0", "t1"]})
        wait_until(lambda: "t1" in site._ended_early)
        server._answers.extend([TASK, ENDED])
        for request in list(server.cell._incoming._in_hand.values()):
            request.reply(*server._answers.pop(0))
        assert job.site_outcomes()[0].status == COMPLETED
    assert aborted.is_set()
    assert server.asked == [GetTask.TOPIC, GetTask.TOPIC]


@pytest.mark.parametrize("meta", [{}, {"clients": 7}, {"clients": ["a"], "task_ids": 7}, {"clients": ["a"]}], ids=repr)
def test_an_invalid_event_changes_nothing(job: JobRuns, meta: dict[str, Any]) -> None:
    with ScriptedServer(job, []) as server:
        job.join("a")
        wait_until(lambda: server.asked)
        server.cell.fire_and_forget("job", "task_ended", "a.job", meta)
        server.cell.fire_and_forget("job", "what_is_this", "a.job", meta)
        server.cell.fire_and_forget("job", "job_ended", "a.job", {"clients": ["a"], "reason": COMPLETED})
        assert job.site_outcomes()[0].status == COMPLETED


def test_the_end_of_an_earlier_job_of_its_id_that_is_in_its_inbox_does_not_end_a_process(job: JobRuns) -> None:
    with ScriptedServer(job, []) as server:
        ended = {"clients": ["a"], "reason": "FINISHED:ABORTED: it was lost", "instances": ["gpu-1:7:0a1b2c3d"]}
        job.join("a")
        wait_until(lambda: server.asked)
        server.cell.fire_and_forget("job", "job_ended", "a.job", ended)
        inbox = Keys(job.settings.namespace).cell("a.job").inbox("server")
        wait_until(lambda: not job.place["client"].xlen(inbox))
        server.cell.fire_and_forget("job", "job_ended", "a.job", {"clients": ["a"], "reason": COMPLETED})
        assert job.site_outcomes()[0].status == COMPLETED


def test_a_signal_handler_that_interrupts_a_task_waits_for_none_of_its_locks(job: JobRuns) -> None:
    threads: list[threading.Thread] = []

    def work(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        threads.append(aborting_thread(abort))
        return data

    one_task(job)
    site = ClientJob("a", FunctionExecutor(work), **job.place)
    with handling(site.stop):
        assert site.run().status == STOPPED
    assert [thread.name for thread in threads] == ["redflare-end-a"]
    threads[0].join()


def test_a_job_that_ended_while_a_site_was_away_begins_and_ends_there_too(job: JobRuns) -> None:
    """An agent may still work for it, and hears of the end from components."""
    events: list[str] = []

    class Listening(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            events.append(event_type)

    job.serve(lambda controller, abort, fl_ctx: None)
    assert job.outcome().status == COMPLETED
    job.join("a", components={"listening": Listening()})
    assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED]
    assert [each for each in events if each in (EventType.START_RUN, EventType.END_RUN)] == [
        EventType.START_RUN,
        EventType.END_RUN,
    ]
