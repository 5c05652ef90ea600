"""Open tasks, requests, dead clients and the run of ``WFCommSpec``, sentence by sentence."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_workers import Client, ClientTask, FLContext, Shareable, Task, TaskCompletionStatus
from redflare_workers.apis import EventType, SendOrder
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.wf_comm_spec import WFCommSpec
from redflare_workers.workflow import WFCommServer

from tests.fundamentals.documented.sentences import documented
from tests.support.communicator.bench import CommunicatorBench, IdleController
from tests.support.communicator.local_engine import LocalEngine
from tests.support.waiting import wait_until

OK, CANCELLED, ERROR = TaskCompletionStatus.OK, TaskCompletionStatus.CANCELLED, TaskCompletionStatus.ERROR


def scheduled(bench: CommunicatorBench, **options: Any) -> Task:
    """Broadcast a task to a client."""
    task = bench.task(**options)
    bench.comm.broadcast(task, bench.ctx, ["a"])
    return task


# -- open tasks --------------------------------------------------------------------------------------------------------


@documented("WFCommSpec.get_num_standing_tasks")
def test_standing_tasks_are_counted(bench: CommunicatorBench) -> None:
    assert bench.comm.get_num_standing_tasks() == 0
    scheduled(bench)
    assert bench.comm.get_num_standing_tasks() == 1
    bench.do("a")
    bench.check()
    assert bench.comm.get_num_standing_tasks() == 0


@documented("WFCommSpec.cancel_task")
def test_a_cancelled_task_is_removed_at_once(bench: CommunicatorBench) -> None:
    task = scheduled(bench)
    bench.comm.cancel_task(task)
    assert (task.is_standing, bench.comm.get_num_standing_tasks(), bench.ask("a")) == (False, 0, "")


@documented("WFCommSpec.cancel_task")
def test_task_done_is_called_for_a_cancelled_task(bench: CommunicatorBench) -> None:
    done: list[Task] = []
    task = scheduled(bench, task_done_cb=lambda task, fl_ctx: done.append(task))
    bench.comm.cancel_task(task)
    bench.settle(task)
    assert done == [task]


@documented("WFCommSpec.cancel_task")
def test_a_cancelled_task_has_the_status_that_is_given(bench: CommunicatorBench) -> None:
    first, second = scheduled(bench), scheduled(bench)
    bench.comm.cancel_task(first)
    bench.comm.cancel_task(second, TaskCompletionStatus.ABORTED)
    assert (first.completion_status, second.completion_status) == (CANCELLED, TaskCompletionStatus.ABORTED)


@documented("WFCommSpec.cancel_task")
def test_cancelling_a_task_that_does_not_stand_has_no_effect(bench: CommunicatorBench) -> None:
    never = bench.task()
    bench.comm.cancel_task(never)
    assert never.completion_status is None


@documented("WFCommSpec.cancel_task", differs="`cancel_task` of a task that has ended")
def test_cancelling_a_task_that_has_ended_overwrites_its_status(bench: CommunicatorBench) -> None:
    task = scheduled(bench)
    bench.do("a")
    bench.check()
    bench.comm.cancel_task(task)
    assert task.completion_status is OK


@documented("WFCommSpec.cancel_all_tasks")
def test_all_standing_tasks_are_cancelled_with_the_status_that_is_given(bench: CommunicatorBench) -> None:
    tasks = [scheduled(bench) for _ in range(3)]
    bench.comm.cancel_all_tasks(ERROR)
    assert [task.completion_status for task in tasks] == [ERROR] * 3
    last = scheduled(bench)
    bench.comm.cancel_all_tasks()
    assert last.completion_status is CANCELLED


@documented("WFCommSpec.check_tasks")
def test_tasks_that_are_due_end_when_they_are_checked(bench: CommunicatorBench) -> None:
    due, other = scheduled(bench, timeout=5), scheduled(bench)
    bench.clock.now += 6
    bench.comm.check_tasks()
    assert (due.completion_status, other.completion_status) == (TaskCompletionStatus.TIMEOUT, None)


@documented("WFCommSpec.check_tasks", differs="A task whose manager fails")
def test_a_manager_that_fails_ends_the_checks(bench: CommunicatorBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("out of order")

    broken, sound = scheduled(bench), bench.task()
    bench.comm.send(sound, bench.ctx, ["b"], SendOrder.ANY)
    monkeypatch.setattr("redflare_workers.communicator.managers.simple.BcastTaskManager.check_task_exit", fail)
    bench.do("b")
    bench.check()
    assert (broken.completion_status, sound.completion_status) == (ERROR, OK)


# -- requests and submissions ------------------------------------------------------------------------------------------


@documented("WFCommSpec.process_task_request")
def test_a_client_that_asks_gets_name_id_and_data_of_its_task(bench: CommunicatorBench) -> None:
    task = scheduled(bench, data={"x": 1})
    name, task_id, data = bench.ask_fully("a")
    assert data is not None
    assert (name, task_id, data["x"]) == ("train", task.client_tasks[0].id, 1)


@documented("WFCommSpec.process_task_request")
def test_a_client_for_whom_there_is_no_task_gets_no_name_and_no_data(bench: CommunicatorBench) -> None:
    assert bench.ask_fully("a") == ("", "", None)


@documented("WFCommSpec.process_task_request")
@pytest.mark.parametrize("wrong", ["client", "fl_ctx"])
def test_a_request_with_an_argument_of_another_type_is_a_type_error(bench: CommunicatorBench, wrong: str) -> None:
    arguments: dict[str, Any] = {"client": Client("a", ""), "fl_ctx": bench.ctx, wrong: 1}
    with pytest.raises(TypeError, match=wrong):
        bench.comm.process_task_request(**arguments)


@documented("WFCommSpec.process_task_request")
def test_a_client_gets_the_tasks_in_the_order_of_their_scheduling(bench: CommunicatorBench) -> None:
    for name in ("first", "second"):
        bench.comm.broadcast(bench.task(name), bench.ctx, ["a"])
    assert bench.ask_fully("a")[0] == "first"


@documented("WFCommSpec.process_task_request")
def test_a_task_without_a_result_is_sent_again_and_is_marked_as_such(bench: CommunicatorBench) -> None:
    task, again = scheduled(bench), bench.engine.new_context()
    first = bench.ask("a")
    assert bench.ask("a", again) == first
    assert again.get_prop(FLContextKey.IS_CLIENT_TASK_RESEND) is True
    assert task.client_tasks[0].task_send_count == 2


@documented("WFCommSpec.process_task_request", differs="A task that a client has and has not answered")
def test_a_later_task_may_come_before_one_that_was_not_answered(bench: CommunicatorBench) -> None:
    scheduled(bench)
    first = bench.ask("a")
    scheduled(bench)
    assert bench.ask("a") == first


@documented("WFCommSpec.handle_exception")
def test_a_task_that_could_not_be_sent_is_cancelled(bench: CommunicatorBench) -> None:
    task = scheduled(bench)
    bench.comm.handle_exception(bench.ask("a"), bench.ctx)
    assert task.completion_status is CANCELLED


@documented("WFCommSpec.process_submission")
def test_a_result_that_a_client_submits_is_that_of_its_task(bench: CommunicatorBench) -> None:
    task, result = scheduled(bench), Shareable({"n": 1})
    bench.answer("a", bench.ask("a"), result=result)
    assert task.client_tasks[0].result is result
    assert task.client_tasks[0].result_received_time == bench.clock()


@documented("WFCommSpec.process_submission")
@pytest.mark.parametrize("wrong", ["client", "result", "fl_ctx"])
def test_a_submission_with_an_argument_of_another_type_is_a_type_error(bench: CommunicatorBench, wrong: str) -> None:
    scheduled(bench)
    arguments: dict[str, Any] = {"client": Client("a", ""), "fl_ctx": bench.ctx, "result": Shareable(), wrong: 1}
    with pytest.raises(TypeError, match=wrong):
        bench.comm.process_submission(task_name="train", task_id=bench.ask("a"), **arguments)


@documented("WFCommSpec.process_submission")
def test_a_submission_with_another_name_of_the_task_is_a_value_error(bench: CommunicatorBench) -> None:
    scheduled(bench)
    with pytest.raises(ValueError, match="another name"):
        bench.answer("a", bench.ask("a"), task_name="validate")


@documented("WFCommSpec.process_submission")
def test_a_result_of_an_unknown_task_is_given_to_the_controller(bench: CommunicatorBench) -> None:
    bench.answer("a", "no such id")
    assert bench.controller.unknown == [("a", "train", "no such id")]


@documented("WFCommSpec.process_submission")
def test_a_second_result_of_a_client_is_dropped(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a", "b"])
    task_id = bench.ask("a")
    for number in range(2):
        bench.answer("a", task_id, result=Shareable({"n": number}))
    assert task.client_tasks[0].result is not None
    assert task.client_tasks[0].result["n"] == 0
    assert bench.controller.unknown == []


@documented("WFCommSpec.process_submission")
def test_a_result_of_another_client_than_the_one_that_has_the_task_is_dropped(bench: CommunicatorBench) -> None:
    task = scheduled(bench)
    bench.answer("b", bench.ask("a"))
    assert task.client_tasks[0].result is None


@documented("WFCommSpec.process_submission")
def test_an_exception_of_result_received_ends_the_task_with_error(bench: CommunicatorBench) -> None:
    def fail(client_task: ClientTask, fl_ctx: FLContext) -> None:
        raise RuntimeError("out of order")

    task = scheduled(bench, result_received_cb=fail)
    bench.do("a")
    assert task.completion_status is ERROR
    assert str(task.exception) == "out of order"


@documented("WFCommSpec.process_task_check")
def test_a_check_of_a_task_finds_the_client_task(bench: CommunicatorBench) -> None:
    task = scheduled(bench)
    assert bench.comm.process_task_check(bench.ask("a"), bench.ctx) is task.client_tasks[0]


@documented("WFCommSpec.process_task_check")
def test_a_check_of_a_task_that_is_gone_finds_nothing(bench: CommunicatorBench) -> None:
    task = scheduled(bench)
    task_id = bench.ask("a")
    bench.comm.cancel_task(task)
    assert bench.comm.process_task_check(task_id, bench.ctx) is None
    assert bench.comm.process_task_check("no such id", bench.ctx) is None


# -- clients that are gone ---------------------------------------------------------------------------------------------


def disconnect(bench: CommunicatorBench) -> None:
    """Report client "a" dead, and let the grace period pass."""
    bench.comm.initialize_run(bench.ctx)
    bench.comm.process_dead_client_report("a", bench.ctx)
    bench.clock.now += 61
    wait_until(lambda: bench.comm.get_client_disconnect_time("a"))


@documented("WFCommSpec.get_client_disconnect_time")
def test_a_client_that_is_connected_has_no_time_of_its_disconnection(bench: CommunicatorBench) -> None:
    assert bench.comm.get_client_disconnect_time("a") is None
    assert bench.comm.get_client_disconnect_time("never heard of") is None


@documented("WFCommSpec.get_client_disconnect_time")
def test_the_time_at_which_a_client_was_found_to_be_disconnected_is_kept(bench: CommunicatorBench) -> None:
    disconnect(bench)
    assert bench.comm.get_client_disconnect_time("a") == bench.clock()


@documented("WFCommSpec.process_dead_client_report")
def test_a_client_that_was_reported_dead_is_disconnected_after_a_grace_period(bench: CommunicatorBench) -> None:
    bench.comm.initialize_run(bench.ctx)
    bench.comm.process_dead_client_report("a", bench.ctx)
    bench.check(after=59)
    assert bench.comm.get_client_disconnect_time("a") is None
    bench.comm.process_dead_client_report("a", bench.ctx)  # the first report counts
    bench.clock.now += 2
    assert wait_until(lambda: bench.comm.get_client_disconnect_time("a")) == bench.clock()


@documented("WFCommSpec.process_dead_client_report")
def test_a_task_that_waits_for_clients_that_are_gone_ends_with_client_dead(bench: CommunicatorBench) -> None:
    task = scheduled(bench)
    bench.ask("a")
    disconnect(bench)
    bench.check()
    assert task.completion_status is TaskCompletionStatus.CLIENT_DEAD


@documented("WFCommSpec.client_is_active")
def test_a_client_that_is_active_is_not_disconnected(bench: CommunicatorBench) -> None:
    bench.comm.initialize_run(bench.ctx)
    bench.comm.process_dead_client_report("a", bench.ctx)
    bench.comm.client_is_active("a", "it has asked for a task", bench.ctx)
    bench.check(after=100)
    assert bench.comm.get_client_disconnect_time("a") is None


@documented("WFCommSpec.client_is_active")
def test_a_client_that_is_active_again_is_connected_again_and_an_event_tells(bench: CommunicatorBench) -> None:
    disconnect(bench)
    bench.comm.client_is_active("a", "it has asked for a task", bench.ctx)
    assert bench.comm.get_client_disconnect_time("a") is None
    assert EventType.CLIENT_RECONNECTED in bench.engine.events


# -- the run -----------------------------------------------------------------------------------------------------------


@documented("WFCommSpec.initialize_run")
def test_a_run_begins_with_a_context_that_has_engine_and_job(bench: CommunicatorBench) -> None:
    bench.comm.initialize_run(bench.ctx)
    assert bench.ctx.get_job_id() == "job-1"
    assert bench.engine.panics == []


@documented("WFCommSpec.initialize_run")
def test_a_context_without_a_job_id_does_not_do() -> None:
    engine = LocalEngine(job_id="")
    WFCommServer().initialize_run(engine.new_context())
    assert "needs the id of a job" in engine.panics[0]


@documented("WFCommSpec.finalize_run")
def test_the_end_of_a_run_ends_its_tasks() -> None:
    done: list[Task] = []
    with CommunicatorBench(["a"], monitor=True) as bench:
        task = scheduled(bench, task_done_cb=lambda task, fl_ctx: done.append(task))
        bench.comm.finalize_run(bench.ctx)
        assert (task.completion_status, done) == (CANCELLED, [task])
        assert (bench.comm.get_num_standing_tasks(), bench.ask("a")) == (0, "")


@documented("WFCommSpec.check_tasks", differs="`task_check_period` of a controller")
def test_the_period_of_checks_is_the_communicator_s_own() -> None:
    communicator = WFCommServer(task_check_period=0.2)
    IdleController(task_check_period=7.0).set_communicator(communicator)
    assert communicator.task_check_period == 7.0


METHODS = {
    "broadcast": (1, 2),
    "broadcast_and_wait": (1, 2),
    "broadcast_forever": (1, 2),
    "send": (1, 2),
    "relay": (1, 2),
    "process_task_request": (1, 2),
    "process_submission": (1, 2, 3, 4, 5),
    "check_tasks": (),
    "finalize_run": (1,),
}


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=documented(f"WFCommSpec.{each}"), id=each) for each in METHODS]
)
def test_a_communicator_of_one_s_own_must_have_the_methods_that_are_called(name: str) -> None:
    class Other(WFCommSpec):
        pass

    with pytest.raises(NotImplementedError):
        getattr(Other(), name)(*METHODS[name])
