"""The promises of a link when CJs are killed, frozen or replaced at any point of an exchange."""

from __future__ import annotations

import numpy as np

from tests.support.link.processes import LinkProcesses, pause, resume

BIG = {"w": np.arange(400_000.0)}


def test_a_cj_killed_before_it_assigns_leaves_nothing_behind(processes: LinkProcesses) -> None:
    agent = processes.agent()
    doomed = processes.cj(wait_at="before:write")
    doomed.send("run", "t", {"x": 1})
    doomed.receive("at")
    doomed.kill()
    assert processes.status("t") is None
    agent.send("serve")
    successor = processes.cj()
    successor.send("run", "t", {"x": 1})
    assert successor.receive("result") == ("t", {"x": 1})
    processes.assert_settled({"t": "ACCEPTED"})


def test_a_cj_killed_after_it_wrote_a_large_payload_and_before_it_assigns_leaks_nothing(
    processes: LinkProcesses,
) -> None:
    processes.agent().send("serve")
    doomed = processes.cj(wait_at="after:write")
    doomed.send("run", "t", BIG)
    doomed.receive("at")
    doomed.kill()
    assert any(":blob:" in key for key in processes.own_keys())
    successor = processes.cj()
    successor.send("run", "t", {"x": 1})
    assert successor.receive("result") == ("t", {"x": 1})
    processes.assert_settled({"t": "ACCEPTED"})
    processes.assert_nothing_is_left()


def test_cjs_killed_one_after_another_leave_no_payload_that_outlives_the_task(processes: LinkProcesses) -> None:
    def payloads() -> list[str]:
        return [key for key in processes.own_keys() if ":blob:" in key]

    for _ in range(4):
        doomed = processes.cj(wait_at="after:assign")
        doomed.send("run", "t", BIG)
        doomed.receive("at")
        doomed.kill()
    chunks = -(-BIG["w"].nbytes // processes.settings.limits.chunk_bytes)
    assert len(payloads()) == chunks
    processes.agent().send("serve")
    successor = processes.cj()
    successor.send("run", "t", BIG)
    assert successor.receive("result")[0] == "t"
    assert all(":{site-1--agent}:blob:" in key for key in payloads()), "the kept result alone may be there"
    successor.send("run", "next", 1)
    assert successor.receive("result") == ("next", 1)
    assert not payloads()


def test_a_cj_killed_after_it_assigned_gets_the_result_when_it_restarts(processes: LinkProcesses) -> None:
    doomed = processes.cj()
    doomed.send("run", "t", {"x": 1})
    processes.until("t", "NEW")
    doomed.kill()
    successor = processes.cj()
    successor.send("run", "t", {"x": 1})
    processes.agent().send("serve")
    assert successor.receive("result") == ("t", {"x": 1})
    processes.assert_settled({"t": "ACCEPTED"})


def test_a_cj_killed_while_the_agent_works_gets_the_result_when_it_restarts(processes: LinkProcesses) -> None:
    doomed = processes.cj()
    doomed.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    doomed.kill()
    successor = processes.cj()
    successor.send("run", "t", {"x": 1})
    agent.send("submit", "done")
    assert successor.receive("result") == ("t", "done")
    assert agent.receive("submitted") == (True,)
    processes.assert_settled({"t": "ACCEPTED"})


def test_a_result_submitted_without_a_cj_waits_for_the_next_one(processes: LinkProcesses) -> None:
    doomed = processes.cj()
    doomed.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    doomed.kill()
    agent.send("submit", "done")
    processes.until("t", "SUBMITTED")
    successor = processes.cj()
    successor.send("run", "t", {"x": 1})
    assert successor.receive("result") == ("t", "done")
    assert agent.receive("submitted") == (True,)
    processes.assert_settled({"t": "ACCEPTED"})


def test_a_cj_killed_after_it_read_a_result_and_before_it_accepts_reads_it_again(processes: LinkProcesses) -> None:
    doomed = processes.cj(wait_at="before:settle")
    doomed.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    agent.send("submit", BIG)
    doomed.receive("at")
    doomed.kill()
    successor = processes.cj()
    successor.send("run", "t", {"x": 1})
    task_id, data = successor.receive("result")
    np.testing.assert_array_equal(data["w"], BIG["w"])
    assert agent.receive("submitted") == (True,)
    assert (task_id, processes.status("t"), processes.executions()) == ("t", "ACCEPTED", [("t", 1)])


def test_a_cj_killed_after_it_accepted_and_before_it_used_the_result_gets_it_again(processes: LinkProcesses) -> None:
    doomed = processes.cj(wait_at="after:settle")
    doomed.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    agent.send("submit", BIG)
    doomed.receive("at")
    assert agent.receive("submitted") == (True,)
    doomed.kill()
    successor = processes.cj()
    successor.send("run", "t", {"x": 1})
    _, data = successor.receive("result")
    np.testing.assert_array_equal(data["w"], BIG["w"])
    assert processes.executions() == [("t", 1)]
    agent.send("serve")
    successor.send("run", "next", 2)
    assert successor.receive("result") == ("next", 2)
    processes.assert_all_keys_expire()


def test_a_cj_that_asks_for_an_older_task_does_not_have_it_done_again(processes: LinkProcesses) -> None:
    doomed, agent = processes.cj(), processes.agent()
    agent.send("serve")
    doomed.send("run", "older", 1)
    assert doomed.receive("result") == ("older", 1)
    agent.kill()
    agent = processes.agent()
    agent.send("get")
    doomed.send("run", "newer", 2)
    agent.receive("task")
    doomed.kill()
    successor = processes.cj()
    successor.send("run", "older", 1)
    _, kind, reason = successor.receive("failed")
    assert kind == "TaskRejected"
    assert "task older was accepted before, and other tasks came after it" in reason
    assert processes.status("newer") == "FETCHED"
    agent.send("echo")
    successor.send("run", "newer", 2)
    assert successor.receive("result") == ("newer", 2)
    assert agent.receive("submitted") == (True,)
    processes.assert_settled({"older": "ACCEPTED", "newer": "ACCEPTED"})


def test_a_cj_replaced_while_the_agent_trains_is_fenced_and_its_successor_gets_the_result(
    processes: LinkProcesses,
) -> None:
    older = processes.cj()
    older.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    newer = processes.cj()
    newer.send("run", "t", {"x": 1})
    assert older.receive("failed")[:2] == ("t", "TaskAborted")
    agent.send("submit", "done")
    assert newer.receive("result") == ("t", "done")
    assert agent.receive("submitted") == (True,)
    processes.assert_settled({"t": "ACCEPTED"})


def test_a_cj_frozen_before_it_accepts_cannot_accept_after_it_was_replaced(processes: LinkProcesses) -> None:
    older = processes.cj(wait_at="before:settle")
    older.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    agent.send("submit", BIG)
    older.receive("at")
    pause(older)
    newer = processes.cj()
    newer.send("run", "other", {"x": 2})
    assert agent.receive("submitted") == (False,)
    agent.send("serve")
    assert newer.receive("result") == ("other", {"x": 2})
    resume(older)
    older.send("go")
    assert older.receive("failed")[:2] == ("t", "TaskAborted")
    processes.assert_settled({"t": "ABORTED", "other": "ACCEPTED"})


def test_a_cj_frozen_while_it_aborts_cannot_abort_its_successors_task(processes: LinkProcesses) -> None:
    older = processes.cj(wait_at="before:abort")
    older.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    older.send("abort")
    older.receive("at")
    newer = processes.cj()
    newer.send("run", "t", {"x": 1})
    older.send("go")
    older.receive("failed")
    agent.send("submit", "done")
    assert newer.receive("result") == ("t", "done")
    assert agent.receive("submitted") == (True,)
    processes.assert_settled({"t": "ACCEPTED"})


def test_the_successors_of_both_sides_complete_the_open_task(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    cj.kill()
    agent.kill()
    successor = processes.cj()
    successor.send("run", "t", {"x": 1})
    processes.agent().send("serve")
    assert successor.receive("result") == ("t", {"x": 1})
    processes.assert_settled({"t": "ACCEPTED"}, executions={"t": 2})


def test_a_cj_that_is_stopped_aborts_its_task_and_ends_the_agent(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", {"x": 1})
    agent = processes.agent_with_task()
    cj.end()
    agent.send("await_abort", 10)
    assert agent.receive("aborted") == (True,)
    agent.send("get")
    assert "bye" in agent.receive("closed")[0]
    processes.assert_settled({"t": "ABORTED"})
    agent.end()
    processes.assert_nothing_is_left()
