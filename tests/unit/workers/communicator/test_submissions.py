"""Submissions: which results are accepted, and which are dropped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.task import ClientTask, TaskCompletionStatus
from redflare_workers.communicator.task_registry import SubmissionCheck

from tests.support.calls import in_thread
from tests.support.communicator.bench import CommunicatorBench, Gate
from tests.support.waiting import wait_until


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    with CommunicatorBench(["site-1", "site-2"]) as bench:
        yield bench


def seen(bench: CommunicatorBench, task_id: str, name: str = "site-1", task_name: str = "train") -> SubmissionCheck:
    return bench.comm.peek_submission(bench.engine.join(name), task_name, task_id)


def test_only_a_client_may_submit(bench: CommunicatorBench) -> None:
    with pytest.raises(TypeError, match="client must be a Client"):
        bench.comm.process_submission("site-1", "train", "1", Shareable(), bench.ctx)  # type: ignore[arg-type]


def test_a_submission_needs_a_context(bench: CommunicatorBench) -> None:
    with pytest.raises(TypeError, match="fl_ctx must be an FLContext"):
        bench.comm.process_submission(Client("a", "t"), "train", "1", Shareable(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("result", [None, {}, "done", 3])
def test_a_result_that_is_no_shareable_is_refused(bench: CommunicatorBench, result: Any) -> None:
    with pytest.raises(TypeError, match="result must be a Shareable"):
        bench.comm.process_submission(Client("a", "t"), "train", "1", result, bench.ctx)


def test_a_result_with_invalid_headers_is_refused_and_the_task_continues(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.ask("site-1")
    result = Shareable()
    result[ReservedHeaderKey.HEADERS] = [1]
    with pytest.raises(TypeError, match="headers of the result of client site-1"):
        bench.answer("site-1", task_id, result=result)
    bench.answer("site-1", task_id)
    assert task.completion_status is None
    assert task.client_tasks[0].result_received_time is not None


def test_a_result_is_kept_with_its_client_task(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.ask("site-1")
    assert seen(bench, task_id) is SubmissionCheck.ACCEPT
    bench.clock.now += 4
    result = Shareable({"loss": 1})
    bench.answer("site-1", task_id, result=result)
    (client_task,) = task.client_tasks
    assert (client_task.result, client_task.result_received_time) == (result, bench.clock.now)


def test_the_same_submission_again_changes_nothing(bench: CommunicatorBench) -> None:
    received = []
    task = bench.task(result_received_cb=lambda client_task, fl_ctx: received.append(client_task.result))
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.ask("site-1")
    first = Shareable({"n": 1})
    bench.answer("site-1", task_id, result=first)
    assert seen(bench, task_id) is SubmissionCheck.DUPLICATE
    bench.answer("site-1", task_id, result=Shareable({"n": 2}))
    assert received == [first]
    assert task.client_tasks[0].result is first


def test_two_copies_of_a_submission_at_once_are_handled_once(bench: CommunicatorBench) -> None:
    gate, received = Gate(), []

    def receive(client_task: ClientTask, fl_ctx: Any) -> None:
        received.append(client_task.id)
        gate()

    bench.comm.broadcast(bench.task(result_received_cb=receive), bench.ctx)
    task_id = bench.ask("site-1")
    begun = threading.Semaphore(0)

    def answer() -> None:
        begun.release()
        bench.answer("site-1", task_id)

    threads = [in_thread(answer)]
    assert gate.entered.wait(10)
    threads += [in_thread(answer) for _ in range(3)]
    for _ in threads:
        assert begun.acquire(timeout=10)
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert received == [task_id]


def test_another_clients_result_is_dropped_with_a_warning(
    bench: CommunicatorBench, caplog: pytest.LogCaptureFixture
) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.ask("site-1")
    assert seen(bench, task_id, "site-2") is SubmissionCheck.WRONG_CLIENT
    bench.answer("site-2", task_id)
    assert task.client_tasks[0].result_received_time is None
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "site-2" in record.getMessage()
    assert task_id in record.getMessage()


def test_a_result_for_another_name_is_refused(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.ask("site-1")
    assert seen(bench, task_id, task_name="test") is SubmissionCheck.WRONG_NAME
    with pytest.raises(ValueError, match="that task has another name"):
        bench.answer("site-1", task_id, "test")
    assert task.client_tasks[0].result_received_time is None


def test_a_result_for_a_finished_task_is_dropped(bench: CommunicatorBench) -> None:
    received = []
    task = bench.task(result_received_cb=lambda client_task, fl_ctx: received.append(client_task))
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.ask("site-1")
    task.completion_status = TaskCompletionStatus.TIMEOUT
    assert seen(bench, task_id) is SubmissionCheck.FINISHED
    bench.answer("site-1", task_id)
    assert received == []
    assert bench.controller.unknown == []


def test_a_result_that_waited_for_the_callback_lock_until_the_task_ended_is_dropped(bench: CommunicatorBench) -> None:
    gate = Gate()
    task = bench.task(result_received_cb=gate)
    bench.comm.broadcast(task, bench.ctx)
    first, second = bench.ask("site-1"), bench.ask("site-2")
    threads = [in_thread(lambda: bench.answer("site-1", first))]
    assert gate.entered.wait(10)
    threads.append(in_thread(lambda: bench.answer("site-2", second)))
    bench.comm.cancel_task(task)
    threads[1].join(10)
    assert not threads[1].is_alive()
    gate.opened.set()
    threads[0].join()
    assert [client_task.result_received_time is not None for client_task in task.client_tasks] == [True, False]


# -- unknown tasks -----------------------------------------------------------------------------------------------------


def test_the_result_of_an_unknown_task_goes_to_the_controller_between_two_events(bench: CommunicatorBench) -> None:
    assert seen(bench, "gone") is SubmissionCheck.UNKNOWN
    bench.answer("site-1", "gone")
    assert bench.controller.unknown == [("site-1", "train", "gone")]
    assert bench.engine.events == [
        EventType.BEFORE_PROCESS_RESULT_OF_UNKNOWN_TASK,
        EventType.AFTER_PROCESS_RESULT_OF_UNKNOWN_TASK,
    ]


def test_an_exception_of_the_controller_at_an_unknown_result_reaches_the_caller(bench: CommunicatorBench) -> None:
    def refuse(*args: Any) -> None:
        raise KeyError("what is this")

    bench.controller.process_result_of_unknown_task = refuse  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyError, match="what is this"):
        bench.answer("site-1", "gone")
    assert bench.engine.events == [EventType.BEFORE_PROCESS_RESULT_OF_UNKNOWN_TASK]


def test_a_late_result_of_an_ended_task_is_one_of_an_unknown_task(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.ask("site-1")
    bench.comm.cancel_task(task)
    bench.answer("site-1", task_id)
    assert bench.controller.unknown == [("site-1", "train", task_id)]


def test_a_late_duplicate_of_a_result_that_was_taken_is_dropped(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.do("site-1")
    bench.comm.cancel_task(task)
    assert seen(bench, task_id) is SubmissionCheck.DUPLICATE
    bench.answer("site-1", task_id)
    assert bench.controller.unknown == []


@pytest.mark.parametrize(("client", "task_name"), [("site-2", "train"), ("site-1", "test")])
def test_a_late_duplicate_must_be_the_same_clients_and_of_the_same_name(
    bench: CommunicatorBench, client: str, task_name: str
) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.do("site-1")
    bench.comm.cancel_task(task)
    bench.answer(client, task_id, task_name)
    assert bench.controller.unknown == [(client, task_name, task_id)]


def test_a_result_that_ended_its_task_is_known_when_it_is_submitted_again(bench: CommunicatorBench) -> None:
    def receive(client_task: ClientTask, fl_ctx: Any) -> None:
        bench.comm.cancel_task(client_task.task)

    task = bench.task(result_received_cb=receive)
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.do("site-1")
    bench.answer("site-1", task_id)
    assert bench.controller.unknown == []
    bench.settle(task)
    assert [unanswered for _, unanswered in bench.observer.ends] == [[]]


def test_without_a_controller_the_result_of_an_unknown_task_is_dropped(bench: CommunicatorBench) -> None:
    bench.comm.controller = None
    bench.answer("site-1", "gone")


# -- relays ------------------------------------------------------------------------------------------------------------


def test_a_late_result_of_a_relay_is_marked_and_delivered(bench: CommunicatorBench) -> None:
    late = []

    def receive(client_task: ClientTask, fl_ctx: Any) -> None:
        assert isinstance(client_task.result, Shareable)
        late.append((client_task.client.name, client_task.result.get_header(ReservedHeaderKey.REPLY_IS_LATE)))

    task = bench.task(result_received_cb=receive)
    bench.comm.relay(task, bench.ctx, ["site-1", "site-2"], task_result_timeout=5)
    first = bench.ask("site-1")
    bench.clock.now += 6
    second = bench.ask("site-2")
    bench.answer("site-1", first)
    bench.answer("site-2", second)
    assert late == [("site-1", True), ("site-2", None)]


def test_a_client_cannot_mark_its_own_result_as_late(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    result = Shareable()
    result.set_header(ReservedHeaderKey.REPLY_IS_LATE, True)
    bench.answer("site-1", bench.ask("site-1"), result=result)
    assert result.get_header(ReservedHeaderKey.REPLY_IS_LATE) is None


def test_a_relay_is_not_over_while_the_result_of_its_last_target_is_handled(bench: CommunicatorBench) -> None:
    gate = Gate()
    task = bench.task(result_received_cb=gate)
    bench.comm.relay(
        task, bench.ctx, ["site-1"], task_assignment_timeout=5, task_result_timeout=10, dynamic_targets=False
    )
    answering = in_thread(bench.answer, "site-1", bench.ask("site-1"))
    assert gate.entered.wait(10)
    bench.check(after=1000.0)
    assert task.completion_status is None
    gate.opened.set()
    answering.join(10)
    bench.check(after=6.0)
    assert task.completion_status is TaskCompletionStatus.OK


def test_a_result_of_an_unknown_task_does_not_reach_a_controller_that_was_stopped(bench: CommunicatorBench) -> None:
    bench.engine.add_component("controller", bench.controller)
    bench.answer("site-1", "of an earlier run")
    assert bench.controller.unknown == [("site-1", "train", "of an earlier run")]
    bench.comm.finalize_run(bench.ctx)
    bench.answer("site-1", "too late")
    assert len(bench.controller.unknown) == 1


def test_a_task_whose_result_comes_while_a_second_request_waits_is_not_sent_again(bench: CommunicatorBench) -> None:
    ids: list[str] = []
    again: list[str] = []
    asking: list[threading.Thread] = []

    def before(client_task: ClientTask, fl_ctx: FLContext) -> None:
        if client_task.client.name == "site-2":
            # the request of site-1 waits for this callback, and its result comes first
            asking.append(in_thread(lambda: again.append(bench.ask("site-1"))))
            standing = bench.comm._lifecycle.registry.by_task[task]
            wait_until(lambda: ids[0] in standing.sending)
            bench.answer("site-1", ids[0])

    task = bench.task(before_task_sent_cb=before)
    bench.comm.broadcast(task, bench.ctx)
    ids.append(bench.ask("site-1"))
    assert bench.ask("site-2")
    asking[0].join(10)
    assert again == [""]
    assert task.last_client_task_map["site-1"].task_send_count == 1
