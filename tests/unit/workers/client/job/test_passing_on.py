"""Results that an executor passes on undecoded: who deletes their payload depends on whether the server has them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
from redflare_workers.apis.executor import Executor
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask
from redflare_workers.protocol.job_outcome import COMPLETED

from tests.support.job.rounds import BIG, model
from tests.support.job.runs import FunctionController, JobRuns, task
from tests.support.waiting import wait_until


class PassingOn(Executor):
    """Returns what it is given, undecoded; ``released`` lists what it is told of that."""

    accepts_encoded = True

    def __init__(self) -> None:
        super().__init__()
        self.released: list[bool] = []

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        return shareable

    def release_result(self, handed_over: bool) -> None:
        self.released.append(handed_over)


@pytest.fixture
def job() -> Iterator[JobRuns]:
    with JobRuns(fakeredis.FakeRedis(server=fakeredis.FakeServer())) as runs:
        yield runs


@pytest.mark.parametrize("confirmed", [True, False], ids=["confirmed", "given-up"])
def test_a_result_is_handed_over_only_if_the_server_has_confirmed_it(job: JobRuns, confirmed: bool) -> None:
    """The agent that made it still has one that was given up, and the next process of the site submits that."""
    taking, go = threading.Event(), threading.Event()

    def take(client_task: ClientTask, fl_ctx: FLContext) -> None:
        taking.set()
        go.wait(20)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = task(model(1.0, BIG), result_received_cb=take)
        controller.broadcast_and_wait(one, fl_ctx, targets=["a"], abort_signal=abort)

    executor = PassingOn()
    job.serve(flow)
    site = job.join("a", executor)
    assert taking.wait(10)
    if not confirmed:
        site.stop("the site is shut down")
        wait_until(lambda: executor.released)
    go.set()
    job.outcome()
    job.site_outcomes()
    assert executor.released == [confirmed]


def test_a_result_that_is_not_submitted_because_its_task_was_aborted_is_not_handed_over(job: JobRuns) -> None:
    class Working(PassingOn):
        def execute(self, *args: Any) -> Shareable:
            working.set()
            go.wait(20)
            return super().execute(*args)

    working, go = threading.Event(), threading.Event()
    codes: list[Any] = []

    def take(client_task: ClientTask, fl_ctx: FLContext) -> None:
        codes.append(client_task.result and client_task.result.get_return_code())

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = task(model(1.0, BIG), result_received_cb=take)
        controller.broadcast_and_wait(one, fl_ctx, targets=["a"], abort_signal=abort)

    executor = Working()
    job.serve(flow)
    site = job.join("a", executor)
    assert working.wait(10)
    site.abort_task("enough", 0.0)
    go.set()
    assert job.outcome().status == COMPLETED
    assert (executor.released, codes) == ([False], ["TASK_ABORTED"])
