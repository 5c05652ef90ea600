"""A site breaks off its task: the server learns of it, and the job continues."""

from __future__ import annotations

from typing import Any

import fakeredis
from redflare_workers.apis import FLContext, Shareable, Signal
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.task import ClientTask
from redflare_workers.protocol.job_outcome import COMPLETED

from tests.support.job.runs import Doing, JobRuns, Script, echo, task, until_aborted
from tests.support.waiting import wait_until


def test_an_aborted_task_is_answered_and_the_next_one_is_carried_out() -> None:
    codes: list[Any] = []
    reasons: list[Any] = []

    def work(name: str, shareable: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        if name != "long":
            return echo(name, shareable, fl_ctx, abort)
        result = until_aborted(name, shareable, fl_ctx, abort)
        reasons.append(abort.value)
        return result

    def take(client_task: ClientTask, fl_ctx: FLContext) -> None:
        codes.append(client_task.result.get_return_code())

    def flow(me: Script, abort: Signal, fl_ctx: FLContext) -> None:
        for name in ("long", "short"):
            me.send_and_wait(task(name=name, result_received_cb=take), fl_ctx, targets=["a"], abort_signal=abort)

    with JobRuns(fakeredis.FakeRedis(server=fakeredis.FakeServer())) as job:
        job.serve(flow)
        executor = Doing(work)
        site = job.join("a", executor)
        wait_until(lambda: site.current_task == "long")
        assert site.abort_task("that one is wrong", 10.0) == ("long", True)
        assert job.outcome().status == COMPLETED
    assert codes == [ReturnCode.TASK_ABORTED, ReturnCode.OK]
    assert reasons == ["that one is wrong"]
    assert len(executor.done) == 2, "the aborted task was not handed out again"


def test_work_that_does_not_end_is_reported_and_there_may_be_none() -> None:
    ended: list[bool] = []

    def flow(me: Script, abort: Signal, fl_ctx: FLContext) -> None:
        me.send_and_wait(task(name="deaf"), fl_ctx, targets=["a"], abort_signal=abort)

    def deaf(name: str, shareable: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        wait_until(lambda: ended, 20)
        return shareable

    with JobRuns(fakeredis.FakeRedis(server=fakeredis.FakeServer())) as job:
        site = job.join("a", deaf)
        assert site.abort_task("early", 0.0) == ("", True)
        job.serve(flow)
        wait_until(lambda: site.current_task == "deaf")
        assert site.abort_task("enough", 0.05) == ("deaf", False)
        ended.append(True)
        assert job.outcome().status == COMPLETED
