"""Invariants of tasks and callbacks under concurrent clients and callbacks."""

from __future__ import annotations

import logging
import threading

import pytest
from redflare_workers.apis.task import ClientTask

from tests.chaos.workflow_stress import Stress

pytestmark = pytest.mark.serial


@pytest.mark.parametrize("seed", [1, 2])
def test_every_task_ends_once_and_every_callback_runs_once(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("redflare_workers").setLevel(logging.CRITICAL)
    threads = set(threading.enumerate())
    stress = Stress(seed)
    try:
        stress.run(seconds=3)
    finally:
        logging.getLogger("redflare_workers").setLevel(logging.NOTSET)
    counter, comm = stress.counter, stress.comm

    assert counter.problems == []
    assert set(threading.enumerate()) == threads, "a thread is left"

    tasks = counter.scheduled_tasks
    assert len(tasks) > 50
    assert stress.accepted > 200
    assert {task for task in tasks if counter.ended_tasks[task] != 1} == set()
    assert {task for task in tasks if counter.calls["task_done_cb"][task] != 1} == set()
    assert {task for task in tasks if task.completion_status is None or task.is_standing} == set()

    for task in tasks:
        assert len({client_task.id for client_task in task.client_tasks}) == len(task.client_tasks)
        if task.result_received_cb is not None:
            for client_task in task.client_tasks:
                assert_callbacks_ran_once(stress, client_task)

    registry = comm._lifecycle.registry
    assert comm.get_num_standing_tasks() == 0
    left = (
        registry.standing_tasks,
        registry.by_task,
        registry._client_tasks,
        registry._owed,
        registry._own,
        registry._wide,
        registry.freed,
    )
    assert [len(each) for each in left] == [0] * len(left)
    assert len(comm._lifecycle.callbacks) == 0


def assert_callbacks_ran_once(stress: Stress, client_task: ClientTask) -> None:
    calls = stress.counter.calls
    before, after = calls["before_task_sent_cb"][client_task], calls["after_task_sent_cb"][client_task]
    assert before == after >= client_task.task_send_count >= 1
    received = client_task.result_received_time is not None
    assert calls["result_received_cb"][client_task] == int(received)
