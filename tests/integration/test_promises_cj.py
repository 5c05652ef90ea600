"""What holds when client jobs are killed, frozen or replaced at any point of an exchange."""

from __future__ import annotations

import numpy as np

from tests.support.link.processes import Scene, pause, resume

BIG = {"w": np.arange(400_000.0)}


def test_a_cj_killed_before_it_assigns_leaves_nothing_behind(scene: Scene) -> None:
    agent = scene.agent()
    doomed = scene.cj(wait_at="before:write")
    doomed.say("run", "t", {"x": 1})
    doomed.hear("at")
    doomed.kill()
    assert scene.status("t") is None
    agent.say("serve")
    successor = scene.cj()
    successor.say("run", "t", {"x": 1})
    assert successor.hear("result") == ("t", {"x": 1})
    scene.assert_settled({"t": "ACCEPTED"})


def test_a_cj_killed_after_it_wrote_a_large_payload_and_before_it_assigns_leaks_nothing(scene: Scene) -> None:
    scene.agent().say("serve")
    doomed = scene.cj(wait_at="after:write")
    doomed.say("run", "t", BIG)
    doomed.hear("at")
    doomed.kill()
    assert any(":blob:" in key for key in scene.own_keys())
    successor = scene.cj()
    successor.say("run", "t", {"x": 1})
    assert successor.hear("result") == ("t", {"x": 1})
    scene.assert_settled({"t": "ACCEPTED"})
    scene.assert_nothing_is_left()


def test_a_cj_killed_after_it_assigned_gets_the_result_when_it_restarts(scene: Scene) -> None:
    doomed = scene.cj()
    doomed.say("run", "t", {"x": 1})
    scene.until("t", "NEW")
    doomed.kill()
    successor = scene.cj()
    successor.say("run", "t", {"x": 1})
    scene.agent().say("serve")
    assert successor.hear("result") == ("t", {"x": 1})
    scene.assert_settled({"t": "ACCEPTED"})


def test_a_cj_killed_while_the_agent_works_gets_the_result_when_it_restarts(scene: Scene) -> None:
    doomed = scene.cj()
    doomed.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    doomed.kill()
    successor = scene.cj()
    successor.say("run", "t", {"x": 1})
    agent.say("submit", "done")
    assert successor.hear("result") == ("t", "done")
    assert agent.hear("submitted") == (True,)
    scene.assert_settled({"t": "ACCEPTED"})


def test_a_result_handed_in_while_no_cj_is_there_waits_for_the_next(scene: Scene) -> None:
    doomed = scene.cj()
    doomed.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    doomed.kill()
    agent.say("submit", "done")
    scene.until("t", "SUBMITTED")
    successor = scene.cj()
    successor.say("run", "t", {"x": 1})
    assert successor.hear("result") == ("t", "done")
    assert agent.hear("submitted") == (True,)
    scene.assert_settled({"t": "ACCEPTED"})


def test_a_cj_killed_after_it_read_a_result_and_before_it_accepts_reads_it_again(scene: Scene) -> None:
    doomed = scene.cj(wait_at="before:settle")
    doomed.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    agent.say("submit", BIG)
    doomed.hear("at")
    doomed.kill()
    successor = scene.cj()
    successor.say("run", "t", {"x": 1})
    task_id, data = successor.hear("result")
    np.testing.assert_array_equal(data["w"], BIG["w"])
    assert agent.hear("submitted") == (True,)
    assert (task_id, scene.status("t"), scene.works()) == ("t", "ACCEPTED", [("t", 1)])


def test_a_cj_killed_after_it_accepted_and_before_it_used_the_result_gets_it_again(scene: Scene) -> None:
    doomed = scene.cj(wait_at="after:settle")
    doomed.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    agent.say("submit", BIG)
    doomed.hear("at")
    assert agent.hear("submitted") == (True,)
    doomed.kill()
    successor = scene.cj()
    successor.say("run", "t", {"x": 1})
    _, data = successor.hear("result")
    np.testing.assert_array_equal(data["w"], BIG["w"])
    assert scene.works() == [("t", 1)]
    agent.say("serve")
    successor.say("run", "next", 2)
    assert successor.hear("result") == ("next", 2)
    scene.assert_all_keys_end()


def test_a_cj_replaced_while_the_agent_works_is_told_and_its_successor_gets_the_result(scene: Scene) -> None:
    older = scene.cj()
    older.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    newer = scene.cj()
    newer.say("run", "t", {"x": 1})
    assert older.hear("failed")[:2] == ("t", "TaskAborted")
    agent.say("submit", "done")
    assert newer.hear("result") == ("t", "done")
    assert agent.hear("submitted") == (True,)
    scene.assert_settled({"t": "ACCEPTED"})


def test_a_cj_frozen_before_it_accepts_cannot_accept_after_it_was_replaced(scene: Scene) -> None:
    older = scene.cj(wait_at="before:settle")
    older.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    agent.say("submit", BIG)
    older.hear("at")
    pause(older)
    newer = scene.cj()
    newer.say("run", "other", {"x": 2})
    assert agent.hear("submitted") == (False,)
    agent.say("serve")
    assert newer.hear("result") == ("other", {"x": 2})
    resume(older)
    older.say("go")
    assert older.hear("failed")[:2] == ("t", "TaskAborted")
    scene.assert_settled({"t": "ABORTED", "other": "ACCEPTED"})


def test_a_cj_frozen_while_it_aborts_cannot_abort_its_successors_task(scene: Scene) -> None:
    older = scene.cj(wait_at="before:abort")
    older.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    older.say("abort")
    older.hear("at")
    newer = scene.cj()
    newer.say("run", "t", {"x": 1})
    older.say("go")
    older.hear("failed")
    agent.say("submit", "done")
    assert newer.hear("result") == ("t", "done")
    assert agent.hear("submitted") == (True,)
    scene.assert_settled({"t": "ACCEPTED"})


def test_both_sides_killed_while_a_task_is_in_hand_finish_it_with_their_successors(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    cj.kill()
    agent.kill()
    successor = scene.cj()
    successor.say("run", "t", {"x": 1})
    scene.agent().say("serve")
    assert successor.hear("result") == ("t", {"x": 1})
    scene.assert_settled({"t": "ACCEPTED"}, works={"t": 2})


def test_a_cj_that_stops_in_good_order_aborts_its_task_and_ends_the_agent(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    cj.end()
    agent.say("await_abort", 10)
    assert agent.hear("aborted") == (True,)
    agent.say("get")
    assert "bye" in agent.hear("closed")[0]
    scene.assert_settled({"t": "ABORTED"})
    agent.end()
    scene.assert_nothing_is_left()
