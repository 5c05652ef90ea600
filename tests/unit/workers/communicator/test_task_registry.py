"""The registry: its size is limited, and the cost of a step does not grow with the number of standing tasks."""

from __future__ import annotations

import time

import pytest
from redflare_workers.communicator import task_registry as registry_module
from redflare_workers.communicator.task_registry import SubmissionCheck

from tests.support.calls import in_thread
from tests.support.communicator.bench import CommunicatorBench, Gate


def test_it_remembers_a_limited_number_of_ended_client_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_REMEMBERED", 3)
    with CommunicatorBench(["site-1"]) as bench:
        ids = []
        for _ in range(5):
            task = bench.task()
            bench.comm.broadcast(task, bench.ctx, ["site-1"])
            ids.append(bench.do("site-1"))
            bench.comm.cancel_task(task)
        client = bench.engine.join("site-1")
        checks = [bench.comm.peek_submission(client, "train", task_id) for task_id in ids]
        assert checks == [SubmissionCheck.UNKNOWN] * 2 + [SubmissionCheck.DUPLICATE] * 3


def test_a_duplicate_that_is_asked_for_is_remembered_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_REMEMBERED", 2)
    with CommunicatorBench(["site-1"]) as bench:
        ids = []
        for number in range(3):
            task = bench.task()
            bench.comm.broadcast(task, bench.ctx, ["site-1"])
            ids.append(bench.do("site-1"))
            bench.comm.cancel_task(task)
            if number == 1:
                bench.answer("site-1", ids[0])
        client = bench.engine.join("site-1")
        assert bench.comm.peek_submission(client, "train", ids[0]) is SubmissionCheck.DUPLICATE
        assert bench.comm.peek_submission(client, "train", ids[1]) is SubmissionCheck.UNKNOWN


def test_ten_thousand_are_remembered() -> None:
    assert registry_module._REMEMBERED == 10_000


@pytest.mark.parametrize("targets", [None, ["site-1", "site-2"]])
def test_nothing_is_left_of_tasks_that_have_ended(targets: list[str] | None) -> None:
    with CommunicatorBench(["site-1", "site-2"]) as bench:
        tasks = [bench.task() for _ in range(4)]
        bench.comm.broadcast(tasks[0], bench.ctx, targets and list(targets))
        bench.comm.broadcast_forever(tasks[1], bench.ctx, targets and list(targets))
        bench.comm.relay(tasks[2], bench.ctx, targets and list(targets), dynamic_targets=targets is None)
        bench.comm.send(tasks[3], bench.ctx, ["site-1", "site-2"])
        bench.do("site-1")
        bench.ask("site-2")
        bench.comm.cancel_all_tasks()
        for task in tasks:
            bench.settle(task)
        registry = bench.comm._lifecycle.registry
        kept = (
            registry.standing_tasks,
            registry.by_task,
            registry._client_tasks,
            registry._owed,
            registry._own,
            registry._wide,
        )
        assert [len(each) for each in kept] == [0] * len(kept)


def test_a_request_costs_about_the_same_with_hundreds_of_standing_tasks_of_others() -> None:
    def seconds_per_request(others: int) -> float:
        with CommunicatorBench(["site-1"]) as bench:
            for number in range(others):
                bench.comm.broadcast(bench.task(), bench.ctx, [f"other-{number}"])
                bench.comm.send(bench.task(), bench.ctx, [f"other-{number}"])
            client, ctx = bench.engine.join("site-1"), bench.engine.new_context()
            best = 1.0
            for _ in range(20):
                began = time.perf_counter()
                for _ in range(50):
                    bench.comm.process_task_request(client, ctx)
                best = min(best, (time.perf_counter() - began) / 50)
            return best

    # the best of many tries, with a wide margin: a scan of all tasks would take hundreds of times as long
    assert seconds_per_request(500) < 10 * seconds_per_request(0)


def test_a_broadcast_without_end_keeps_a_limited_number_of_answers() -> None:
    with CommunicatorBench(["site-1", "site-2"]) as bench:
        task = bench.task()
        bench.comm.broadcast_forever(task, bench.ctx)
        waits = bench.ask("site-2")
        ids = []
        for _ in range(250):
            ids.append(bench.ask("site-1"))
            bench.answer("site-1", ids[-1])
        assert [client_task.id for client_task in task.client_tasks] == [waits, *ids[-100:]]
        registry = bench.comm._lifecycle.registry
        assert len(registry._client_tasks) == 101
        # a copy that comes late is known, and one that was never answered is still awaited
        site = bench.engine.join("site-1")
        assert bench.comm.peek_submission(site, "train", ids[0]) is SubmissionCheck.DUPLICATE
        assert bench.comm.peek_submission(site, "train", ids[-1]) is SubmissionCheck.DUPLICATE
        bench.answer("site-2", waits)
        assert [client_task.id for client_task in task.client_tasks] == [waits, *ids[-99:]]


def test_nothing_is_left_of_a_client_task_whose_task_ends_before_it_goes_out() -> None:
    gate = Gate()
    with CommunicatorBench(["site-1"]) as bench:
        task = bench.task(before_task_sent_cb=gate)
        bench.comm.broadcast(task, bench.ctx, ["site-1"])
        got: list[str] = []
        asking = in_thread(lambda: got.append(bench.ask("site-1")))
        assert gate.entered.wait(10)
        bench.comm.cancel_task(task)
        gate.opened.set()
        asking.join(10)
        bench.settle(task)
        assert got == [""]
        assert (task.client_tasks, task.last_client_task_map) == ([], {})
        registry = bench.comm._lifecycle.registry
        assert (registry._client_tasks, registry._owed) == ({}, {})
