"""What a job's server looks after while its controller waits: registration, records, and the lives of payloads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
from redflare_broker.errors import Unavailable
from redflare_broker.job_state.members import Members
from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.protocol.job_messages import RC_JOB_ENDED
from redflare_workers.protocol.job_outcome import COMPLETED
from redflare_workers.server.job import payloads
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.server.job.task_journal import TaskJournal

from tests.support.job.rounds import BIG, Rounds, model
from tests.support.job.runs import FunctionController, JobRuns, RawSite, parked_requests, prefix_of, serving, task
from tests.support.waiting import wait_until

JOB = "flare:{server.job}:job"


@pytest.mark.parametrize("resume", [True, False])
def test_a_job_that_redis_lost_under_a_cell_that_it_knows_is_registered_again(
    job: JobRuns, redis: fakeredis.FakeRedis, resume: bool
) -> None:
    """Nobody asks for anything: the server's own heartbeat finds it out, and writes the open task again."""
    controller = Rounds(1, 10, ["a"])
    controller.resume = resume
    job.serve(controller)
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        [record] = redis.scan_iter("flare:{server.job}:task:*")
        run = redis.hget(JOB, "run")
        redis.delete(JOB, record, "flare:{server.job}:standing")
        wait_until(lambda: redis.hget(JOB, "run") == run)
        wait_until(lambda: redis.hget(record, "status") == b"STANDING")
        # its client tasks follow
        wait_until(lambda: redis.hexists(record, f"client:{task_id}"))
        assert site.submit("train", task_id, model(1.0, 10)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED


@pytest.mark.parametrize("how", ["answered", "cancelled"])
def test_the_payloads_of_a_task_go_at_its_end_and_not_with_the_job(
    job: JobRuns, redis: fakeredis.FakeRedis, how: str
) -> None:
    cancel, hold = threading.Event(), threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast(one := task(model(1.0, BIG)), fl_ctx, targets=["a"])
        if how == "cancelled":
            cancel.wait(20)
            controller.cancel_task(one)
        controller.wait(one, abort)
        hold.wait(20)

    job.serve(flow)
    with RawSite(job, "a") as site:
        reply = site.get_task()
        assert list(redis.scan_iter(f"{prefix_of(reply)}:*"))
        if how == "answered":
            assert site.submit("train", reply.meta["task_id"], model(2.0, BIG)).meta["verdict"] == "ACCEPT"
        cancel.set()
        wait_until(lambda: not list(redis.scan_iter("*:blob:*")))
        wait_until(lambda: not redis.exists("flare:{server.job}:blobs"))
        hold.set()
        assert job.outcome().status == COMPLETED


def test_the_heartbeats_of_a_server_renew_what_its_sites_will_read(
    job: JobRuns, redis: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.serve(Rounds(1, BIG, ["a"]))
    with RawSite(job, "a") as site:
        reply = site.get_task()
        keys = [f"{prefix_of(reply)}:0", "flare:{server.job}:blobs", *redis.scan_iter("flare:{server.job}:task:*")]
        for key in keys:
            redis.pexpire(key, 10_000)
        later = time.monotonic() + job.settings.policy.retention
        monkeypatch.setattr(payloads, "time", SimpleNamespace(monotonic=lambda: later, time=time.time))
        for key in keys:
            wait_until(lambda key=key: redis.pttl(key) > 10_000)  # type: ignore[misc]
        assert site.submit("train", reply.meta["task_id"], model(1.0, 10)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED


def test_a_task_that_was_not_written_before_its_end_is_seen_with_its_end(
    job: JobRuns, redis: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, go = threading.Event(), threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast(one := task(), fl_ctx, targets=["nobody"])
        controller.cancel_task(one)
        controller.wait(one, abort)
        ended.set()
        go.wait(20)

    monkeypatch.setattr(TaskJournal, "write_new", lambda self: None)
    job.serve(flow)
    assert ended.wait(10)
    [record] = redis.scan_iter("flare:{server.job}:task:*")
    assert (redis.hget(record, "name"), redis.hget(record, "status")) == (b"train", b"cancelled")
    go.set()
    assert job.outcome().status == COMPLETED


def test_the_next_client_task_writes_the_record_that_the_first_one_could_not(
    job: JobRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduled: list[Task] = []
    go = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast(one := task(), fl_ctx, targets=["a"])
        scheduled.append(one)
        go.wait(20)

    def fails(commands: list[Any]) -> None:
        sent.append(commands)
        raise Unavailable("Redis is away")

    monkeypatch.setattr(TaskJournal, "write_new", lambda self: None)
    journal = serving(job.serve(flow)).journal
    wait_until(lambda: scheduled)
    client_task, sent = ClientTask(Client("a", "t"), scheduled[0]), list[list[Any]]()
    with pytest.raises(Unavailable):
        journal.hand_out(client_task, fails)
    journal.hand_out(client_task, sent.append)
    # now it is written, and only the client task is to be noted
    journal.hand_out(client_task, sent.append)
    assert [len(commands) for commands in sent] == [len(sent[0]), len(sent[0]), 1]
    assert len(sent[0]) > 1
    go.set()
    assert job.outcome().status == COMPLETED


def test_a_task_for_a_silent_site_waits_for_its_heartbeat_and_is_seen_in_redis_meanwhile(
    job: JobRuns, redis: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        go.wait(20)
        controller.broadcast_and_wait(task(), fl_ctx, targets=["a"], abort_signal=abort)

    # the test alone says whose heartbeats are missed
    monkeypatch.setattr(ServerJob, "_on_members", lambda self, members: None)
    server = job.serve(flow)
    with RawSite(job, "a") as site, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(site.get_task)
        wait_until(lambda: len(parked_requests(server)) == 1)
        running = serving(server)
        [member] = running.read_members()
        running.clients.update([replace(member, heartbeat_ms=1)])
        go.set()
        wait_until(lambda: list(redis.scan_iter("flare:{server.job}:task:*")))
        assert len(parked_requests(server)) == 1
        running.clients.update([member])
        assert site.submit("train", answer.result(10).meta["task_id"], model(1.0, 10)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED


def test_a_result_that_comes_when_the_end_of_the_job_is_being_written_is_refused(
    job: JobRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, written, joined, end = threading.Event(), threading.Event(), threading.Event(), Members.end

    def slow(self: Members, *args: Any) -> None:
        ending.set()
        written.wait(20)
        end(self, *args)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        joined.wait(20)

    monkeypatch.setattr(Members, "end", slow)
    job.serve(flow)
    with RawSite(job, "a") as site:
        joined.set()
        assert ending.wait(10)
        reply = site.submit("train", "1", model(1.0, BIG))
        written.set()
        assert reply.rc == RC_JOB_ENDED
        assert job.outcome().status == COMPLETED


def test_a_job_that_redis_has_lost_is_registered_again_when_its_sites_are_looked_up(
    job: JobRuns, redis: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        go.wait(20)

    # no heartbeat finds it out first
    monkeypatch.setattr(ServerJob, "_on_members", lambda self, members: None)
    running = serving(job.serve(flow))
    redis.delete(JOB)
    running.read_members()
    assert (redis.exists(JOB), running.registration.generation) == (1, 1)
    go.set()
    assert job.outcome().status == COMPLETED
