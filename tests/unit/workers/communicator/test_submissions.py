"""A client brings a result: whose it is, what becomes of it, and what is dropped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.task import ClientTask, TaskCompletionStatus
from redflare_workers.communicator.task_registry import SubmissionCheck

from tests.support.communicator.scene import Gate, Scene, in_thread


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene(["site-1", "site-2"]) as scene:
        yield scene


def seen(scene: Scene, task_id: str, name: str = "site-1", task_name: str = "train") -> SubmissionCheck:
    return scene.comm.peek_submission(scene.engine.join(name), task_name, task_id)


def test_only_a_client_may_submit(scene: Scene) -> None:
    with pytest.raises(TypeError, match="client must be a Client"):
        scene.comm.process_submission("site-1", "train", "1", Shareable(), scene.ctx)  # type: ignore[arg-type]


def test_a_submission_needs_a_context(scene: Scene) -> None:
    with pytest.raises(TypeError, match="fl_ctx must be an FLContext"):
        scene.comm.process_submission(Client("a", "t"), "train", "1", Shareable(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("result", [None, {}, "done", 3])
def test_a_result_that_is_no_shareable_is_refused(scene: Scene, result: Any) -> None:
    with pytest.raises(TypeError, match="result must be a Shareable"):
        scene.comm.process_submission(Client("a", "t"), "train", "1", result, scene.ctx)


def test_a_result_whose_headers_are_none_is_refused_and_the_task_goes_on(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.ask("site-1")
    result = Shareable()
    result[ReservedHeaderKey.HEADERS] = [1]
    with pytest.raises(TypeError, match="headers of the result of client site-1"):
        scene.answer("site-1", task_id, result=result)
    scene.answer("site-1", task_id)
    assert task.completion_status is None
    assert task.client_tasks[0].result_received_time is not None


def test_a_result_is_kept_with_its_client_task(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.ask("site-1")
    assert seen(scene, task_id) is SubmissionCheck.ACCEPT
    scene.clock.now += 4
    result = Shareable({"loss": 1})
    scene.answer("site-1", task_id, result=result)
    (client_task,) = task.client_tasks
    assert (client_task.result, client_task.result_received_time) == (result, scene.clock.now)


def test_the_same_submission_again_changes_nothing(scene: Scene) -> None:
    received = []
    task = scene.task(result_received_cb=lambda client_task, fl_ctx: received.append(client_task.result))
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.ask("site-1")
    first = Shareable({"n": 1})
    scene.answer("site-1", task_id, result=first)
    assert seen(scene, task_id) is SubmissionCheck.DUPLICATE
    scene.answer("site-1", task_id, result=Shareable({"n": 2}))
    assert received == [first]
    assert task.client_tasks[0].result is first


def test_two_copies_of_a_submission_at_once_are_handled_once(scene: Scene) -> None:
    gate, received = Gate(), []

    def receive(client_task: ClientTask, fl_ctx: Any) -> None:
        received.append(client_task.id)
        gate()

    scene.comm.broadcast(scene.task(result_received_cb=receive), scene.ctx)
    task_id = scene.ask("site-1")
    threads = [in_thread(lambda: scene.answer("site-1", task_id)) for _ in range(4)]
    assert gate.entered.wait(10)
    gate.opened.set()
    for thread in threads:
        thread.join()
    assert received == [task_id]


def test_another_clients_result_is_dropped_with_a_warning(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.ask("site-1")
    assert seen(scene, task_id, "site-2") is SubmissionCheck.WRONG_CLIENT
    scene.answer("site-2", task_id)
    assert task.client_tasks[0].result_received_time is None
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "site-2" in record.getMessage()
    assert task_id in record.getMessage()


def test_a_result_for_another_name_is_refused(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.ask("site-1")
    assert seen(scene, task_id, task_name="test") is SubmissionCheck.WRONG_NAME
    with pytest.raises(ValueError, match="that task has another name"):
        scene.answer("site-1", task_id, "test")
    assert task.client_tasks[0].result_received_time is None


def test_a_result_for_a_finished_task_is_dropped(scene: Scene) -> None:
    received = []
    task = scene.task(result_received_cb=lambda client_task, fl_ctx: received.append(client_task))
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.ask("site-1")
    task.completion_status = TaskCompletionStatus.TIMEOUT
    assert seen(scene, task_id) is SubmissionCheck.FINISHED
    scene.answer("site-1", task_id)
    assert received == []
    assert scene.controller.unknown == []


def test_a_result_that_waited_for_its_turn_until_the_task_ended_is_dropped(scene: Scene) -> None:
    gate = Gate()
    task = scene.task(result_received_cb=gate)
    scene.comm.broadcast(task, scene.ctx)
    first, second = scene.ask("site-1"), scene.ask("site-2")
    threads = [in_thread(lambda: scene.answer("site-1", first))]
    assert gate.entered.wait(10)
    threads.append(in_thread(lambda: scene.answer("site-2", second)))
    scene.comm.cancel_task(task)
    threads[1].join(10)
    assert not threads[1].is_alive()
    gate.opened.set()
    threads[0].join()
    assert [client_task.result_received_time is not None for client_task in task.client_tasks] == [True, False]


# -- unknown tasks -----------------------------------------------------------------------------------------------------


def test_the_result_of_an_unknown_task_goes_to_the_controller_between_two_events(scene: Scene) -> None:
    assert seen(scene, "gone") is SubmissionCheck.UNKNOWN
    scene.answer("site-1", "gone")
    assert scene.controller.unknown == [("site-1", "train", "gone")]
    assert scene.engine.events == [
        EventType.BEFORE_PROCESS_RESULT_OF_UNKNOWN_TASK,
        EventType.AFTER_PROCESS_RESULT_OF_UNKNOWN_TASK,
    ]


def test_what_the_controller_raises_at_an_unknown_result_reaches_the_caller(scene: Scene) -> None:
    def refuse(*args: Any) -> None:
        raise KeyError("what is this")

    scene.controller.process_result_of_unknown_task = refuse  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyError, match="what is this"):
        scene.answer("site-1", "gone")
    assert scene.engine.events == [EventType.BEFORE_PROCESS_RESULT_OF_UNKNOWN_TASK]


def test_a_late_result_of_an_ended_task_is_one_of_an_unknown_task(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.ask("site-1")
    scene.comm.cancel_task(task)
    scene.answer("site-1", task_id)
    assert scene.controller.unknown == [("site-1", "train", task_id)]


def test_a_late_duplicate_of_a_result_that_was_taken_is_dropped(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.do("site-1")
    scene.comm.cancel_task(task)
    assert seen(scene, task_id) is SubmissionCheck.DUPLICATE
    scene.answer("site-1", task_id)
    assert scene.controller.unknown == []


@pytest.mark.parametrize(("client", "task_name"), [("site-2", "train"), ("site-1", "test")])
def test_a_late_duplicate_must_be_the_same_clients_and_of_the_same_name(
    scene: Scene, client: str, task_name: str
) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.do("site-1")
    scene.comm.cancel_task(task)
    scene.answer(client, task_id, task_name)
    assert scene.controller.unknown == [(client, task_name, task_id)]


def test_a_result_that_ended_its_task_is_known_when_it_comes_again(scene: Scene) -> None:
    def receive(client_task: ClientTask, fl_ctx: Any) -> None:
        scene.comm.cancel_task(client_task.task)

    task = scene.task(result_received_cb=receive)
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.do("site-1")
    scene.answer("site-1", task_id)
    assert scene.controller.unknown == []
    scene.settle(task)
    assert [unanswered for _, unanswered in scene.observer.ends] == [[]]


def test_without_a_controller_the_result_of_an_unknown_task_is_dropped(scene: Scene) -> None:
    scene.comm.controller = None
    scene.answer("site-1", "gone")


# -- relays ------------------------------------------------------------------------------------------------------------


def test_a_late_result_of_a_relay_is_marked_and_delivered(scene: Scene) -> None:
    late = []

    def receive(client_task: ClientTask, fl_ctx: Any) -> None:
        assert isinstance(client_task.result, Shareable)
        late.append((client_task.client.name, client_task.result.get_header(ReservedHeaderKey.REPLY_IS_LATE)))

    task = scene.task(result_received_cb=receive)
    scene.comm.relay(task, scene.ctx, ["site-1", "site-2"], task_result_timeout=5)
    first = scene.ask("site-1")
    scene.clock.now += 6
    second = scene.ask("site-2")
    scene.answer("site-1", first)
    scene.answer("site-2", second)
    assert late == [("site-1", True), ("site-2", None)]


def test_a_client_cannot_say_itself_that_its_result_is_late(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    result = Shareable()
    result.set_header(ReservedHeaderKey.REPLY_IS_LATE, True)
    scene.answer("site-1", scene.ask("site-1"), result=result)
    assert result.get_header(ReservedHeaderKey.REPLY_IS_LATE) is None
