"""Servers that are replaced, and those that follow: nothing is answered too early, dropped, or counted twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fakeredis
import numpy as np
import pytest
from redflare_workers.apis.dxo import DXO, DataKind
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.protocol.job_outcome import ABORTED, COMPLETED, FENCED, STOPPED
from redflare_workers.server.job.server_job import ServerJob

from tests.support.job.hold import Hold
from tests.support.job.rounds import BIG, SIZES, Rounds, model
from tests.support.job.runs import FunctionController, JobRuns, RawSite, prefix_of, serving, task
from tests.support.waiting import wait_until


def chunks(redis: fakeredis.FakeRedis, prefix: str) -> int:
    return len(list(redis.scan_iter(f"{prefix}:*")))


@SIZES
def test_a_result_whose_task_ends_as_its_server_leaves_is_the_next_servers(
    job: JobRuns, threads: ThreadPoolExecutor, size: int
) -> None:
    """It is being handled when the task is ended under it: FINISHED would be true for this run alone."""
    before, end = Hold(EventType.BEFORE_PROCESS_SUBMISSION), Hold(EventType.END_RUN)
    server = job.serve(Rounds(1, size, ["a"]), components={"before": before, "end": end})
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        answer = threads.submit(site.submit, "train", task_id, model(1.0, size))
        assert before.inside.wait(10)
        server.leave("the test says so")
        assert end.inside.wait(10)
        before.go.set()
        end.go.set()
        assert job.outcome().status == STOPPED
        assert not answer.done()
        second = Rounds(1, size, ["a"])
        job.serve(second)
        assert answer.result(10).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert (second.total, second.added) == (1.0, [(0, "a")])


def test_the_payload_of_a_task_that_a_fenced_server_ends_is_left_to_its_successor(
    job: JobRuns, redis: fakeredis.FakeRedis
) -> None:
    cancel = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast(one := task(model(1.0, BIG)), fl_ctx, targets=["a"])
        cancel.wait(20)
        controller.cancel_task(one)
        controller.wait(one, abort)

    controller = FunctionController(flow)
    controller.resume = True
    job.serve(controller)
    with RawSite(job, "a") as site:
        prefix = prefix_of(site.get_task())
        stored = chunks(redis, prefix)
        assert stored
        # another server has the cell; this one is not told yet
        redis.hset("flare:{server.job}:cell", mapping={"instance": "h:1:newer", "epoch": 1 << 52})
        cancel.set()
        assert job.outcome().status == FENCED
        assert chunks(redis, prefix) == stored
        # there is no successor that could
        redis.delete(*redis.scan_iter(f"{prefix}:*"))


@SIZES
def test_a_result_that_a_checkpoint_contains_is_not_counted_again_when_it_is_noted_after_it(
    job: JobRuns, threads: ThreadPoolExecutor, size: int
) -> None:
    after, added, kept = Hold(EventType.AFTER_PROCESS_SUBMISSION), threading.Event(), threading.Event()

    class Keeping(Rounds):
        """Writes a checkpoint, in its own thread, behind each result."""

        def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
            self.checkpoint(fl_ctx)
            self.broadcast(
                one := task(model(0.0, self.size), result_received_cb=self._take), fl_ctx, targets=["a", "b"]
            )
            if not self.restored:
                added.wait(20)
                self.checkpoint(fl_ctx)
                kept.set()
            self.wait(one, abort)

    first = Keeping(1, size, ["a", "b"], lambda name: added.set())
    server = job.serve(first, components={"after": after})
    with RawSite(job, "a") as a, RawSite(job, "b") as b:
        answer = threads.submit(a.submit, "train", a.get_task().meta["task_id"], model(1.0, size))
        task_of_b = b.get_task().meta["task_id"]
        assert kept.wait(10)
        after.go.set()
        assert answer.result(10).meta["verdict"] == "ACCEPT"
        server.leave("the test says so")
        assert job.outcome().status == STOPPED
        second = Keeping(1, size, ["a", "b"])
        job.serve(second)
        assert b.submit("train", task_of_b, model(2.0, size)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert (second.restored, second.added, second.total) == (1, [(0, "b")], 3.0)


def test_a_job_whose_checkpoint_is_gone_begins_anew_although_it_has_accepted_results(
    job: JobRuns, redis: fakeredis.FakeRedis
) -> None:
    """Their task must not be taken up: what the lost state contained would be missing in its end."""
    one_in = threading.Event()

    class Keeping(Rounds):
        """Has a checkpoint that contains the first result, and none before."""

        def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
            one = task(model(0.0, 10), result_received_cb=self._take)
            self.broadcast_and_wait(one, fl_ctx, targets=self.sites, abort_signal=abort)

        def _take(self, client_task: Any, fl_ctx: FLContext) -> None:
            super()._take(client_task, fl_ctx)
            if len(self.added) == 1:
                self.checkpoint(fl_ctx)
                one_in.set()

    server = job.serve(Keeping(1, 10, ["a", "b"]))
    with RawSite(job, "a") as a, RawSite(job, "b") as b:
        assert a.submit("train", a.get_task().meta["task_id"], model(1.0, 10)).meta["verdict"] == "ACCEPT"
        task_of_b = b.get_task().meta["task_id"]
        assert one_in.wait(10)
        server.leave("the test says so")
        assert job.outcome().status == STOPPED
        names: list[Any] = [name for name in redis.hgetall("flare:{server.job}:job") if b"state" in name]
        assert names
        redis.hdel("flare:{server.job}:job", *names)
        second = Keeping(1, 10, ["a", "b"])
        job.serve(second)
        assert b.submit("train", task_of_b, model(2.0, 10)).meta["verdict"] in ("UNKNOWN", "FINISHED")
        for site, value in ((a, 3.0), (b, 4.0)):
            assert site.submit("train", site.get_task().meta["task_id"], model(value, 10)).ok
        assert job.outcome().status == COMPLETED
    assert (second.restored, second.total) == (0, 7.0)


@SIZES
def test_a_successor_counts_accepted_results_in_the_order_in_which_they_came(job: JobRuns, size: int) -> None:
    sites = ["a", "b", "c"]
    server = job.serve(Rounds(1, size, sites))
    with RawSite(job, "a") as a, RawSite(job, "b") as b, RawSite(job, "c") as c:
        ids = {site: site.get_task().meta["task_id"] for site in (a, b, c)}
        for site in (c, a):
            assert site.submit("train", ids[site], model(1.0, size)).meta["verdict"] == "ACCEPT"
        server.leave("the test says so")
        assert job.outcome().status == STOPPED
        second = Rounds(1, size, sites)
        job.serve(second)
        assert b.submit("train", ids[b], model(1.0, size)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert second.added == [(0, "c"), (0, "a"), (0, "b")]


def test_a_site_cannot_make_the_server_drop_what_another_site_reads(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast_and_wait(task(model(1.0, BIG)), fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow)
    with RawSite(job, "a") as a, RawSite(job, "b") as b:
        reply = a.get_task()
        prefix, task_id = prefix_of(reply), reply.meta["task_id"]
        assert b.ask("get_task", lost=task_id, payload=prefix, timeout=0.2).rc == "TIMEOUT"
        assert chunks(redis, prefix)
        # its own is stored again
        again = a.get_task(lost=task_id, payload=prefix)
        assert prefix_of(again) != prefix
        wait_until(lambda: not chunks(redis, prefix))
        assert a.submit("train", task_id, model(2.0, 10)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED


def test_a_small_model_that_the_controller_changes_at_once_reaches_every_site_as_it_was(job: JobRuns) -> None:
    weights, changed = np.zeros(10, np.float32), threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        data = DXO(DataKind.WEIGHTS, {"w": weights}).to_shareable()
        controller.broadcast(one := task(data), fl_ctx, targets=["a", "b"])
        changed.wait(20)
        controller.wait(one, abort)

    job.serve(flow)
    with RawSite(job, "a") as a, RawSite(job, "b") as b:
        first = a.get_task()
        weights += 1.0
        changed.set()
        second = b.get_task()
        assert first.data["w"].tolist() == second.data["w"].tolist() == [0.0] * 10
        for site, reply in ((a, first), (b, second)):
            assert site.submit("train", reply.meta["task_id"], model(2.0, 10)).ok
        assert job.outcome().status == COMPLETED


def test_a_server_that_finds_its_job_ended_when_it_would_register_it_again_is_aborted(
    job: JobRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        over = threading.Event()
        with abort.add_callback(over.set):
            over.wait(20)

    # no heartbeat finds it out first
    monkeypatch.setattr(ServerJob, "_on_members", lambda self, members: None)
    ending = serving(job.serve(flow))
    registration = ending.registration
    with ending.server.borrow(registration.members.keys.job) as connection:
        registration.members.end(connection, registration.lease, ABORTED, "an operator has ended it")
    ending.begin_again()
    outcome = job.outcome()
    assert (outcome.status, "an operator has ended it" in outcome.reason) == (ABORTED, True)
