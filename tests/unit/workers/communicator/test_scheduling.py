"""What may be scheduled, and how."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_workers.apis.client import Client
from redflare_workers.apis.task import SendOrder, TaskCompletionStatus
from redflare_workers.communicator.scheduling import TaskKind

from tests.support.communicator.bench import CommunicatorBench

METHODS = ("broadcast", "broadcast_and_wait", "broadcast_forever", "send", "send_and_wait", "relay", "relay_and_wait")


@pytest.fixture
def bench() -> Iterator[CommunicatorBench]:
    with CommunicatorBench(["site-1", "site-2"]) as bench:
        yield bench


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", [None, "train", 3])
def test_anything_but_a_task_is_refused(bench: CommunicatorBench, method: str, task: Any) -> None:
    with pytest.raises(TypeError, match="task must be a Task"):
        getattr(bench.comm, method)(task, bench.ctx, ["site-1"])


@pytest.mark.parametrize("method", METHODS)
def test_anything_but_a_context_is_refused(bench: CommunicatorBench, method: str) -> None:
    with pytest.raises(TypeError, match="fl_ctx must be an FLContext"):
        getattr(bench.comm, method)(bench.task(), {}, ["site-1"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("targets", ["site-1", {"site-1"}, ("site-1",), 1, Client("site-1", "t")])
def test_targets_that_are_no_list_are_refused(bench: CommunicatorBench, method: str, targets: Any) -> None:
    with pytest.raises(TypeError, match="targets must be a list"):
        getattr(bench.comm, method)(bench.task(), bench.ctx, targets)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [None, 1, b"site-1"])
def test_a_target_that_is_neither_client_nor_name_is_refused(
    bench: CommunicatorBench, method: str, target: Any
) -> None:
    with pytest.raises(TypeError, match="each of targets must be"):
        getattr(bench.comm, method)(bench.task(), bench.ctx, ["site-1", target])


NUMBERS = [
    ("broadcast", "min_responses"),
    ("broadcast_and_wait", "min_responses"),
    ("broadcast", "wait_time_after_min_received"),
    ("broadcast_and_wait", "wait_time_after_min_received"),
    ("send", "task_assignment_timeout"),
    ("send_and_wait", "task_assignment_timeout"),
    ("relay", "task_assignment_timeout"),
    ("relay", "task_result_timeout"),
    ("relay_and_wait", "task_assignment_timeout"),
    ("relay_and_wait", "task_result_timeout"),
]


@pytest.mark.parametrize(("method", "argument"), NUMBERS)
@pytest.mark.parametrize("value", [1.5, "1", None])
def test_a_number_that_is_no_int_is_refused(bench: CommunicatorBench, method: str, argument: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{argument} must be an int"):
        getattr(bench.comm, method)(bench.task(), bench.ctx, ["site-1"], **{argument: value})


@pytest.mark.parametrize(("method", "argument"), NUMBERS)
def test_a_negative_number_is_refused(bench: CommunicatorBench, method: str, argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be >= 0, but is -1"):
        getattr(bench.comm, method)(bench.task(), bench.ctx, ["site-1"], **{argument: -1})


@pytest.mark.parametrize("method", ["broadcast", "broadcast_and_wait"])
def test_more_responses_than_targets_are_refused(bench: CommunicatorBench, method: str) -> None:
    with pytest.raises(ValueError, match="min_responses is 3"):
        getattr(bench.comm, method)(bench.task(), bench.ctx, ["site-1", "site-2"], min_responses=3)


def test_more_responses_than_there_are_clients_now_are_fine_without_targets(bench: CommunicatorBench) -> None:
    bench.comm.broadcast(bench.task(), bench.ctx, min_responses=3)


@pytest.mark.parametrize(
    ("method", "argument"),
    [
        ("send", "task_assignment_timeout"),
        ("send_and_wait", "task_assignment_timeout"),
        ("relay", "task_assignment_timeout"),
        ("relay", "task_result_timeout"),
        ("relay_and_wait", "task_result_timeout"),
    ],
)
def test_a_timeout_longer_than_the_tasks_is_refused(bench: CommunicatorBench, method: str, argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} is 6 s, longer than the timeout"):
        getattr(bench.comm, method)(bench.task(timeout=5), bench.ctx, ["site-1"], **{argument: 6})


@pytest.mark.parametrize("method", ["send", "relay"])
def test_any_timeout_is_fine_for_a_task_without_one(bench: CommunicatorBench, method: str) -> None:
    getattr(bench.comm, method)(bench.task(), bench.ctx, ["site-1"], task_assignment_timeout=1000)
    getattr(bench.comm, method)(bench.task(timeout=5), bench.ctx, ["site-1"], task_assignment_timeout=5)


@pytest.mark.parametrize("method", ["send", "send_and_wait", "relay", "relay_and_wait"])
@pytest.mark.parametrize("order", ["any", 1, None])
def test_an_invalid_send_order_is_refused(bench: CommunicatorBench, method: str, order: Any) -> None:
    with pytest.raises(TypeError, match="send_order must be a SendOrder"):
        getattr(bench.comm, method)(bench.task(), bench.ctx, ["site-1"], send_order=order)


@pytest.mark.parametrize("targets", [None, []])
@pytest.mark.parametrize("method", ["send", "send_and_wait"])
def test_a_sequential_send_needs_targets(bench: CommunicatorBench, method: str, targets: Any) -> None:
    with pytest.raises(ValueError, match="needs targets"):
        getattr(bench.comm, method)(bench.task(), bench.ctx, targets)


def test_a_send_in_any_order_needs_no_targets(bench: CommunicatorBench) -> None:
    bench.comm.send(bench.task(), bench.ctx, send_order=SendOrder.ANY)
    assert bench.do("site-7")


@pytest.mark.parametrize("method", ["relay", "relay_and_wait"])
def test_whether_targets_are_dynamic_must_be_a_bool(bench: CommunicatorBench, method: str) -> None:
    with pytest.raises(TypeError, match="dynamic_targets must be a bool"):
        getattr(bench.comm, method)(bench.task(), bench.ctx, ["site-1"], dynamic_targets=1)


@pytest.mark.parametrize("method", ["relay", "relay_and_wait"])
def test_a_relay_needs_targets_unless_they_are_dynamic(bench: CommunicatorBench, method: str) -> None:
    with pytest.raises(ValueError, match="targets must be given"):
        getattr(bench.comm, method)(bench.task(), bench.ctx, dynamic_targets=False)


@pytest.mark.parametrize("method", ["broadcast", "broadcast_forever", "send", "relay"])
def test_a_task_can_be_scheduled_once(bench: CommunicatorBench, method: str) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    with pytest.raises(ValueError, match="used already; make a new Task"):
        getattr(bench.comm, method)(task, bench.ctx, ["site-1"])
    assert bench.comm.get_num_standing_tasks() == 1


def test_a_task_that_was_refused_can_be_scheduled_properly(bench: CommunicatorBench) -> None:
    task = bench.task()
    with pytest.raises(ValueError, match="min_responses"):
        bench.comm.broadcast(task, bench.ctx, min_responses=-1)
    bench.comm.broadcast(task, bench.ctx)
    assert task.is_standing


def test_clients_and_names_may_be_mixed_and_count_once(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, [Client("site-2", "t"), "site-1", "site-2"])
    assert task.targets == ["site-2", "site-1"]


def test_only_a_relay_keeps_names_that_are_repeated(bench: CommunicatorBench) -> None:
    relayed, sent = bench.task(), bench.task()
    bench.comm.relay(relayed, bench.ctx, ["site-1", "site-2", "site-1"])
    bench.comm.send(sent, bench.ctx, ["site-1", "site-2", "site-1"])
    assert relayed.targets == ["site-1", "site-2", "site-1"]
    assert sent.targets == ["site-1", "site-2"]


def test_a_scheduled_task_is_standing_since_now(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.clock.now += 5
    bench.comm.broadcast(task, bench.ctx)
    assert (task.is_standing, task.schedule_time, task.completion_status) == (True, bench.clock.now, None)
    assert task.targets == ["site-1", "site-2"]


def test_how_a_task_was_scheduled_can_be_asked_until_it_is_finished(bench: CommunicatorBench) -> None:
    task = bench.task()
    assert bench.comm.schedule_of(task) is None
    bench.comm.relay(task, bench.ctx, ["site-1"], SendOrder.ANY, task_result_timeout=3)
    schedule = bench.comm.schedule_of(task)
    assert schedule is not None
    assert (schedule.kind, schedule.targets, schedule.dynamic) == (TaskKind.RELAY, ("site-1",), True)
    assert schedule.options["task_result_timeout"] == 3
    bench.comm.cancel_task(task)
    bench.settle(task)
    assert bench.comm.schedule_of(task) is None


@pytest.mark.parametrize("method", ["broadcast", "broadcast_and_wait"])
def test_all_responses_are_wanted_by_default(bench: CommunicatorBench, method: str) -> None:
    """The specification's word; NVFlare's code wants one."""
    for owner in (bench.comm, bench.controller):
        assert inspect.signature(getattr(owner, method)).parameters["min_responses"].default == 0


def test_after_the_run_a_task_is_cancelled_instead_of_scheduled(bench: CommunicatorBench) -> None:
    bench.comm.finalize_run(bench.ctx)
    task = bench.task()
    bench.comm.broadcast_and_wait(task, bench.ctx)
    assert task.completion_status is TaskCompletionStatus.CANCELLED
    assert not task.is_standing
    assert bench.observer.schedules == []
    assert bench.comm.get_num_standing_tasks() == 0
