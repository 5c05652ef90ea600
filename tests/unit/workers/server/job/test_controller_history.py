"""The history of a controller over restarts of its server, and over the loss of all data."""

from __future__ import annotations

import threading
from typing import Any

import fakeredis
import orjson
import pytest
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.protocol.job_outcome import COMPLETED, FAILED, STOPPED

from tests.support.job.runs import FunctionController, JobRuns, serving
from tests.support.waiting import wait_until

HISTORY = "flare:{server.job}:history"


class Appending(FunctionController):
    """Appends an entry for each step, and writes a checkpoint then; pauses before the steps ``pauses``."""

    def __init__(self, steps: int, *pauses: int) -> None:
        super().__init__(self._steps)
        self.resume = True
        self.steps, self.pauses = steps, pauses
        self.entries: list[Any] = []
        self.restored: list[Any] | None = None
        self.paused, self.go = threading.Semaphore(0), threading.Event()

    def state(self) -> dict[str, Any]:
        return {"steps": len(self.entries)}

    def restore(self, state: dict[str, Any]) -> None:
        assert state["steps"] == len(self.entries)

    def appended(self, start: int) -> list[Any]:
        return self.entries[start:]

    def restore_appended(self, history: list[Any]) -> None:
        self.entries, self.restored = history, list(history)

    def _steps(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        self.checkpoint(fl_ctx)
        while len(self.entries) < self.steps:
            if len(self.entries) in self.pauses:
                self.paused.release()
                with abort.add_callback(self.go.set):
                    self.go.wait(20)
                self.go.clear()
                if abort.triggered:
                    return
            self.entries.append({"step": len(self.entries)})
            self.checkpoint(fl_ctx)


def stored(redis: fakeredis.FakeRedis) -> list[Any]:
    found: Any = redis.hgetall(HISTORY)
    return [orjson.loads(found[number])["step"] for number in sorted(found, key=int)]


def test_a_successor_gets_the_history_and_appends_to_it(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    first, second = Appending(5, 2), Appending(5)
    server = job.serve(first)
    assert first.paused.acquire(timeout=10)
    server.leave()
    assert job.outcome().status == STOPPED
    assert stored(redis) == [0, 1]
    job.serve(second)
    assert job.outcome().status == COMPLETED
    assert second.restored == [{"step": 0}, {"step": 1}]
    assert stored(redis) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "flushed"])
def test_checkpoints_of_a_successor_count_although_it_has_scheduled_nothing(
    job: JobRuns, redis: fakeredis.FakeRedis, lost: bool
) -> None:
    first, second, third = Appending(9, 2), Appending(9, 2, 6), Appending(9)
    server = job.serve(first)
    assert first.paused.acquire(timeout=10)
    server.leave()
    assert job.outcome().status == STOPPED
    server = job.serve(second)
    assert second.paused.acquire(timeout=10)
    if lost:
        redis.flushall()
        wait_until(lambda: serving(server).registration.generation)
    second.go.set()
    assert second.paused.acquire(timeout=10)
    server.leave()
    assert job.outcome().status == STOPPED
    job.serve(third)
    assert job.outcome().status == COMPLETED
    assert third.restored == [{"step": number} for number in range(6)]
    assert stored(redis) == list(range(9))


def test_a_job_begins_anew_when_its_server_dies_behind_a_loss_before_the_next_checkpoint(
    job: JobRuns, redis: fakeredis.FakeRedis
) -> None:
    first, second = Appending(5, 2), Appending(3)
    server = job.serve(first)
    assert first.paused.acquire(timeout=10)
    redis.flushall()
    wait_until(lambda: serving(server).registration.generation)
    server.leave()
    assert job.outcome().status == STOPPED
    job.serve(second)
    assert job.outcome().status == COMPLETED
    assert second.restored is None
    assert stored(redis) == [0, 1, 2]


@pytest.mark.parametrize("lost", ["everything", "the history", "the end of it"])
def test_a_history_that_redis_has_lost_is_written_again(job: JobRuns, redis: fakeredis.FakeRedis, lost: str) -> None:
    controller = Appending(4, 3)
    server = job.serve(controller)
    assert controller.paused.acquire(timeout=10)
    if lost == "everything":
        redis.flushall()
        wait_until(lambda: serving(server).registration.generation)
    elif lost == "the history":
        redis.delete(HISTORY)
    else:
        redis.hdel(HISTORY, "2")
    controller.go.set()
    assert job.outcome().status == COMPLETED
    assert stored(redis) == [0, 1, 2, 3]


def test_a_job_that_begins_anew_has_a_history_of_its_own(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    first, second = Appending(5, 3), Appending(1)
    server = job.serve(first)
    assert first.paused.acquire(timeout=10)
    server.leave()
    job.outcome()
    # its state cannot be read any more
    redis.hset("flare:{server.job}:job", "state_data", "no JSON")
    job.serve(second)
    assert job.outcome().status == COMPLETED
    assert second.restored is None
    assert stored(redis) == [0]


def test_an_entry_that_is_no_json_value_is_an_error(job: JobRuns) -> None:
    controller = Appending(1)
    controller.entries = [object()]
    job.serve(controller)
    outcome = job.outcome()
    assert outcome.status == FAILED
    assert "an entry of the history must be a JSON value, but is <object" in outcome.reason
