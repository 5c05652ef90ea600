"""A Task checks its arguments and knows nothing yet; a ClientTask is one sending of it to one client."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from redflare_workers.apis import (
    Client,
    ClientTask,
    ReservedHeaderKey,
    SendOrder,
    Shareable,
    Task,
    TaskCompletionStatus,
)


async def later(*_: object) -> None:
    """Do nothing, when somebody awaits it."""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": 7}, r"name must be of type str, but is 7 \(int\)"),
        ({"name": None}, r"name must be of type str, but is None"),
        ({"data": {"w": 1}}, r"data must be of type Shareable, but is {'w': 1} \(dict\)"),
        ({"data": None}, r"data must be of type Shareable"),
        ({"props": [1]}, r"props must be of type dict, but is \[1\] \(list\)"),
        ({"operator": "bcast"}, r"operator must be of type dict, but is 'bcast' \(str\)"),
        ({"timeout": 1.5}, r"timeout must be of type int, but is 1.5 \(float\)"),
        ({"timeout": None}, r"timeout must be of type int"),
        ({"before_task_sent_cb": 1}, r"before_task_sent_cb must be callable or None, but is 1 \(int\)"),
        ({"after_task_sent_cb": "x"}, r"after_task_sent_cb must be callable or None, but is 'x' \(str\)"),
        ({"result_received_cb": {}}, r"result_received_cb must be callable or None"),
        ({"task_done_cb": 1}, r"task_done_cb must be callable or None"),
        ({"task_done_cb": later}, r"task_done_cb is an async function, of which a call runs nothing"),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        Task(**{"name": "train", "data": Shareable(), **arguments})


def test_a_negative_timeout_is_refused() -> None:
    with pytest.raises(ValueError, match="timeout must be >= 0 seconds, but is -1"):
        Task("train", Shareable(), timeout=-1)


def test_a_refused_task_leaves_its_data_alone() -> None:
    data = Shareable()
    with pytest.raises(ValueError, match="timeout"):
        Task("train", data, timeout=-1)
    assert data.get_header(ReservedHeaderKey.TASK_NAME) is None


def test_a_new_task_was_not_scheduled() -> None:
    data = Shareable()
    before = time.time()
    task = Task("train", data)
    assert before <= task.create_time <= time.time()
    assert (task.name, task.data, task.props, task.timeout, task.operator, task.secure) == (
        "train", data, {}, 0, None, False
    )  # fmt: skip
    assert (task.targets, task.client_tasks, task.last_client_task_map) == (None, [], {})
    assert (task.completion_status, task.exception, task.is_standing, task.schedule_time) == (None, None, False, None)
    callbacks = (task.before_task_sent_cb, task.after_task_sent_cb, task.result_received_cb, task.task_done_cb)
    assert callbacks == (None,) * 4


def test_the_arguments_are_in_documented_order() -> None:
    def sent(client_task: ClientTask, fl_ctx: Any) -> None: ...

    def done(task: Task, fl_ctx: Any) -> None: ...

    task = Task("train", Shareable(), {"k": 1}, 9, sent, sent, sent, done, {"method": "bcast"}, True)
    assert (task.props, task.timeout, task.operator, task.secure) == ({"k": 1}, 9, {"method": "bcast"}, True)
    assert task.before_task_sent_cb is task.after_task_sent_cb is task.result_received_cb is sent
    assert task.task_done_cb is done


def test_the_data_has_the_name_of_the_task() -> None:
    data = Shareable({"w": 1})
    data.set_header("round", 2)
    Task("train", data)
    assert data.get_header(ReservedHeaderKey.TASK_NAME) == "train"
    assert data.get_header("round") == 2


def test_no_two_tasks_share_a_root_id() -> None:
    assert len({Task("train", Shareable()).msg_root_id for _ in range(100)}) == 100


def test_the_lock_of_its_callbacks_is_reentrant_for_the_thread_that_holds_it() -> None:
    task = Task("train", Shareable())
    taken = []
    with task.cb_lock, task.cb_lock:
        other = threading.Thread(target=lambda: taken.append(task.cb_lock.acquire(blocking=False)))
        other.start()
        other.join()
    assert taken == [False]


def test_props_are_the_applications_except_for_the_systems() -> None:
    task = Task("train", Shareable())
    task.set_prop("round", 1)
    assert (task.get_prop("round"), task.get_prop("absent")) == (1, None)
    with pytest.raises(ValueError, match="keys that start with __ are the system's own: '__round'"):
        task.set_prop("__round", 2)


def test_repr_shows_the_state_of_a_task() -> None:
    task = Task("train", Shareable())
    assert repr(task) == f"Task('train', {task.msg_root_id}, not standing, sent=0)"
    task.is_standing, task.completion_status = True, TaskCompletionStatus.OK
    assert repr(task) == f"Task('train', {task.msg_root_id}, standing, sent=0, ok)"


def test_a_new_client_task_was_not_sent() -> None:
    client, task = Client("site-1", "t"), Task("train", Shareable())
    client_task = ClientTask(client, task)
    assert (client_task.client, client_task.task) == (client, task)
    assert (client_task.task_send_count, client_task.task_sent_time) == (0, None)
    assert (client_task.result, client_task.result_received_time, client_task.props) == (None, None, {})
    assert client_task.id != ClientTask(client, task).id
    assert repr(client_task) == f"ClientTask('train', {client_task.id}, client='site-1', sent=0, unanswered)"


def test_statuses_and_send_orders_have_the_documented_values() -> None:
    assert [str(status) for status in TaskCompletionStatus] == [
        "ok", "timeout", "error", "cancelled", "aborted", "ignored", "client_dead"
    ]  # fmt: skip
    assert TaskCompletionStatus("client_dead") is TaskCompletionStatus.CLIENT_DEAD
    assert [order.value for order in SendOrder] == ["any", "sequential"]
