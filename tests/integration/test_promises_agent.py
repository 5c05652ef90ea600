"""The promises of a link when agents are killed, duplicated or aborted at any point of a task."""

from __future__ import annotations

import numpy as np

from tests.support.link.processes import LinkProcesses, pause, resume


def test_an_agent_killed_before_it_fetches_costs_nothing(processes: LinkProcesses) -> None:
    cj, doomed = processes.cj(), processes.agent()
    pause(doomed)
    cj.send("run", "t", {"x": 1})
    processes.until("t", "NEW")
    doomed.kill()
    processes.agent().send("serve")
    assert cj.receive("result") == ("t", {"x": 1})
    processes.assert_settled({"t": "ACCEPTED"})


def test_the_task_of_an_agent_killed_while_it_trains_is_taken_by_its_successor(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    processes.agent_with_task().kill()
    processes.agent().send("serve")
    assert cj.receive("result") == ("t", {"x": 1})
    assert processes.executions() == [("t", 1), ("t", 2)]
    processes.assert_settled({"t": "ACCEPTED"}, executions={"t": 2})


def test_a_large_task_whose_agent_was_killed_while_it_read_it_is_taken_by_its_successor(
    processes: LinkProcesses,
) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"w": np.arange(400_000.0)})
    doomed = processes.agent(wait_at="before:receive")
    doomed.send("get")
    doomed.receive("at")
    assert processes.status("t") == "FETCHED"
    doomed.kill()
    processes.agent().send("serve")
    _, data = cj.receive("result")
    np.testing.assert_array_equal(data["w"], np.arange(400_000.0))
    assert processes.executions() == [("t", 2)]


def test_an_agent_killed_after_its_result_is_in_redis_is_not_needed_any_more(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    pause(cj)
    agent.send("submit", "done")
    processes.until("t", "SUBMITTED", "ACCEPTED")
    agent.kill()
    successor = processes.agent()
    successor.send("serve")
    resume(cj)
    assert cj.receive("result") == ("t", "done")
    cj.send("run", "next", 2)
    assert cj.receive("result") == ("next", 2)
    processes.assert_settled({"t": "ACCEPTED", "next": "ACCEPTED"})


def test_an_agent_killed_with_a_large_result_in_redis_is_not_needed_any_more(processes: LinkProcesses) -> None:
    result = np.arange(400_000.0)
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    pause(cj)
    agent.send("submit", result)
    processes.until("t", "SUBMITTED")
    agent.kill()
    resume(cj)
    _, data = cj.receive("result")
    np.testing.assert_array_equal(data, result)
    assert processes.executions() == [("t", 1)]


def test_the_successor_of_an_agent_killed_just_before_it_submits_may_submit_the_result(
    processes: LinkProcesses,
) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task(wait_at="before:submit")
    agent.send("submit", "worked out")
    agent.receive("at")
    agent.kill()
    successor = processes.agent()
    successor.send("submit", "from the checkpoint")
    assert successor.receive("submitted") == (True,)
    assert cj.receive("result") == ("t", "from the checkpoint")
    processes.assert_settled({"t": "ACCEPTED"})


def test_a_second_agent_of_the_same_name_closes_the_first(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    older = processes.agent_with_task()
    newer = processes.agent_with_task()
    older.send("submit", "stale")
    assert "newer instance" in older.receive("closed")[0]
    newer.send("submit", "fresh")
    assert newer.receive("submitted") == (True,)
    assert cj.receive("result") == ("t", "fresh")
    processes.assert_settled({"t": "ACCEPTED"}, executions={"t": 2})


def test_a_frozen_agent_that_was_replaced_is_fenced(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    older = processes.agent_with_task(wait_at="before:submit")
    older.send("submit", "stale")
    older.receive("at")
    pause(older)
    newer = processes.agent_with_task()
    newer.send("submit", "fresh")
    assert cj.receive("result") == ("t", "fresh")
    cj.send("run", "next", 2)
    processes.until("next", "NEW")
    resume(older)
    older.send("go")
    assert "newer instance" in older.receive("closed")[0]
    newer.send("serve")
    assert cj.receive("result") == ("next", 2)
    processes.assert_settled({"t": "ACCEPTED", "next": "ACCEPTED"}, executions={"t": 2, "next": 1})


def test_a_task_aborted_while_its_agent_works_is_never_accepted(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    cj.send("abort")
    assert cj.receive("failed")[:2] == ("t", "TaskAborted")
    agent.send("await_abort", 10)
    assert agent.receive("aborted") == (True,)
    agent.send("submit", "too late")
    assert agent.receive("submitted") == (False,)
    cj.send("run", "next", 2)
    agent.send("serve")
    assert cj.receive("result") == ("next", 2)
    processes.assert_settled({"t": "ABORTED", "next": "ACCEPTED"})


def test_a_task_aborted_after_its_result_is_in_redis_is_never_accepted(processes: LinkProcesses) -> None:
    cj = processes.cj(wait_at="before:settle")
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    agent.send("submit", np.arange(400_000.0))
    cj.receive("at")
    # an operator aborts at the very moment at which the CJ has read the result
    processes.abort_as_operator("t")
    cj.send("go")
    assert cj.receive("failed")[:2] == ("t", "TaskAborted")
    assert agent.receive("submitted") == (False,)
    processes.assert_settled({"t": "ABORTED"})


def test_an_abort_reaches_an_agent_that_was_frozen_when_it_was_published(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    pause(agent)
    cj.send("abort")
    cj.receive("failed")
    # its connections are gone as well, and the message with them
    processes.client.client_kill_filter(_type="pubsub")
    resume(agent)
    agent.send("await_abort", 10)
    assert agent.receive("aborted") == (True,)
    processes.assert_settled({"t": "ABORTED"})
