"""An SJ with its sites in this process: what it guarantees to controllers and sites."""

from __future__ import annotations

import logging
import threading
from typing import Any

import fakeredis
import numpy as np
import pytest
from redflare_workers.apis.dxo import DXO, DataKind, from_shareable
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus
from redflare_workers.protocol.job_outcome import ABORTED, COMPLETED, FAILED, STOPPED
from redflare_workers.server.job.server_job import ServerJob

from tests.support.job.runs import (
    FunctionController,
    FunctionExecutor,
    JobRuns,
    echo,
    parked_requests,
    serving,
    task,
    until_aborted,
)
from tests.support.process.handlers import aborting_thread, handling
from tests.support.waiting import wait_until

BIG = 300_000


def weights(value: float, size: int = 10) -> Shareable:
    return DXO(DataKind.WEIGHTS, {"w": np.full(size, value, np.float32)}).to_shareable()


def value_of(result: Any) -> float:
    return float(from_shareable(result).data["w"][0])


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, BIG], ids=["small", "large"])
def test_a_broadcast_reaches_every_site_and_every_result_the_server(job: JobRuns, size: int) -> None:
    got: dict[str, float] = {}

    def take(client_task: ClientTask, fl_ctx: FLContext) -> None:
        got[client_task.client.name] = value_of(client_task.result)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast_and_wait(
            task(weights(3.0, size), result_received_cb=take), fl_ctx, targets=["a", "b"], abort_signal=abort
        )

    job.serve(flow)
    job.join("a")
    job.join("b")
    assert job.outcome().status == COMPLETED
    assert got == {"a": 3.0, "b": 3.0}
    assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED, COMPLETED]


def test_a_site_that_joins_before_the_server_is_served_when_it_starts(job: JobRuns) -> None:
    executor = FunctionExecutor(echo)
    job.join("a", executor)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.send_and_wait(task(), fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow)
    assert job.outcome().status == COMPLETED
    assert len(executor.done) == 1


def test_a_site_that_joins_late_becomes_a_target_of_a_task_for_all(job: JobRuns) -> None:
    standing = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = task()
        controller.broadcast(one, fl_ctx, min_responses=2)
        standing.set()
        controller.wait(one, abort)

    job.serve(flow)
    job.join("a")
    standing.wait(10)
    job.joined("a")
    job.join("late")
    assert job.outcome().status == COMPLETED


def test_a_parked_request_is_answered_at_once_when_a_task_is_scheduled(job: JobRuns) -> None:
    go, done = threading.Event(), threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        go.wait(20)
        controller.broadcast_and_wait(task(), fl_ctx, targets=["a"], abort_signal=abort)
        done.set()

    server = job.serve(flow)
    job.join("a")
    job.joined("a")
    wait_until(lambda: len(parked_requests(server)) == 1)
    go.set()
    assert done.wait(2)


def test_each_window_of_a_sequential_send_opens_for_the_parked_request(job: JobRuns) -> None:
    executor = FunctionExecutor(echo)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = task(timeout=20)
        # the first target has not joined, so the second gets it a second later
        controller.send_and_wait(one, fl_ctx, targets=["nobody", "a"], task_assignment_timeout=1, abort_signal=abort)
        assert one.completion_status is TaskCompletionStatus.OK

    job.serve(flow)
    job.join("a", executor)
    assert job.outcome().status == COMPLETED
    assert len(executor.done) == 1


def test_a_site_is_notified_when_its_task_has_ended(job: JobRuns) -> None:
    begun, aborted = threading.Event(), threading.Event()

    def work(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        if name == "slow":
            begun.set()
            until_aborted(name, data, fl_ctx, abort)
            aborted.set()
        return data

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        slow = task(name="slow")
        controller.send(slow, fl_ctx, targets=["a"])
        begun.wait(20)
        controller.cancel_task(slow, fl_ctx=fl_ctx)
        # the site is free for the next one
        controller.send_and_wait(task(name="next"), fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow)
    job.join("a", work)
    assert job.outcome().status == COMPLETED
    assert aborted.is_set()


def test_a_task_that_cannot_be_sent_ends_and_the_site_gets_the_one_behind_it(
    job: JobRuns, caplog: pytest.LogCaptureFixture
) -> None:
    statuses = []

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        bad, good = Shareable(), task(name="good")
        bad["thing"] = object()
        first = task(bad, name="bad")
        controller.send(first, fl_ctx, targets=["a"])
        controller.send(good, fl_ctx, targets=["a"])
        controller.wait(first, abort)
        controller.wait(good, abort)
        statuses.extend([first.completion_status, good.completion_status])

    job.serve(flow)
    job.join("a")
    assert job.outcome().status == COMPLETED
    assert statuses == [TaskCompletionStatus.CANCELLED, TaskCompletionStatus.OK]
    assert "cannot be sent to client a" in caplog.text


@pytest.mark.parametrize("value", [1 << 80, float("inf"), np.float64(0.5), np.float32(0.5), (1, 2)], ids=repr)
def test_headers_and_meta_beyond_plain_json_are_sent_and_received(
    job: JobRuns, redis: fakeredis.FakeRedis, value: object
) -> None:
    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        data = DXO(DataKind.WEIGHTS, {"w": np.zeros(3)}, {"value": value}).to_shareable()
        data.set_header("value", value)
        controller.send_and_wait(one := task(data), fl_ctx, targets=["a"], abort_signal=abort)
        result = one.client_tasks[0].result
        assert result is not None
        assert result.get_header("value") == value
        assert from_shareable(result).meta["value"] == value

    job.serve(flow)
    job.join("a")
    outcome = job.outcome()
    assert outcome.status == COMPLETED, outcome


@pytest.mark.parametrize("where", ["server", "site"])
def test_headers_that_cannot_be_sent_are_an_error_of_that_task_and_leave_no_request_unanswered(
    job: JobRuns, where: str
) -> None:
    def spoil(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        result = Shareable()
        if name == "bad":
            result.set_header("names", {1: "one"})
        return result

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        bad = Shareable()
        if where == "server":
            bad.set_header("names", {1: "one"})
        first = task(bad, name="bad")
        controller.send_and_wait(first, fl_ctx, targets=["a"], abort_signal=abort)
        if where == "server":
            assert first.completion_status is TaskCompletionStatus.CANCELLED
        else:
            result = first.client_tasks[0].result
            assert result is not None
            assert result.get_return_code() == "EXECUTION_RESULT_ERROR"
        controller.send_and_wait(task(name="good"), fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow)
    job.join("a", spoil)
    outcome = job.outcome()
    assert outcome.status == COMPLETED, outcome


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_when_the_controller_raises_it_is_stopped_and_the_sites_are_notified(job: JobRuns) -> None:
    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        raise RuntimeError("no idea")

    controller = FunctionController(flow)
    job.join("a")
    job.serve(controller)
    outcome = job.outcome()
    assert (outcome.status, outcome.reason) == (FAILED, "RuntimeError: no idea")
    assert controller.stopped == 1
    assert [one.status for one in job.site_outcomes()] == [FAILED]


def test_abort_ends_the_wait_of_the_controller_and_the_sites(job: JobRuns) -> None:
    begun = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast(one := task(), fl_ctx, targets=["a"])
        begun.set()
        controller.wait(one, abort)

    server = job.serve(flow)
    executor = FunctionExecutor(until_aborted)
    job.join("a", executor)
    begun.wait(10)
    wait_until(lambda: executor.done)
    server.abort("enough")
    assert (job.outcome().status, job.outcome().reason) == (ABORTED, "enough")
    assert [str(outcome) for outcome in job.site_outcomes()] == [f"{ABORTED}: enough"]


def test_a_panic_of_a_component_ends_the_job(job: JobRuns) -> None:
    class Nervous(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            if event_type == EventType.START_WORKFLOW:
                self.system_panic("the disk is on fire", fl_ctx)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        raise AssertionError("the workflow must not begin")

    job.serve(flow, components={"nervous": Nervous()})
    assert (job.outcome().status, job.outcome().reason) == (FAILED, "the disk is on fire")


def test_nothing_unread_is_left_in_the_inboxes_of_sites_that_waited(redis: fakeredis.FakeRedis, job: JobRuns) -> None:
    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast_and_wait(task(), fl_ctx, targets=["a", "b"], abort_signal=abort)
        wait_until(lambda: len(parked_requests(server)) == 2)

    server = job.serve(flow)
    for name in ("a", "b"):
        job.join(name)
    assert job.outcome().ok
    job.site_outcomes()
    assert not [key for key in redis.scan_iter("*:inbox:*") if redis.xlen(key)]


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_a_callback_that_never_returns_does_not_block_other_tasks(job: JobRuns) -> None:
    stuck, release = threading.Event(), threading.Event()

    def block(client_task: ClientTask, fl_ctx: FLContext) -> None:
        stuck.set()
        release.wait(30)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        bad = task(weights(1.0, BIG), name="bad", result_received_cb=block, timeout=1)
        controller.send(bad, fl_ctx, targets=["a"])
        assert stuck.wait(10)
        controller.broadcast_and_wait(task(weights(1.0, BIG), name="good"), fl_ctx, targets=["b"], abort_signal=abort)
        # it ends by its timeout, and its site is free for the next task although the callback still runs
        controller.send_and_wait(task(weights(1.0, BIG), name="next"), fl_ctx, targets=["a"], abort_signal=abort)
        assert bad.completion_status is TaskCompletionStatus.TIMEOUT
        release.set()

    server = job.serve(flow)
    serving(server).results._large._patience = 0.1
    job.join("a")
    job.join("b")
    assert job.outcome().status == COMPLETED


@pytest.mark.parametrize("where", ["before_task_sent_cb", "after_task_sent_cb"])
def test_a_site_whose_task_is_stuck_in_a_callback_gets_the_next_one_when_that_task_ends(
    job: JobRuns, where: str
) -> None:
    stuck, release = threading.Event(), threading.Event()

    def block(client_task: ClientTask, fl_ctx: FLContext) -> None:
        stuck.set()
        release.wait(30)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        bad = Task("bad", Shareable(), **{where: block})  # type: ignore[arg-type]
        controller.send(bad, fl_ctx, targets=["a"])
        assert stuck.wait(10)
        controller.send_and_wait(task(name="other"), fl_ctx, targets=["b"], abort_signal=abort)
        controller.cancel_task(bad, fl_ctx=fl_ctx)
        controller.send_and_wait(task(name="next"), fl_ctx, targets=["a"], abort_signal=abort)
        release.set()

    executor = FunctionExecutor(echo)
    job.serve(flow)
    job.join("a", executor)
    job.join("b")
    assert job.outcome().status == COMPLETED
    assert len(executor.done) == 1


@pytest.mark.parametrize("where", ["before_task_sent_cb", "after_task_sent_cb", "result_received_cb"])
def test_a_callback_that_raises_ends_its_task_and_nothing_else(
    job: JobRuns, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    def fail(client_task: ClientTask, fl_ctx: FLContext) -> None:
        raise ValueError("not today")

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        bad = Task("bad", Shareable(), **{where: fail})  # type: ignore[arg-type]
        controller.broadcast_and_wait(bad, fl_ctx, targets=["a"], abort_signal=abort)
        assert bad.completion_status is TaskCompletionStatus.ERROR
        good = task(name="good")
        controller.broadcast_and_wait(good, fl_ctx, targets=["a"], abort_signal=abort)
        assert good.completion_status is TaskCompletionStatus.OK

    job.serve(flow)
    job.join("a")
    assert job.outcome().status == COMPLETED
    assert "not today" in caplog.text
    assert "client a" in caplog.text


# -- sites that are gone -----------------------------------------------------------------------------------------------


def test_a_dead_site_is_reported_and_its_task_ends(job: JobRuns) -> None:
    events: list[str] = []
    answered: list[str] = []

    class EventRecorder(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            if event_type in (EventType.CLIENT_DISCONNECTED, EventType.CLIENT_RECONNECTED):
                events.append(event_type)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = task(result_received_cb=lambda client_task, fl_ctx: answered.append(client_task.client.name))
        controller.broadcast_and_wait(one, fl_ctx, targets=["a", "b"], abort_signal=abort)
        assert one.completion_status is TaskCompletionStatus.CLIENT_DEAD
        wait_until(lambda: EventType.CLIENT_RECONNECTED in events)

    job.serve(flow, components={"watch": EventRecorder()})
    job.join("b")
    dead = job.join("a", until_aborted)
    job.joined("a", "b")
    # the task ends when nobody else is waited for
    wait_until(lambda: answered == ["b"])
    dead.stop()
    wait_until(lambda: EventType.CLIENT_DISCONNECTED in events)
    job.join("a")
    assert job.outcome().status == COMPLETED
    assert events == [EventType.CLIENT_DISCONNECTED, EventType.CLIENT_RECONNECTED]


@pytest.mark.parametrize(("how", "status"), [("abort", ABORTED), ("leave", STOPPED)])
def test_a_signal_handler_that_interrupts_the_run_waits_for_none_of_its_locks(
    job: JobRuns, how: str, status: str
) -> None:
    threads: list[threading.Thread] = []

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        threads.append(aborting_thread(abort))

    server = ServerJob(FunctionController(flow), **job.place)
    with handling(getattr(server, how)):
        assert server.run().status == status
    assert [thread.name for thread in threads] == [f"redflare-end-{server.fqcn}"]
    threads[0].join()
