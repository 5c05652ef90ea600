"""A server that dies or is replaced, and a Redis that loses all data, in the middle of a job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import fakeredis
import numpy as np
import pytest
from redflare_broker.cell.request import Request
from redflare_workers.apis.dxo import DXO, DataKind, from_shareable
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, TaskCompletionStatus
from redflare_workers.protocol.job_outcome import ABORTED, COMPLETED, FENCED
from redflare_workers.protocol.shareable_codec import from_message

from tests.support.job.rounds import BIG, SIZES, Rounds, model
from tests.support.job.runs import (
    FunctionController,
    FunctionExecutor,
    JobRuns,
    RawSite,
    parked_requests,
    serving,
    task,
    until_aborted,
)
from tests.support.waiting import wait_until


def one_each(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
    return DXO(DataKind.WEIGHTS, {"w": np.ones_like(from_shareable(data).data["w"])}).to_shareable()


def held_until(event: threading.Event) -> Callable[..., Shareable]:
    def work(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        event.wait(20)
        return one_each(name, data, fl_ctx, abort)

    return work


# -- another server takes over -----------------------------------------------------------------------------------------


@SIZES
def test_a_controller_that_resumes_gets_accepted_results_again_and_no_site_trains_twice(
    job: JobRuns, size: int
) -> None:
    go, came = threading.Event(), threading.Event()
    first = Rounds(2, size, ["a", "b"], lambda name: came.set())
    quick, slow = FunctionExecutor(one_each), FunctionExecutor(held_until(go))
    server = job.serve(first)
    job.join("a", quick)
    job.join("b", slow)
    assert came.wait(10)
    wait_until(lambda: slow.done)
    results = serving(server).results
    wait_until(lambda: not results._in_hand)
    # a new process of the same name: the older one is fenced, which has the effect of its death
    second = Rounds(2, size, ["a", "b"])
    job.serve(second)
    assert job.servers[0][1].outcome().status == FENCED
    go.set()
    assert job.outcome().status == COMPLETED
    assert second.restored == 1
    assert sorted(second.added) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert second.total == 4.0
    assert (len(quick.done), len(slow.done)) == (2, 2)
    assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED, COMPLETED]


def test_a_site_that_gets_a_task_while_its_record_is_being_written_is_recorded(
    job: JobRuns, redis: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply, overtaken = Request.reply, threading.Event()

    def late(self: Request, *args: Any, with_commands: Any = (), **more: Any) -> None:
        if len(with_commands) > 1:
            overtaken.wait(0.3)
        reply(self, *args, with_commands=with_commands, **more)
        overtaken.set()

    monkeypatch.setattr(Request, "reply", late)
    both_have_it = threading.Barrier(2, timeout=20)
    noted: list[int] = []

    def work(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        both_have_it.wait()
        if name == "train":
            standing: Any = redis.zrange("flare:{server.job}:standing", 0, -1)
            ledger: Any = redis.hkeys(f"flare:{{server.job}}:task:{standing[0].decode()}")
            noted.append(sum(key.startswith(b"client:") for key in ledger))
        both_have_it.wait()
        return one_each(name, data, fl_ctx, abort)

    job.join("a", work)
    job.join("b", work)
    job.serve(Rounds(1, 10, ["a", "b"]))
    assert job.outcome().status == COMPLETED
    assert noted == [2, 2]


@SIZES
def test_a_task_that_had_ended_is_resumed_and_ends_again_before_the_next_checkpoint(job: JobRuns, size: int) -> None:
    class Pausing(Rounds):
        """Blocks for ever before the checkpoint, or the task, of a round."""

        def __init__(self, before: str, round_number: int) -> None:
            super().__init__(3, size, ["a"])
            self.pause = before, round_number
            self.paused = threading.Event()

        def _stop_at(self, where: str, abort: Signal) -> None:
            if self.pause == (where, self.round):
                gone = threading.Event()
                self.paused.set()
                with abort.add_callback(gone.set):
                    gone.wait(20)

        def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
            while self.round < self.rounds and not abort.triggered:
                self._stop_at("checkpoint", abort)
                self.checkpoint(fl_ctx)
                self._stop_at("task", abort)
                one = task(model(self.total, self.size), result_received_cb=self._take)
                self.broadcast_and_wait(one, fl_ctx, targets=self.sites, abort_signal=abort)
                self.round += 1

    executor = FunctionExecutor(one_each)
    job.join("a", executor)
    controllers = [Pausing("checkpoint", 1), Pausing("task", 1), Pausing("", 0)]
    for controller in controllers:
        job.serve(controller)
        if controller.pause[0]:
            assert controller.paused.wait(10)
    assert job.outcome().status == COMPLETED
    # the second server recovered the result of the first round, the third one the state after it
    assert [each.added for each in controllers] == [[(0, "a")], [(0, "a")], [(1, "a"), (2, "a")]]
    assert controllers[-1].total == 3.0
    assert len(executor.done) == 3


@pytest.mark.parametrize("where", ["in the callback", "in the flow"])
@SIZES
def test_a_result_that_a_checkpoint_contains_is_not_given_to_the_controller_again(
    job: JobRuns, size: int, where: str
) -> None:
    class Keeping(Rounds):
        """Writes a checkpoint in the middle of a task, after the first result."""

        def __init__(self) -> None:
            super().__init__(1, size, ["a", "b", "c"])
            self.kept = threading.Event()

        def _keep(self, fl_ctx: FLContext) -> None:
            if not self.kept.is_set():
                self.checkpoint(fl_ctx)
                self.kept.set()

        def _take(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
            super()._take(client_task, fl_ctx)
            if where == "in the callback":
                self._keep(fl_ctx)

        def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
            one = task(model(self.total, self.size), result_received_cb=self._take)
            self.broadcast(one, fl_ctx, targets=self.sites)
            if where == "in the flow" and not self.restored:
                wait_until(lambda: one.client_tasks and one.client_tasks[0].result_received_time)
                self._keep(fl_ctx)
            self.wait(one, abort)

    first, second = Keeping(), Keeping()
    job.serve(first)
    with RawSite(job, "a") as a, RawSite(job, "b") as b, RawSite(job, "c") as c:
        ids = [site.get_task().meta["task_id"] for site in (a, b, c)]
        assert a.submit("train", ids[0], model(1.0, size)).meta["verdict"] == "ACCEPT"
        assert first.kept.wait(10)
        assert b.submit("train", ids[1], model(10.0, size)).meta["verdict"] == "ACCEPT"
        second.kept.set()
        job.serve(second)
        assert job.servers[0][1].outcome().status == FENCED
        assert c.submit("train", ids[2], model(100.0, size)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert second.total == 111.0
    assert [name for _, name in second.added] == ["b", "c"]


def test_a_result_that_arrives_before_its_task_is_resumed_waits_for_it(job: JobRuns) -> None:
    first = Rounds(1, BIG, ["a"])
    job.serve(first)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        go = threading.Event()

        class Late(Rounds):
            def start_controller(self, fl_ctx: FLContext) -> None:
                go.wait(20)

        second = Late(1, BIG, ["a"])
        server = job.serve(second)
        assert job.servers[0][1].outcome().status == FENCED
        verdicts: list[str] = []
        result = model(1.0, BIG)
        thread = threading.Thread(target=lambda: verdicts.append(site.submit("train", task_id, result).meta["verdict"]))
        thread.start()
        wait_until(lambda: serving(server).recovery._early)
        assert verdicts == []
        go.set()
        thread.join(10)
        assert verdicts == ["ACCEPT"]
        assert job.outcome().status == COMPLETED
    assert second.total == 1.0


def test_a_relay_that_is_resumed_is_still_with_the_site_that_came_into_it_last(job: JobRuns) -> None:
    ended: list[object] = []

    class Relaying(Rounds):
        def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
            self.checkpoint(fl_ctx)
            one = task(model(0.0, 10))
            self.relay_and_wait(one, fl_ctx, targets=["a", "b"], task_result_timeout=1, abort_signal=abort)
            if not abort.triggered:
                ended.append(one.completion_status)

    job.serve(Relaying(1, 10, []))
    with RawSite(job, "a") as given_up, RawSite(job, "b") as last:
        task_id = given_up.get_task().meta["task_id"]
        its_id = last.get_task().meta["task_id"]
        assert given_up.get_task().meta["task_id"] == task_id
        job.serve(Relaying(1, 10, []))
        assert job.servers[0][1].outcome().status == FENCED
        assert last.submit("train", its_id, model(1.0, 10)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert ended == [TaskCompletionStatus.OK]


def test_a_task_that_is_not_resumed_ends_and_its_results_are_dropped(job: JobRuns) -> None:
    first = Rounds(1, BIG, ["a"])
    job.serve(first)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        go = threading.Event()

        class Other(Rounds):
            def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
                go.wait(20)
                self.checkpoint(fl_ctx)
                self.send_and_wait(task(name="other"), fl_ctx, targets=["a"], abort_signal=abort)
                self.checkpoint(fl_ctx)

        second = Other(1, BIG, ["a"])
        server = job.serve(second)
        assert job.servers[0][1].outcome().status == FENCED
        verdicts: list[str] = []
        thread = threading.Thread(
            target=lambda: verdicts.append(site.submit("train", task_id, model(1.0, BIG)).meta["verdict"])
        )
        thread.start()
        wait_until(lambda: serving(server).recovery._early)
        go.set()
        other = site.get_task()
        assert other.meta["task_name"] == "other"
        site.submit("other", other.meta["task_id"], Shareable())
        thread.join(10)
        assert verdicts == ["UNKNOWN"]
        assert job.outcome().status == COMPLETED


@SIZES
def test_a_controller_that_does_not_resume_begins_anew_and_the_sites_take_part(job: JobRuns, size: int) -> None:
    go = threading.Event()
    executor = FunctionExecutor(held_until(go))

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast_and_wait(task(model(0.0, size)), fl_ctx, targets=["a"], abort_signal=abort)

    job.serve(flow)
    job.join("a", executor)
    wait_until(lambda: executor.done)
    controller = FunctionController(flow)
    job.serve(controller)
    assert job.servers[0][1].outcome().status == FENCED
    go.set()
    assert job.outcome().status == COMPLETED
    assert len(executor.done) == 2
    assert [client for client, *_ in controller.unknown] == ["a"]


def test_a_replaced_server_leaves_payloads_and_client_tasks_unchanged(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    first = Rounds(1, BIG, ["a", "b"])
    job.serve(first)
    with RawSite(job, "a") as site, RawSite(job, "b") as other:
        task_id = site.get_task().meta["task_id"]
        payloads = set(redis.scan_iter("*blob:*"))
        assert payloads
        go = threading.Event()

        class Late(Rounds):
            def start_controller(self, fl_ctx: FLContext) -> None:
                go.wait(20)

        second = Late(1, BIG, ["a", "b"])
        job.serve(second)
        assert job.servers[0][1].outcome().status == FENCED
        assert payloads <= set(redis.scan_iter("*blob:*"))
        assert site.events == []
        go.set()
        again = other.get_task()
        assert (again.encoded.blob is not None, again.keep) == (True, True)
        assert site.get_task().meta["task_id"] == task_id
        for each, their in ((site, task_id), (other, again.meta["task_id"])):
            assert each.submit("train", their, model(1.0, BIG)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED


def test_an_aborted_job_does_not_resume_when_its_server_is_restarted(job: JobRuns) -> None:
    first = Rounds(1, 10, ["a"])
    server = job.serve(first)
    executor = FunctionExecutor(until_aborted)
    job.join("a", executor)
    wait_until(lambda: executor.done)
    server.abort()
    assert job.outcome().status == ABORTED
    job.site_outcomes()
    second = Rounds(1, 10, ["b"])
    again = job.serve(second)
    # a request before it has begun gets the outcome of the job of that name
    serving(again)
    job.join("b", one_each)
    assert job.outcome().status == COMPLETED
    assert second.restored == 0


# -- Redis loses everything --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [True, False], ids=["resuming", "plain"])
@SIZES
def test_a_job_continues_when_redis_loses_all_data_while_its_sites_train(
    job: JobRuns, redis: fakeredis.FakeRedis, size: int, resume: bool
) -> None:
    go = threading.Event()
    controller = Rounds(3, size, ["a", "b"])
    controller.resume = resume
    executors = [FunctionExecutor(held_until(go)), FunctionExecutor(held_until(go))]
    job.serve(controller)
    job.join("a", executors[0])
    job.join("b", executors[1])
    wait_until(lambda: executors[0].done and executors[1].done)
    redis.flushall()
    go.set()
    assert job.outcome().status == COMPLETED
    assert controller.total == 6.0
    assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED, COMPLETED]


@SIZES
def test_a_job_continues_when_redis_loses_all_data_while_its_sites_wait(
    job: JobRuns, redis: fakeredis.FakeRedis, size: int
) -> None:
    go, lost = threading.Event(), threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast_and_wait(task(model(0.0, size)), fl_ctx, targets=["a", "b"], abort_signal=abort)
        go.set()
        lost.wait(20)
        controller.broadcast_and_wait(task(model(1.0, size)), fl_ctx, targets=["a", "b"], abort_signal=abort)

    server = job.serve(flow)
    job.join("a", one_each)
    job.join("b", one_each)
    assert go.wait(10)
    wait_until(lambda: len(parked_requests(server)) == 2)
    redis.flushall()
    lost.set()
    assert job.outcome().status == COMPLETED
    assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED, COMPLETED]


def test_the_lost_data_of_a_broadcast_is_stored_again_for_later_clients(
    job: JobRuns, redis: fakeredis.FakeRedis
) -> None:
    controller = Rounds(1, BIG, ["a", "b"])
    server = job.serve(controller)
    with RawSite(job, "a") as site, RawSite(job, "b") as late:
        job.joined("a", "b")
        task_id = site.get_task().meta["task_id"]
        redis.flushall()
        registration = serving(server).registration
        wait_until(lambda: registration.generation == 1)
        reply = late.get_task()
        blob = reply.encoded.blob
        assert blob is not None
        assert redis.exists(f"{blob.prefix}:0")
        for each, their in ((site, task_id), (late, reply.meta["task_id"])):
            assert each.submit("train", their, model(1.0, BIG)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED
    assert controller.total == 2.0


def test_a_payload_that_vanished_is_stored_once_however_many_sites_miss_it(
    job: JobRuns, redis: fakeredis.FakeRedis
) -> None:
    controller = Rounds(1, BIG, ["a", "b", "c"])
    job.serve(controller)
    with RawSite(job, "a") as a, RawSite(job, "b") as b, RawSite(job, "c") as c:
        replies = [site.get_task() for site in (a, b, c)]
        [prefix] = {reply.encoded.blob.prefix for reply in replies if reply.encoded.blob}
        redis.delete(*redis.scan_iter(f"{prefix}:*"))
        again = [
            site.get_task(lost=reply.meta["task_id"], payload=prefix)
            for site, reply in zip((a, b, c), replies, strict=True)
        ]
        assert [reply.meta["task_id"] for reply in again] == [reply.meta["task_id"] for reply in replies]
        [anew] = {reply.encoded.blob.prefix for reply in again if reply.encoded.blob}
        assert anew != prefix
        assert redis.exists(f"{anew}:0")
        for site, reply in zip((a, b, c), again, strict=True):
            site.submit("train", reply.meta["task_id"], model(1.0, BIG))
        assert job.outcome().status == COMPLETED


def test_a_server_that_dies_after_redis_lost_its_state_begins_anew(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    first, second = Rounds(2, 10, ["a", "b"]), Rounds(2, 10, ["a", "b"])
    server = job.serve(first)
    with RawSite(job, "a") as a, RawSite(job, "b") as b:
        ids = [site.get_task().meta["task_id"] for site in (a, b)]
        a.submit("train", ids[0], model(1.0, 10))
        redis.flushall()
        wait_until(lambda: serving(server).registration.generation)
        wait_until(lambda: list(redis.scan_iter("*:task:*")))
        job.serve(second)
        assert job.servers[0][1].outcome().status == FENCED
        for _ in range(2):
            for site in (a, b):
                reply = site.get_task()
                assert reply.meta["task_id"] not in ids
                site.submit("train", reply.meta["task_id"], model(1.0, 10))
        assert job.outcome().status == COMPLETED
    assert (second.restored, second.total) == (0, 4.0)


def test_a_state_whose_payload_has_vanished_lets_the_job_begin_anew(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    first, second = Rounds(1, BIG, ["a"]), Rounds(1, BIG, ["a"])
    job.serve(first)
    with RawSite(job, "a") as site:
        gone = site.get_task().meta["task_id"]
        redis.delete(*redis.scan_iter("*blob:*"))
        job.serve(second)
        assert job.servers[0][1].outcome().status == FENCED
        reply = site.get_task()
        assert reply.meta["task_id"] != gone
        site.submit("train", reply.meta["task_id"], model(1.0, 10))
        assert job.outcome().status == COMPLETED
    assert second.restored == 0


@pytest.mark.parametrize("changes", [False, True])
def test_a_broadcast_is_stored_again_only_for_sites_for_which_it_was_changed(
    job: JobRuns, redis: fakeredis.FakeRedis, changes: bool
) -> None:
    def fill(client_task: ClientTask, fl_ctx: Any) -> None:
        if changes:
            client_task.task.data["for"] = client_task.client.name

    def flow(controller: FunctionController, abort: Any, fl_ctx: Any) -> None:
        one = task(model(1.0, BIG), before_task_sent_cb=fill)
        controller.broadcast_and_wait(one, fl_ctx, targets=["a", "b", "c"], abort_signal=abort)

    job.serve(flow)
    with RawSite(job, "a") as a, RawSite(job, "b") as b, RawSite(job, "c") as c:
        sites = {"a": a, "b": b, "c": c}
        replies = {name: site.get_task() for name, site in sites.items()}
        prefixes = {reply.encoded.blob.prefix for reply in replies.values() if reply.encoded.blob}
        assert len(prefixes) == (3 if changes else 1)
        for name, reply in replies.items():
            data = from_message(reply.meta["message"], reply.encoded.decode(sites[name].host.server))
            assert data.get("for") == (name if changes else None)
            sites[name].submit("train", reply.meta["task_id"], model(1.0, 10))
        assert job.outcome().status == COMPLETED
        wait_until(lambda: not list(redis.scan_iter("*blob:*")))


def test_a_site_gets_its_own_data_of_a_server_that_took_over(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    class Named(Rounds):
        def _flow(self, controller: FunctionController, abort: Any, fl_ctx: Any) -> None:
            self.checkpoint(fl_ctx)
            one = task(model(1.0, BIG), before_task_sent_cb=self.fill)
            self.broadcast_and_wait(one, fl_ctx, targets=self.sites, abort_signal=abort)

        def fill(self, client_task: ClientTask, fl_ctx: Any) -> None:
            client_task.task.data["for"] = client_task.client.name

    job.serve(Named(1, BIG, ["a", "b"]))
    with RawSite(job, "a") as a, RawSite(job, "b") as b:
        before = a.get_task()
        job.serve(Named(1, BIG, ["a", "b"]))
        assert job.servers[0][1].outcome().status == FENCED
        for name, site in (("b", b), ("a", a)):
            reply = site.get_task()
            data = from_message(reply.meta["message"], reply.encoded.decode(site.host.server))
            assert data["for"] == name
            if name == "a":
                assert reply.meta["task_id"] == before.meta["task_id"]
            site.submit("train", reply.meta["task_id"], model(1.0, 10))
        assert job.outcome().status == COMPLETED
        wait_until(lambda: not list(redis.scan_iter("*blob:*")))
