"""A server whose run is over while its job is not: what still comes is the next server's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.wire.task_entry import BlobRef
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.messaging.wire import AUX, SEND, TO
from redflare_workers.protocol.job_outcome import ABORTED, COMPLETED, FENCED, STOPPED
from redflare_workers.server.job.server_job import ServerJob

from tests.support.job.hold import Hold
from tests.support.job.rounds import BIG, SIZES, Rounds, model
from tests.support.job.runs import FunctionController, JobRuns, RawSite, echo, parked_requests, serving, task
from tests.support.waiting import wait_until


def stop(server: ServerJob) -> None:
    server.leave("the test says so")


def fence(server: ServerJob) -> None:
    serving(server).cell.on_fenced()


LEAVING = pytest.mark.parametrize(("leave", "status"), [(stop, STOPPED), (fence, FENCED)], ids=["stopped", "fenced"])


def has_read(server: ServerJob, number: int, *calls: Future[Any]) -> None:
    """Wait until that many requests are in a server's hands, or it has answered one."""
    cell = serving(server).cell
    wait_until(lambda: len(cell._incoming) >= number or any(call.done() for call in calls))


@LEAVING
@SIZES
def test_a_result_that_comes_while_a_server_ends_is_the_next_ones_and_nobody_trains_twice(
    job: JobRuns,
    threads: ThreadPoolExecutor,
    leave: Callable[[ServerJob], None],
    status: str,
    size: int,
) -> None:
    end = Hold(EventType.END_RUN)
    server = job.serve(Rounds(1, size, ["a"]), components={"end": end})
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        leave(server)
        assert end.inside.wait(10)
        answer = threads.submit(site.submit, "train", task_id, model(1.0, size))
        has_read(server, 1, answer)
        end.go.set()
        assert job.outcome().status == status
        assert not answer.done()
        second = Rounds(1, size, ["a"])
        job.serve(second)
        assert answer.result(10).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert (second.total, second.added) == (1.0, [(0, "a")])


def test_a_workflow_that_has_come_to_its_end_is_finished_also_by_a_server_that_is_told_to_leave(job: JobRuns) -> None:
    end = Hold(EventType.END_RUN)
    server = job.serve(lambda controller, abort, fl_ctx: None, components={"end": end})
    assert end.inside.wait(10)
    server.leave("the test says so")
    end.go.set()
    assert job.outcome().status == COMPLETED


def test_a_server_that_is_replaced_while_a_finished_workflow_ends_is_fenced(job: JobRuns) -> None:
    end = Hold(EventType.END_RUN)
    server = job.serve(lambda controller, abort, fl_ctx: None, components={"end": end})
    assert end.inside.wait(10)
    fence(server)
    end.go.set()
    assert job.outcome().status == FENCED


@LEAVING
@SIZES
def test_a_result_whose_callback_still_runs_is_the_next_servers(
    job: JobRuns,
    threads: ThreadPoolExecutor,
    leave: Callable[[ServerJob], None],
    status: str,
    size: int,
) -> None:
    begun, go = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        begun.set()
        go.wait(20)

    server = job.serve(Rounds(2, size, ["a"], hold))
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        answer = threads.submit(site.submit, "train", task_id, model(1.0, size))
        assert begun.wait(10)
        leave(server)
        go.set()
        assert job.outcome().status == status
        assert not answer.done()
        second = Rounds(2, size, ["a"])
        job.serve(second)
        # the first server may have noted it already
        assert answer.result(10).meta["verdict"] in ("ACCEPT", "DUPLICATE")
        assert site.submit("train", site.get_task().meta["task_id"], model(1.0, size)).ok
        assert job.outcome().status == COMPLETED
    assert (second.total, second.added) == (2.0, [(0, "a"), (1, "a")])


@LEAVING
def test_requests_for_tasks_wait_for_the_next_server(
    job: JobRuns, threads: ThreadPoolExecutor, leave: Callable[[ServerJob], None], status: str
) -> None:
    end = Hold(EventType.END_RUN)
    server = job.serve(Rounds(1, 10, ["a", "b"]), components={"end": end})
    with RawSite(job, "a") as a, RawSite(job, "b") as b:
        task_id = a.get_task().meta["task_id"]
        assert a.submit("train", task_id, model(1.0, 10)).meta["verdict"] == "ACCEPT"
        early = threads.submit(a.get_task)
        wait_until(lambda: len(parked_requests(server)) == 1)
        leave(server)
        assert end.inside.wait(10)
        # one that would replace a request that waits, one of a process that has not joined, one of another site
        late, stranger, other = (
            threads.submit(a.get_task),
            threads.submit(a.get_task, client="nobody"),
            threads.submit(b.get_task),
        )
        has_read(server, 4, early, late, stranger, other)
        assert not any(call.done() for call in (early, late, stranger, other))
        end.go.set()
        assert job.outcome().status == status
        second = Rounds(1, 10, ["a", "b"])
        job.serve(second)
        assert stranger.result(10).rc == "NOT_JOINED"
        assert b.submit("train", other.result(10).meta["task_id"], model(1.0, 10)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
        # whichever of the two was handled last
        assert {early.result(10).rc, late.result(10).rc} == {"SUPERSEDED", "JOB_ENDED"}
    assert second.total == 2.0


def test_a_server_that_leaves_a_job_that_cannot_resume_leaves_its_sites_to_the_next(job: JobRuns) -> None:
    begun = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast(one := task(), fl_ctx, targets=["b"] if not begun.is_set() else ["a"])
        begun.set()
        controller.wait(one, abort)

    server = job.serve(flow)
    job.join("a", echo)
    job.joined("a")
    assert begun.wait(10)
    server.leave("an update")
    assert (job.outcome().status, job.outcome().reason) == (STOPPED, "an update")
    assert job.sites[0][1].running
    job.serve(flow)
    assert job.outcome().status == COMPLETED
    assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED]


def test_a_server_that_is_told_to_leave_before_it_serves_has_left(job: JobRuns, threads: ThreadPoolExecutor) -> None:
    go = threading.Event()

    class Late(Rounds):
        def restore(self, state: dict[str, Any]) -> None:
            go.wait(20)
            super().restore(state)

    first = job.serve(Rounds(1, 10, ["a"]))
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        first.leave()
        assert job.outcome().status == STOPPED
        second = job.serve(Late(1, 10, ["a"]))
        answer = threads.submit(site.submit, "train", task_id, model(1.0, 10))
        wait_until(lambda: second._early or answer.done())
        second.leave()
        go.set()
        assert job.outcome().status == STOPPED
        assert not answer.done()
        third = Rounds(1, 10, ["a"])
        job.serve(third)
        assert answer.result(10).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert third.total == 1.0


@LEAVING
def test_the_state_of_a_controller_that_goes_on_after_its_run_is_over_is_not_stored(
    job: JobRuns, leave: Callable[[ServerJob], None], status: str
) -> None:
    class Careless(Rounds):
        """Does not look at the abort signal."""

        def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
            self.checkpoint(fl_ctx)
            while self.round < self.rounds:
                one = task(model(self.total, self.size), result_received_cb=self._take)
                self.broadcast_and_wait(one, fl_ctx, targets=self.sites, abort_signal=abort)
                self.round += 1
                self.checkpoint(fl_ctx)

    server = job.serve(Careless(2, BIG, ["a"]))
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        leave(server)
        assert job.outcome().status == status
        second = Careless(2, BIG, ["a"])
        job.serve(second)
        assert site.submit("train", task_id, model(1.0, BIG)).meta["verdict"] == "ACCEPT"
        site.submit("train", site.get_task().meta["task_id"], model(1.0, BIG))
        assert job.outcome().status == COMPLETED
    assert second.added == [(0, "a"), (1, "a")]


def test_an_interrupt_while_the_run_ends_leaves_what_comes_to_the_next_server(
    job: JobRuns, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping, go = threading.Event(), threading.Event()

    class Interrupted(Rounds):
        """A Ctrl-C comes when the control flow has ended with its task still open."""

        def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
            self.checkpoint(fl_ctx)
            self.broadcast(task(model(self.total, self.size), result_received_cb=self._take), fl_ctx, targets=["a"])
            got.wait(20)

        def stop_controller(self, fl_ctx: FLContext) -> None:
            raise KeyboardInterrupt

    got, stop_cell = threading.Event(), Cell.stop

    def slow(self: Cell, *args: Any) -> None:
        if self.fqcn == "server.job" and not go.is_set():
            stopping.set()
            go.wait(20)
        stop_cell(self, *args)

    monkeypatch.setattr(Cell, "stop", slow)
    server = job.serve(Interrupted(1, BIG, ["a"]))
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        got.set()
        assert stopping.wait(10)
        answer = threads.submit(site.submit, "train", task_id, model(1.0, BIG))
        has_read(server, 1, answer)
        go.set()
        with pytest.raises(KeyboardInterrupt):
            job.outcome()
        assert not answer.done()
        second = Rounds(1, BIG, ["a"])
        job.serve(second)
        assert answer.result(10).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert second.total == 1.0


@pytest.mark.parametrize("leaves", [True, False], ids=["left", "ended"])
def test_a_message_between_components_waits_for_the_next_server_only_if_there_will_be_one(
    job: JobRuns, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    stopping, go, stop_cell = threading.Event(), threading.Event(), Cell.stop

    def slow(self: Cell, *args: Any) -> None:
        if self.fqcn == "server.job" and not go.is_set():
            stopping.set()
            go.wait(20)
        stop_cell(self, *args)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        over = threading.Event()
        with abort.add_callback(over.set):
            over.wait(20)

    monkeypatch.setattr(Cell, "stop", slow)
    server = job.serve(flow)
    with RawSite(job, "a") as site:
        serving(server)
        if leaves:
            server.leave()
        else:
            server.abort("enough")
        assert stopping.wait(10)
        answer = threads.submit(site.host.cell.send_request, AUX, SEND, "server.job", {TO: "server"}, timeout=10.0)
        has_read(server, 1, answer)
        assert not (leaves and answer.done())
        go.set()
        assert job.outcome().status == (STOPPED if leaves else ABORTED)
        if leaves:
            job.serve(flow)
        assert (answer.result(10).rc == ReturnCode.SERVICE_UNAVAILABLE) is not leaves


@pytest.mark.parametrize("leaves", [True, False], ids=["left", "goes-on"])
def test_a_server_that_leaves_deletes_no_result_that_the_next_one_may_need(job: JobRuns, leaves: bool) -> None:
    journal = serving(job.serve(Rounds(1, 10, ["a"]))).journal
    result = EncodedPayload(b"", blob=BlobRef(prefix="flare:blob:result", chunk=1, sizes=(1,)))
    if leaves:
        journal.leave()
    assert journal.retains(result) is leaves
