"""Requests for tasks: what a client gets, in which order, and with concurrent requests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.task import ClientTask, SendOrder, Task, TaskCompletionStatus
from redflare_workers.communicator.comm_observer import CommObserver

from tests.support.calls import in_thread
from tests.support.communicator.bench import CommunicatorBench, Gate
from tests.support.waiting import wait_until


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    with CommunicatorBench(["site-1", "site-2"]) as bench:
        yield bench


@pytest.mark.parametrize("client", [None, "site-1", 1])
def test_only_a_client_may_ask(bench: CommunicatorBench, client: Any) -> None:
    with pytest.raises(TypeError, match="client must be a Client"):
        bench.comm.process_task_request(client, bench.ctx)


def test_a_request_needs_a_context(bench: CommunicatorBench) -> None:
    with pytest.raises(TypeError, match="fl_ctx must be an FLContext"):
        bench.comm.process_task_request(Client("site-1", "t"), None)  # type: ignore[arg-type]


def test_there_is_no_task_before_one_is_scheduled(bench: CommunicatorBench) -> None:
    assert bench.ask_fully("site-1") == ("", "", None)


def test_a_client_gets_name_id_and_data(bench: CommunicatorBench) -> None:
    task = bench.task("train", {"weights": 3}, timeout=70, operator={"op_id": "x"})
    bench.comm.broadcast(task, bench.ctx)
    name, task_id, data = bench.ask_fully("site-1")
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


def test_what_was_sent_is_recorded(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    bench.clock.now += 3
    task_id = bench.ask("site-1")
    (client_task,) = task.client_tasks
    assert task.last_client_task_map == {"site-1": client_task}
    assert (client_task.client.name, client_task.task_send_count) == ("site-1", 1)
    assert client_task.task_sent_time == bench.clock.now
    assert client_task.result_received_time is None
    assert bench.comm.process_task_check(task_id, bench.ctx) is client_task


def test_headers_of_one_clients_data_do_not_reach_another(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    first, second = bench.ask_fully("site-1")[2], bench.ask_fully("site-2")[2]
    assert first is not None
    assert second is not None
    assert first.get_header(ReservedHeaderKey.TASK_ID) != second.get_header(ReservedHeaderKey.TASK_ID)
    assert task.data.get_header(ReservedHeaderKey.TASK_ID) is None


def test_tasks_are_given_in_the_order_of_scheduling(bench: CommunicatorBench) -> None:
    # tasks with and without targets are stored separately, but must be sent in the order of scheduling
    for number in range(6):
        targets: list[Any] | None = None if number % 2 else ["site-1"]
        bench.comm.broadcast(bench.task(f"task-{number}"), bench.ctx, targets)
    assert [bench.ask_fully("site-2")[0]] == ["task-1"]
    got = []
    for _ in range(6):
        name, task_id, _ = bench.ask_fully("site-1")
        bench.answer("site-1", task_id, name)
        got.append(name)
    assert got == [f"task-{number}" for number in range(6)]
    assert bench.ask("site-1") == ""


def test_a_client_that_asks_again_gets_the_same_again(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    first = bench.ask("site-1")
    bench.clock.now += 9
    fl_ctx = bench.engine.new_context()
    assert bench.ask("site-1", fl_ctx) == first
    assert fl_ctx.get_prop(FLContextKey.IS_CLIENT_TASK_RESEND) is True
    (client_task,) = task.client_tasks
    assert (client_task.task_send_count, client_task.task_sent_time) == (2, bench.clock.now)
    assert client_task.first_sent_time == bench.clock.now - 9


def test_a_first_sending_is_not_marked_as_a_resend(bench: CommunicatorBench) -> None:
    bench.comm.broadcast(bench.task(), bench.ctx)
    fl_ctx = bench.engine.new_context()
    bench.ask("site-1", fl_ctx)
    assert not fl_ctx.get_prop(FLContextKey.IS_CLIENT_TASK_RESEND)


def test_a_finished_task_is_skipped_before_it_is_swept(bench: CommunicatorBench) -> None:
    first, second = bench.task("first"), bench.task("second")
    bench.comm.broadcast(first, bench.ctx)
    bench.comm.broadcast(second, bench.ctx)
    bench.ask("site-2")
    first.completion_status = TaskCompletionStatus.OK
    assert bench.ask_fully("site-1")[0] == "second"
    assert bench.ask_fully("site-2")[0] == "second"


def test_a_task_that_blocks_hides_those_behind_it(bench: CommunicatorBench) -> None:
    sent = bench.task("sent")
    bench.comm.send(sent, bench.ctx, ["site-1", "site-2"], task_assignment_timeout=10)
    bench.comm.broadcast(bench.task("behind"), bench.ctx)
    assert bench.ask("site-2") == ""
    bench.clock.now += 10
    assert bench.ask_fully("site-2")[0] == "sent"


def test_a_send_goes_to_one_client(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.send(task, bench.ctx, send_order=SendOrder.ANY)
    assert bench.ask("site-2")
    assert bench.ask("site-1") == ""
    assert len(task.client_tasks) == 1


def test_a_broadcast_without_targets_is_sent_to_later_clients_too(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    bench.do("late")
    assert task.targets == ["site-1", "site-2", "late"]


@pytest.mark.parametrize("method", ["broadcast", "broadcast_forever"])
def test_a_task_with_targets_is_sent_to_them_only(bench: CommunicatorBench, method: str) -> None:
    getattr(bench.comm, method)(bench.task(), bench.ctx, ["site-1"])
    assert bench.ask("site-2") == ""
    assert bench.ask("late") == ""


def test_an_endless_broadcast_is_sent_to_each_client_again_and_again(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast_forever(task, bench.ctx)
    ids = {bench.do(name) for _ in range(3) for name in ("site-1", "site-2", "late")}
    assert len(ids) == len(task.client_tasks) == 9


# -- protected data ----------------------------------------------------------------------------------------------------


def test_changes_of_a_broadcasts_data_after_the_first_sending_reach_no_client(bench: CommunicatorBench) -> None:
    weights = np.zeros(3)
    task = bench.task(data={"weights": weights})
    bench.comm.broadcast(task, bench.ctx)
    bench.ask("site-1")
    weights += 5
    task.data["more"] = 1
    data = bench.ask_fully("site-2")[2]
    assert data is not None
    assert data["weights"].tolist() == [0, 0, 0]
    assert "more" not in data


METHODS = ["broadcast", "broadcast_forever", "relay"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("replaces", [False, True], ids=["in place", "replaced"])
def test_what_the_callback_leaves_in_the_task_is_what_its_client_gets(
    bench: CommunicatorBench, method: str, replaces: bool
) -> None:
    count = itertools.count(1)

    def fill(client_task: ClientTask, fl_ctx: Any) -> None:
        task = client_task.task
        if replaces:
            task.data = Shareable(task.data)
        task.data["n"] = next(count)
        task.data["deep"]["for"].append(client_task.client.name)

    task = bench.task(data={"w": np.zeros(3), "deep": {"for": []}}, before_task_sent_cb=fill)
    getattr(bench.comm, method)(task, bench.ctx, ["site-1", "site-2", "site-3"])
    had = []
    for number in (1, 2, 3):
        name, task_id, data = bench.ask_fully(f"site-{number}")
        assert name
        assert data is not None
        had.append((data["n"], list(data["deep"]["for"])))
        bench.answer(f"site-{number}", task_id)
    assert had == [(1, ["site-1"]), (2, ["site-1", "site-2"]), (3, ["site-1", "site-2", "site-3"])]


@pytest.mark.parametrize("method", ["broadcast", "broadcast_forever"])
def test_a_callback_that_changes_nothing_costs_no_copy(bench: CommunicatorBench, method: str) -> None:
    seen: list[str] = []
    had: list[Any] = []
    data: dict[str, Any] = {"w": np.ones(3), "deep": {"list": [np.ones(2), (np.ones(2),)], "nan": float("nan")}}
    task = bench.task(data=data, before_task_sent_cb=lambda client_task, fl_ctx: seen.append(client_task.client.name))
    getattr(bench.comm, method)(task, bench.ctx)
    for number in (1, 2, 3):
        sent = bench.ask_fully(f"site-{number}")[2]
        assert sent is not None
        had.append(sent["deep"]["list"][0])
    # the protected copy
    assert had[0] is had[1] is had[2] is not data["deep"]["list"][0]
    assert seen == ["site-1", "site-2", "site-3"]
    assert task.exception is None
    # the controller's arrays are its own again
    task.data["w"] += 1
    task.data["deep"]["list"][0] += 1


@pytest.mark.parametrize("method", ["broadcast", "broadcast_forever"])
@pytest.mark.parametrize("every", [1, 2], ids=["for each client", "for every second"])
def test_an_array_of_the_callbacks_own_is_sent_as_it_is_for_each_client(
    bench: CommunicatorBench, method: str, every: int
) -> None:
    buffer, count = np.zeros(3), itertools.count()

    def fill(client_task: ClientTask, fl_ctx: Any) -> None:
        number = next(count)
        if number % every == 0:
            buffer[:] = number
            client_task.task.data["w"] = buffer

    getattr(bench.comm, method)(bench.task(data={"w": np.ones(3)}, before_task_sent_cb=fill), bench.ctx)
    had = [bench.ask_fully(f"site-{number}")[2] for number in range(4)]
    assert [data["w"][0] for data in had if data is not None] == [number - number % every for number in range(4)]


def test_an_array_that_others_get_too_cannot_be_changed_in_place(bench: CommunicatorBench) -> None:
    weights = np.zeros(3)

    def scale(client_task: ClientTask, fl_ctx: Any) -> None:
        client_task.task.data["w"] += 1

    task = bench.task(data={"w": weights}, before_task_sent_cb=scale)
    bench.comm.broadcast(task, bench.ctx)
    assert bench.ask("site-1") == ""
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert "read-only" in str(task.exception)
    assert task.data["w"] is weights


def test_the_next_client_gets_the_protected_data_again(bench: CommunicatorBench) -> None:
    """One client's own data is not that of those after it."""

    def fill(client_task: ClientTask, fl_ctx: Any) -> None:
        client_task.task.data["extra"] = client_task.client.name == "site-2"

    bench.comm.broadcast(bench.task(before_task_sent_cb=fill), bench.ctx)
    extras = []
    for number in (1, 2, 3):
        data = bench.ask_fully(f"site-{number}")[2]
        assert data is not None
        extras.append(data["extra"])
    assert extras == [False, True, False]


def test_a_later_callback_does_not_change_what_an_earlier_client_got(bench: CommunicatorBench) -> None:
    def fill(client_task: ClientTask, fl_ctx: Any) -> None:
        client_task.task.data["deep"]["for"].append(client_task.client.name)

    bench.comm.broadcast(bench.task(data={"deep": {"for": []}}, before_task_sent_cb=fill), bench.ctx)
    had = [bench.ask_fully(f"site-{number}")[2] for number in (1, 2, 3)]
    assert [len(data["deep"]["for"]) for data in had if data is not None] == [1, 2, 3]


def test_the_data_is_protected_once_for_all_clients(bench: CommunicatorBench) -> None:
    protected = []

    class StoringObserver(CommObserver):
        def protect(self, task: Any, data: Shareable) -> Shareable:
            protected.append(task)
            return super().protect(task, data)

    bench.comm.observer = StoringObserver()
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    threads = [in_thread(bench.ask, f"site-{i}") for i in range(20)]
    for thread in threads:
        thread.join()
    assert protected == [task]
    assert len(task.client_tasks) == 20


def test_data_that_cannot_be_protected_ends_the_task(bench: CommunicatorBench) -> None:
    task = bench.task(data={"lock": threading.Lock()})
    bench.comm.broadcast(task, bench.ctx)
    assert bench.ask("site-1") == ""
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert isinstance(task.exception, TypeError)
    assert task.client_tasks == []


# -- a resend that is owed ---------------------------------------------------------------------------------------------


def test_a_resend_that_is_owed_comes_before_a_task_that_was_scheduled_earlier(bench: CommunicatorBench) -> None:
    bench.comm.send(bench.task("earlier"), bench.ctx, ["site-2", "site-1"], task_assignment_timeout=10)
    assert bench.ask("site-1") == ""
    bench.comm.cancel_all_tasks()
    bench.comm.relay(bench.task("earlier"), bench.ctx, ["site-2", "site-1"], task_assignment_timeout=10)
    bench.comm.broadcast(bench.task("later"), bench.ctx)
    had = bench.ask_fully("site-1")[:2]
    assert had[0] == "later"
    bench.clock.now += 10
    # the window of the relay is open to site-1 by now
    assert bench.ask_fully("site-1")[:2] == had


def test_a_resend_that_is_owed_is_not_hidden_by_an_earlier_task_that_blocks(bench: CommunicatorBench) -> None:
    blocking = bench.task("blocking")
    bench.comm.relay(blocking, bench.ctx, ["site-2", "site-1"])
    bench.comm.broadcast(bench.task("behind"), bench.ctx, ["site-1"])
    # the window is at site-2: site-1 gets the task behind it
    had = bench.ask("site-1")
    assert had
    bench.ask("site-2")
    # now site-2 has the relay, and all others wait for it
    assert bench.ask("site-1") == had


def test_what_a_client_gets_names_the_task_that_it_belongs_to(bench: CommunicatorBench) -> None:
    bench.comm.broadcast(task := bench.task(), bench.ctx)
    for site in ("site-1", "site-2"):
        _, _, data = bench.ask_fully(site)
        assert data is not None
        assert data.get_header(ReservedHeaderKey.MSG_ROOT_ID) == task.msg_root_id


def test_a_resend_is_never_recorded_twice(bench: CommunicatorBench) -> None:
    tasks = [bench.task(f"task-{number}") for number in range(3)]
    for task in tasks:
        bench.comm.broadcast(task, bench.ctx)
    ids = {bench.ask("site-1") for _ in range(5)}
    assert len(ids) == 1
    assert [len(task.client_tasks) for task in tasks] == [1, 0, 0]


# -- two at once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["send", "relay"])
def test_two_requests_at_once_never_get_the_same_place(bench: CommunicatorBench, method: str) -> None:
    gate = Gate()
    task = bench.task(before_task_sent_cb=gate)
    getattr(bench.comm, method)(task, bench.ctx, ["site-1", "site-2"], SendOrder.ANY)
    answers: dict[str, str] = {}
    first = in_thread(lambda: answers.update(first=bench.ask("site-1")))
    assert gate.entered.wait(10)
    assert bench.ask("site-2") == ""
    gate.opened.set()
    first.join()
    assert answers["first"] == task.client_tasks[0].id
    assert len(task.client_tasks) == 1


def test_two_requests_of_one_client_at_once_get_one_client_task(bench: CommunicatorBench) -> None:
    gate = Gate()
    task = bench.task(before_task_sent_cb=gate)
    bench.comm.broadcast(task, bench.ctx)
    answers: list[str] = []
    begun = threading.Semaphore(0)

    def ask() -> None:
        begun.release()
        answers.append(bench.ask("site-1"))

    threads = [in_thread(ask)]
    assert gate.entered.wait(10)
    threads += [in_thread(ask) for _ in range(3)]
    for _ in threads:
        assert begun.acquire(timeout=10)
    gate.opened.set()
    for thread in threads:
        thread.join()
    (client_task,) = task.client_tasks
    assert answers == [client_task.id] * 4
    assert client_task.task_send_count == 4


def test_a_request_during_the_handling_of_the_result_gets_the_next_task(bench: CommunicatorBench) -> None:
    gate = Gate()
    bench.comm.broadcast(bench.task("first", result_received_cb=gate), bench.ctx)
    bench.comm.broadcast(bench.task("second"), bench.ctx)
    _, task_id, _ = bench.ask_fully("site-1")
    submitting = in_thread(lambda: bench.answer("site-1", task_id, "first"))
    assert gate.entered.wait(10)
    got: list[str] = []
    asking = in_thread(lambda: got.append(bench.ask_fully("site-1")[0]))
    gate.opened.set()
    submitting.join()
    asking.join()
    assert got == ["second"]


def test_a_relay_waits_for_a_result_that_is_being_handled_though_its_time_is_over(bench: CommunicatorBench) -> None:
    gate = Gate()
    task = bench.task(result_received_cb=gate)
    bench.comm.relay(task, bench.ctx, ["site-1", "site-2"], task_result_timeout=5)
    task_id = bench.ask("site-1")
    submitting = in_thread(lambda: bench.answer("site-1", task_id))
    assert gate.entered.wait(10)
    bench.check(after=6)
    assert bench.ask("site-2") == ""
    gate.opened.set()
    submitting.join()
    assert bench.ask("site-2")


# -- handle_exception --------------------------------------------------------------------------------------------------


def test_a_task_that_could_not_be_sent_is_cancelled(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    bench.comm.handle_exception(bench.ask("site-1"), bench.ctx)
    assert task.completion_status is TaskCompletionStatus.CANCELLED
    assert bench.comm.get_num_standing_tasks() == 0


def test_an_exception_of_a_task_that_is_gone_has_no_effect(bench: CommunicatorBench) -> None:
    bench.comm.handle_exception("no such id", bench.ctx)


def test_the_check_of_a_task_finds_it_while_it_is_standing(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    task_id = bench.do("site-1")
    assert bench.comm.process_task_check(task_id, bench.ctx) is task.client_tasks[0]
    bench.comm.cancel_task(task)
    assert bench.comm.process_task_check(task_id, bench.ctx) is None
    assert bench.comm.process_task_check("no such id", bench.ctx) is None


def test_after_the_run_there_is_no_task_for_any_client(bench: CommunicatorBench) -> None:
    bench.comm.broadcast(bench.task(), bench.ctx)
    bench.comm.finalize_run(bench.ctx)
    assert bench.ask("site-1") == ""
    wait_until(lambda: bench.comm.get_num_standing_tasks() == 0)


# -- other data for a standing task ------------------------------------------------------------------------------------


def test_an_endless_broadcast_sends_replaced_data(bench: CommunicatorBench) -> None:
    task = bench.task(data={"version": 1})
    bench.comm.broadcast_forever(task, bench.ctx)
    assert (bench.ask_fully("site-1")[2] or Shareable())["version"] == 1
    task.data = Shareable({"version": 2})
    assert (bench.ask_fully("site-2")[2] or Shareable())["version"] == 2


def test_a_broadcast_sends_all_clients_the_same_although_its_data_is_replaced(bench: CommunicatorBench) -> None:
    task = bench.task(data={"version": 1})
    bench.comm.broadcast(task, bench.ctx)
    bench.ask("site-1")
    task.data = Shareable({"version": 2})
    assert (bench.ask_fully("site-2")[2] or Shareable())["version"] == 1


def test_a_broadcasts_data_can_be_protected_again(bench: CommunicatorBench) -> None:
    protected = []

    class StoringObserver(CommObserver):
        def protect(self, task: Any, data: Shareable) -> Shareable:
            protected.append(data)
            return super().protect(task, data)

    bench.comm.observer = StoringObserver()
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    bench.ask("site-1")
    bench.comm.protect_again(task)
    assert bench.ask("site-1")
    assert bench.ask("site-2")
    assert len(protected) == 2


def test_a_request_that_is_interrupted_leaves_its_task_to_the_next_one(bench: CommunicatorBench) -> None:
    class Interrupted(BaseException):
        pass

    class Interrupting(CommObserver):
        """Is interrupted while it protects data for the first time."""

        calls = 0

        def protect(self, task: Task, data: Shareable) -> Shareable:
            self.calls += 1
            if self.calls == 1:
                raise Interrupted
            return data

    bench.comm.observer = Interrupting()
    task, got = bench.task(), list[str]()
    bench.comm.broadcast(task, bench.ctx)
    with pytest.raises(Interrupted):
        bench.ask("site-1")
    again = in_thread(lambda: got.append(bench.ask("site-1")))
    again.join(10)
    assert got == [client_task.id for client_task in task.client_tasks]
    assert got
    bench.answer("site-1", got[0])
    assert task.client_tasks[0].result_received_time is not None
