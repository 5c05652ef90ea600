"""A site aborts its task: the server is notified, and the job continues."""

from __future__ import annotations

from typing import Any

import fakeredis
from redflare_workers.apis import FLContext, Shareable, Signal
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.task import ClientTask
from redflare_workers.protocol.job_outcome import COMPLETED

from tests.support.job.runs import FunctionController, FunctionExecutor, JobRuns, echo, task, until_aborted
from tests.support.waiting import wait_until


def test_an_aborted_task_gets_a_reply_and_the_next_one_is_executed() -> None:
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

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        for name in ("long", "short"):
            controller.send_and_wait(
                task(name=name, result_received_cb=take), fl_ctx, targets=["a"], abort_signal=abort
            )

    with JobRuns(fakeredis.FakeRedis(server=fakeredis.FakeServer())) as job:
        job.serve(flow)
        executor = FunctionExecutor(work)
        site = job.join("a", executor)
        wait_until(lambda: site.current_task == "long")
        assert site.abort_task("that one is wrong", 10.0) == ("long", True)
        assert job.outcome().status == COMPLETED
    assert codes == [ReturnCode.TASK_ABORTED, ReturnCode.OK]
    assert reasons == ["that one is wrong"]
    assert len(executor.done) == 2, "the aborted task was not handed out again"


def test_an_abort_reports_whether_the_work_has_ended_and_may_find_no_task() -> None:
    ended: list[bool] = []

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        controller.send_and_wait(task(name="unresponsive"), fl_ctx, targets=["a"], abort_signal=abort)

    def unresponsive(name: str, shareable: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        wait_until(lambda: ended, 20)
        return shareable

    with JobRuns(fakeredis.FakeRedis(server=fakeredis.FakeServer())) as job:
        site = job.join("a", unresponsive)
        assert site.abort_task("early", 0.0) == ("", True)
        job.serve(flow)
        wait_until(lambda: site.current_task == "unresponsive")
        assert site.abort_task("enough", 0.05) == ("unresponsive", False)
        ended.append(True)
        assert job.outcome().status == COMPLETED
