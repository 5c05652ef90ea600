"""A client asks: what it gets, in which order, and what two at once get."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.task import ClientTask, SendOrder, TaskCompletionStatus
from redflare_workers.communicator.comm_observer import CommObserver

from tests.support.communicator.scene import Gate, Scene, in_thread
from tests.support.waiting import wait_until


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene(["site-1", "site-2"]) as scene:
        yield scene


@pytest.mark.parametrize("client", [None, "site-1", 1])
def test_only_a_client_may_ask(scene: Scene, client: Any) -> None:
    with pytest.raises(TypeError, match="client must be a Client"):
        scene.comm.process_task_request(client, scene.ctx)


def test_a_request_needs_a_context(scene: Scene) -> None:
    with pytest.raises(TypeError, match="fl_ctx must be an FLContext"):
        scene.comm.process_task_request(Client("site-1", "t"), None)  # type: ignore[arg-type]


def test_there_is_nothing_while_nothing_stands(scene: Scene) -> None:
    assert scene.ask_fully("site-1") == ("", "", None)


def test_a_client_gets_name_id_and_data(scene: Scene) -> None:
    task = scene.task("train", {"weights": 3}, timeout=70, operator={"op_id": "x"})
    scene.comm.broadcast(task, scene.ctx)
    name, task_id, data = scene.ask_fully("site-1")
    client_task = task.client_tasks[0]
    assert (name, task_id) == ("train", client_task.id)
    assert data is not None
    assert data["weights"] == 3
    headers = data[ReservedHeaderKey.HEADERS]
    assert headers == {
        ReservedHeaderKey.TASK_NAME: "train",
        ReservedHeaderKey.TASK_ID: task_id,
        ReservedHeaderKey.MSG_ROOT_ID: task.msg_root_id,
        ReservedHeaderKey.MSG_ROOT_TTL: 70,
        ReservedHeaderKey.TASK_OPERATOR: {"op_id": "x"},
    }


def test_what_was_sent_is_recorded(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    scene.clock.now += 3
    task_id = scene.ask("site-1")
    (client_task,) = task.client_tasks
    assert task.last_client_task_map == {"site-1": client_task}
    assert (client_task.client.name, client_task.task_send_count) == ("site-1", 1)
    assert client_task.task_sent_time == scene.clock.now
    assert client_task.result_received_time is None
    assert scene.comm.process_task_check(task_id, scene.ctx) is client_task


def test_headers_of_one_clients_data_do_not_reach_another(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    first, second = scene.ask_fully("site-1")[2], scene.ask_fully("site-2")[2]
    assert first is not None
    assert second is not None
    assert first.get_header(ReservedHeaderKey.TASK_ID) != second.get_header(ReservedHeaderKey.TASK_ID)
    assert task.data.get_header(ReservedHeaderKey.TASK_ID) is None


def test_tasks_are_given_in_the_order_of_scheduling(scene: Scene) -> None:
    # for whoever joins, and with targets of their own: they are kept apart and must come out as they went in
    for number in range(6):
        targets: list[Any] | None = None if number % 2 else ["site-1"]
        scene.comm.broadcast(scene.task(f"task-{number}"), scene.ctx, targets)
    assert [scene.ask_fully("site-2")[0]] == ["task-1"]
    got = []
    for _ in range(6):
        name, task_id, _ = scene.ask_fully("site-1")
        scene.answer("site-1", task_id, name)
        got.append(name)
    assert got == [f"task-{number}" for number in range(6)]
    assert scene.ask("site-1") == ""


def test_a_client_that_asks_again_gets_the_same_again(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    first = scene.ask("site-1")
    scene.clock.now += 9
    fl_ctx = scene.engine.new_context()
    assert scene.ask("site-1", fl_ctx) == first
    assert fl_ctx.get_prop(FLContextKey.IS_CLIENT_TASK_RESEND) is True
    (client_task,) = task.client_tasks
    assert (client_task.task_send_count, client_task.task_sent_time) == (2, scene.clock.now)


def test_a_first_sending_is_not_marked_as_a_resend(scene: Scene) -> None:
    scene.comm.broadcast(scene.task(), scene.ctx)
    fl_ctx = scene.engine.new_context()
    scene.ask("site-1", fl_ctx)
    assert not fl_ctx.get_prop(FLContextKey.IS_CLIENT_TASK_RESEND)


def test_a_finished_task_is_skipped_before_anybody_looks(scene: Scene) -> None:
    first, second = scene.task("first"), scene.task("second")
    scene.comm.broadcast(first, scene.ctx)
    scene.comm.broadcast(second, scene.ctx)
    scene.ask("site-2")
    first.completion_status = TaskCompletionStatus.OK
    assert scene.ask_fully("site-1")[0] == "second"
    assert scene.ask_fully("site-2")[0] == "second"


def test_a_task_that_blocks_hides_those_behind_it(scene: Scene) -> None:
    sent = scene.task("sent")
    scene.comm.send(sent, scene.ctx, ["site-1", "site-2"], task_assignment_timeout=10)
    scene.comm.broadcast(scene.task("behind"), scene.ctx)
    assert scene.ask("site-2") == ""
    scene.clock.now += 10
    assert scene.ask_fully("site-2")[0] == "sent"


def test_a_send_goes_to_one_client(scene: Scene) -> None:
    task = scene.task()
    scene.comm.send(task, scene.ctx, send_order=SendOrder.ANY)
    assert scene.ask("site-2")
    assert scene.ask("site-1") == ""
    assert len(task.client_tasks) == 1


def test_a_broadcast_without_targets_also_goes_to_those_who_join_later(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    scene.do("late")
    assert task.targets == ["site-1", "site-2", "late"]


@pytest.mark.parametrize("method", ["broadcast", "broadcast_forever"])
def test_a_task_with_targets_goes_to_nobody_else(scene: Scene, method: str) -> None:
    getattr(scene.comm, method)(scene.task(), scene.ctx, ["site-1"])
    assert scene.ask("site-2") == ""
    assert scene.ask("late") == ""


def test_a_broadcast_without_end_goes_to_each_client_again_and_again(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast_forever(task, scene.ctx)
    ids = {scene.do(name) for _ in range(3) for name in ("site-1", "site-2", "late")}
    assert len(ids) == len(task.client_tasks) == 9


# -- protected data ----------------------------------------------------------------------------------------------------


def test_what_happens_to_a_broadcasts_data_after_the_first_sending_reaches_nobody(scene: Scene) -> None:
    weights = np.zeros(3)
    task = scene.task(data={"weights": weights})
    scene.comm.broadcast(task, scene.ctx)
    scene.ask("site-1")
    weights += 5
    task.data["more"] = 1
    data = scene.ask_fully("site-2")[2]
    assert data is not None
    assert data["weights"].tolist() == [0, 0, 0]
    assert "more" not in data


def test_the_first_clients_callback_may_change_a_broadcasts_data(scene: Scene) -> None:
    def fill(client_task: ClientTask, fl_ctx: Any) -> None:
        client_task.task.data["for"] = client_task.client.name

    scene.comm.broadcast(scene.task(before_task_sent_cb=fill), scene.ctx)
    for name in ("site-1", "site-2", "site-1"):
        data = scene.ask_fully(name)[2]
        assert data is not None
        assert data["for"] == "site-1"


def test_a_sends_callback_makes_the_data_of_its_client(scene: Scene) -> None:
    def fill(client_task: ClientTask, fl_ctx: Any) -> None:
        client_task.task.data["for"] = client_task.client.name

    scene.comm.relay(scene.task(before_task_sent_cb=fill), scene.ctx, ["site-1", "site-2"])
    for name in ("site-1", "site-2"):
        _, task_id, data = scene.ask_fully(name)
        assert data is not None
        assert data["for"] == name
        scene.answer(name, task_id)


def test_the_data_is_protected_once_for_all_clients(scene: Scene) -> None:
    protected = []

    class Keeper(CommObserver):
        def protect(self, task: Any, data: Shareable) -> Shareable:
            protected.append(task)
            return super().protect(task, data)

    scene.comm.observer = Keeper()
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    threads = [in_thread(scene.ask, f"site-{i}") for i in range(20)]
    for thread in threads:
        thread.join()
    assert protected == [task]
    assert len(task.client_tasks) == 20


def test_data_that_cannot_be_protected_ends_the_task(scene: Scene) -> None:
    task = scene.task(data={"lock": threading.Lock()})
    scene.comm.broadcast(task, scene.ctx)
    assert scene.ask("site-1") == ""
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert isinstance(task.exception, TypeError)
    assert task.client_tasks == []


# -- a resend that is owed ---------------------------------------------------------------------------------------------


def test_a_resend_that_is_owed_comes_before_a_task_that_was_scheduled_earlier(scene: Scene) -> None:
    scene.comm.send(scene.task("earlier"), scene.ctx, ["site-2", "site-1"], task_assignment_timeout=10)
    assert scene.ask("site-1") == ""
    scene.comm.cancel_all_tasks()
    scene.comm.relay(scene.task("earlier"), scene.ctx, ["site-2", "site-1"], task_assignment_timeout=10)
    scene.comm.broadcast(scene.task("later"), scene.ctx)
    had = scene.ask_fully("site-1")[:2]
    assert had[0] == "later"
    scene.clock.now += 10
    # the window of the relay is open to site-1 by now
    assert scene.ask_fully("site-1")[:2] == had


def test_a_resend_that_is_owed_is_not_hidden_by_an_earlier_task_that_blocks(scene: Scene) -> None:
    blocking = scene.task("blocking")
    scene.comm.relay(blocking, scene.ctx, ["site-2", "site-1"])
    scene.comm.broadcast(scene.task("behind"), scene.ctx, ["site-1"])
    # the window is at site-2: site-1 looks behind it
    had = scene.ask("site-1")
    assert had
    scene.ask("site-2")
    # now site-2 has the relay, and everybody waits for it
    assert scene.ask("site-1") == had


def test_a_resend_is_never_recorded_twice(scene: Scene) -> None:
    tasks = [scene.task(f"task-{number}") for number in range(3)]
    for task in tasks:
        scene.comm.broadcast(task, scene.ctx)
    ids = {scene.ask("site-1") for _ in range(5)}
    assert len(ids) == 1
    assert [len(task.client_tasks) for task in tasks] == [1, 0, 0]


# -- two at once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["send", "relay"])
def test_two_requests_at_once_never_get_the_same_place(scene: Scene, method: str) -> None:
    gate = Gate()
    task = scene.task(before_task_sent_cb=gate)
    getattr(scene.comm, method)(task, scene.ctx, ["site-1", "site-2"], SendOrder.ANY)
    answers: dict[str, str] = {}
    first = in_thread(lambda: answers.update(first=scene.ask("site-1")))
    assert gate.entered.wait(10)
    assert scene.ask("site-2") == ""
    gate.opened.set()
    first.join()
    assert answers["first"] == task.client_tasks[0].id
    assert len(task.client_tasks) == 1


def test_two_requests_of_one_client_at_once_get_one_client_task(scene: Scene) -> None:
    gate = Gate()
    task = scene.task(before_task_sent_cb=gate)
    scene.comm.broadcast(task, scene.ctx)
    answers: list[str] = []
    threads = [in_thread(lambda: answers.append(scene.ask("site-1")))]
    assert gate.entered.wait(10)
    threads += [in_thread(lambda: answers.append(scene.ask("site-1"))) for _ in range(3)]
    gate.opened.set()
    for thread in threads:
        thread.join()
    (client_task,) = task.client_tasks
    assert answers == [client_task.id] * 4
    assert client_task.task_send_count == 4


def test_a_request_during_the_handling_of_the_result_gets_the_next_task(scene: Scene) -> None:
    gate = Gate()
    scene.comm.broadcast(scene.task("first", result_received_cb=gate), scene.ctx)
    scene.comm.broadcast(scene.task("second"), scene.ctx)
    _, task_id, _ = scene.ask_fully("site-1")
    submitting = in_thread(lambda: scene.answer("site-1", task_id, "first"))
    assert gate.entered.wait(10)
    got: list[str] = []
    asking = in_thread(lambda: got.append(scene.ask_fully("site-1")[0]))
    gate.opened.set()
    submitting.join()
    asking.join()
    assert got == ["second"]


def test_a_relay_waits_for_a_result_that_is_being_handled_though_its_time_is_over(scene: Scene) -> None:
    gate = Gate()
    task = scene.task(result_received_cb=gate)
    scene.comm.relay(task, scene.ctx, ["site-1", "site-2"], task_result_timeout=5)
    task_id = scene.ask("site-1")
    submitting = in_thread(lambda: scene.answer("site-1", task_id))
    assert gate.entered.wait(10)
    scene.check(after=6)
    assert scene.ask("site-2") == ""
    gate.opened.set()
    submitting.join()
    assert scene.ask("site-2")


# -- handle_exception --------------------------------------------------------------------------------------------------


def test_a_task_that_could_not_be_sent_is_cancelled(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    scene.comm.handle_exception(scene.ask("site-1"), scene.ctx)
    assert task.completion_status is TaskCompletionStatus.CANCELLED
    assert scene.comm.get_num_standing_tasks() == 0


def test_an_exception_of_a_task_that_is_gone_has_no_effect(scene: Scene) -> None:
    scene.comm.handle_exception("no such id", scene.ctx)


def test_the_check_of_a_task_finds_it_while_it_stands(scene: Scene) -> None:
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    task_id = scene.do("site-1")
    assert scene.comm.process_task_check(task_id, scene.ctx) is task.client_tasks[0]
    scene.comm.cancel_task(task)
    assert scene.comm.process_task_check(task_id, scene.ctx) is None
    assert scene.comm.process_task_check("no such id", scene.ctx) is None


def test_after_the_run_there_is_nothing_for_anybody(scene: Scene) -> None:
    scene.comm.broadcast(scene.task(), scene.ctx)
    scene.comm.finalize_run(scene.ctx)
    assert scene.ask("site-1") == ""
    wait_until(lambda: scene.comm.get_num_standing_tasks() == 0)


# -- other data for a task that stands ---------------------------------------------------------------------------------


def test_a_broadcast_without_end_sends_the_data_that_was_put_in_its_place(scene: Scene) -> None:
    task = scene.task(data={"version": 1})
    scene.comm.broadcast_forever(task, scene.ctx)
    assert (scene.ask_fully("site-1")[2] or Shareable())["version"] == 1
    task.data = Shareable({"version": 2})
    assert (scene.ask_fully("site-2")[2] or Shareable())["version"] == 2


def test_a_broadcast_sends_all_clients_the_same_whatever_is_put_in_its_place(scene: Scene) -> None:
    task = scene.task(data={"version": 1})
    scene.comm.broadcast(task, scene.ctx)
    scene.ask("site-1")
    task.data = Shareable({"version": 2})
    assert (scene.ask_fully("site-2")[2] or Shareable())["version"] == 1


def test_a_broadcasts_data_can_be_protected_again(scene: Scene) -> None:
    protected = []

    class Keeper(CommObserver):
        def protect(self, task: Any, data: Shareable) -> Shareable:
            protected.append(data)
            return super().protect(task, data)

    scene.comm.observer = Keeper()
    task = scene.task()
    scene.comm.broadcast(task, scene.ctx)
    scene.ask("site-1")
    scene.comm.protect_again(task)
    assert scene.ask("site-1")
    assert scene.ask("site-2")
    assert len(protected) == 2
