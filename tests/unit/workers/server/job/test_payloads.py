"""Payloads that a job's server has stored: none is left behind, also when Redis is away or an earlier run left them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import fakeredis
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import Unavailable
from redflare_broker.job_state.task_store import ClientTaskRecord
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.util.owed_steps import OwedSteps
from redflare_broker.wire.task_entry import BlobRef
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.protocol.job_messages import RC_JOB_ENDED
from redflare_workers.protocol.job_outcome import COMPLETED, STOPPED
from redflare_workers.server.job.payloads import Payloads, RetainedResults

from tests.support.job.rounds import BIG, Rounds, model
from tests.support.job.runs import FunctionController, JobRuns, RawSite, serving, task
from tests.support.waiting import wait_until

STORED = EncodedPayload(b"", blob=BlobRef(prefix="flare:blob:result", chunk=1, sizes=(1,)))


class TaskStore:
    """Notes what it is told to discard; the first times Redis is away."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.discarded: list[str] = []

    def discard(self, payloads: Sequence[BlobRef]) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("Redis is away")
        self.discarded += [each.prefix for each in payloads]


def payloads_with(store: Any) -> Payloads:
    server: Any = SimpleNamespace(owed=OwedSteps())
    registration: Any = None
    return Payloads(server, store, registration, LinkSettings(), lambda: False)


def test_a_payload_that_cannot_be_deleted_while_redis_is_away_is_deleted_with_a_later_heartbeat() -> None:
    store = TaskStore(away=2)
    payloads = payloads_with(store)
    payloads.release([STORED, None])
    owed = payloads.server.owed
    assert (store.discarded, len(owed)) == ([], 1)

    def beat_until_done() -> bool:
        owed.begin()
        return not len(owed)

    wait_until(beat_until_done)
    assert store.discarded == ["flare:blob:result"]


def test_a_result_that_is_noted_after_the_end_of_the_job_is_not_kept() -> None:
    """Nobody would delete it: what was kept is released by then."""
    store: Any = TaskStore()
    payloads = payloads_with(store)
    results = RetainedResults(store, payloads.registration, payloads)
    record = ClientTaskRecord(id="1", client="a", sent=1.0, received=2.0, result=STORED)
    results.retain([record])
    assert STORED in results
    results.release_all()
    assert (STORED in results, store.discarded) == (False, ["flare:blob:result"])
    results.retain([record])
    assert STORED not in results


def test_a_server_that_begins_anew_deletes_what_an_earlier_run_has_stored(
    job: JobRuns, redis: fakeredis.FakeRedis
) -> None:
    go = threading.Event()

    def first(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.broadcast_and_wait(task(model(1.0, BIG)), fl_ctx, targets=["a"], abort_signal=abort)

    def second(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        with abort.add_callback(go.set):
            go.wait(20)

    server = job.serve(first)
    with RawSite(job, "a") as site:
        blob = site.get_task().encoded.blob
        assert blob is not None
        pattern = f"{blob.prefix}:*"
        server.leave("an update")
        assert job.outcome().status == STOPPED
        assert list(redis.scan_iter(pattern))
        job.serve(second)
        wait_until(lambda: not list(redis.scan_iter(pattern)))
        go.set()
        assert job.outcome().status == COMPLETED


def test_a_large_result_that_waited_for_a_task_that_is_never_taken_up_goes_with_the_job(job: JobRuns) -> None:
    go = threading.Event()

    class Forgetting(Rounds):
        """Schedules nothing after it was restored."""

        def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
            if self.restored:
                go.wait(20)
            else:
                super()._flow(controller, abort, fl_ctx)

    server = job.serve(Forgetting(1, 10, ["a"]))
    with RawSite(job, "a") as site, ThreadPoolExecutor(1) as threads:
        task_id = site.get_task().meta["task_id"]
        server.leave("an update")
        assert job.outcome().status == STOPPED
        recovery = serving(job.serve(Forgetting(1, 10, ["a"]))).journal.recovery
        answer = threads.submit(site.submit, "train", task_id, model(1.0, BIG))
        wait_until(lambda: "1 submissions wait" in repr(recovery))
        go.set()
        assert job.outcome().status == COMPLETED
        assert answer.result(10).rc == RC_JOB_ENDED
