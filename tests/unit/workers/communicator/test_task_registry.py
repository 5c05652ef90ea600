"""The registry: what it keeps does not grow, and what a step costs does not grow with what stands."""

from __future__ import annotations

import time

import pytest
from redflare_workers.communicator import task_registry as board_module
from redflare_workers.communicator.task_registry import SubmissionCheck

from tests.support.communicator.scene import Scene


def test_it_remembers_a_limited_number_of_ended_client_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "_REMEMBERED", 3)
    with Scene(["site-1"]) as scene:
        ids = []
        for _ in range(5):
            task = scene.task()
            scene.comm.broadcast(task, scene.ctx, ["site-1"])
            ids.append(scene.do("site-1"))
            scene.comm.cancel_task(task)
        client = scene.engine.join("site-1")
        checks = [scene.comm.peek_submission(client, "train", task_id) for task_id in ids]
        assert checks == [SubmissionCheck.UNKNOWN] * 2 + [SubmissionCheck.DUPLICATE] * 3


def test_a_duplicate_that_is_asked_for_is_remembered_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "_REMEMBERED", 2)
    with Scene(["site-1"]) as scene:
        ids = []
        for number in range(3):
            task = scene.task()
            scene.comm.broadcast(task, scene.ctx, ["site-1"])
            ids.append(scene.do("site-1"))
            scene.comm.cancel_task(task)
            if number == 1:
                scene.answer("site-1", ids[0])
        client = scene.engine.join("site-1")
        assert scene.comm.peek_submission(client, "train", ids[0]) is SubmissionCheck.DUPLICATE
        assert scene.comm.peek_submission(client, "train", ids[1]) is SubmissionCheck.UNKNOWN


def test_ten_thousand_are_remembered() -> None:
    assert board_module._REMEMBERED == 10_000


@pytest.mark.parametrize("targets", [None, ["site-1", "site-2"]])
def test_nothing_is_left_of_tasks_that_have_ended(targets: list[str] | None) -> None:
    with Scene(["site-1", "site-2"]) as scene:
        tasks = [scene.task() for _ in range(4)]
        scene.comm.broadcast(tasks[0], scene.ctx, targets and list(targets))
        scene.comm.broadcast_forever(tasks[1], scene.ctx, targets and list(targets))
        scene.comm.relay(tasks[2], scene.ctx, targets and list(targets), dynamic_targets=targets is None)
        scene.comm.send(tasks[3], scene.ctx, ["site-1", "site-2"])
        scene.do("site-1")
        scene.ask("site-2")
        scene.comm.cancel_all_tasks()
        for task in tasks:
            scene.settle(task)
        registry = scene.comm._lifecycle.registry
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
        with Scene(["site-1"]) as scene:
            for number in range(others):
                scene.comm.broadcast(scene.task(), scene.ctx, [f"other-{number}"])
                scene.comm.send(scene.task(), scene.ctx, [f"other-{number}"])
            client, ctx = scene.engine.join("site-1"), scene.engine.new_context()
            best = 1.0
            for _ in range(20):
                began = time.perf_counter()
                for _ in range(50):
                    scene.comm.process_task_request(client, ctx)
                best = min(best, (time.perf_counter() - began) / 50)
            return best

    # the best of many tries, and a wide margin: one that went through all tasks would take hundreds of times as long
    assert seconds_per_request(500) < 10 * seconds_per_request(0)
