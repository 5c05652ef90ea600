"""What holds when agents are killed, doubled or aborted at any point of their work."""

from __future__ import annotations

import numpy as np

from tests.support.link.processes import Scene, pause, resume


def test_an_agent_killed_before_it_fetches_costs_nothing(scene: Scene) -> None:
    cj, doomed = scene.cj(), scene.agent()
    pause(doomed)
    cj.say("run", "t", {"x": 1})
    scene.until("t", "NEW")
    doomed.kill()
    scene.agent().say("serve")
    assert cj.hear("result") == ("t", {"x": 1})
    scene.assert_settled({"t": "ACCEPTED"})


def test_an_agent_killed_while_it_works_is_followed_by_another(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    scene.agent_with_task().kill()
    scene.agent().say("serve")
    assert cj.hear("result") == ("t", {"x": 1})
    assert scene.works() == [("t", 1), ("t", 2)]
    scene.assert_settled({"t": "ACCEPTED"}, works={"t": 2})


def test_an_agent_killed_between_fetch_and_receipt_of_a_large_task_is_followed(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"w": np.arange(400_000.0)})
    doomed = scene.agent(wait_at="before:receive")
    doomed.say("get")
    doomed.hear("at")
    assert scene.status("t") == "FETCHED"
    doomed.kill()
    scene.agent().say("serve")
    _, data = cj.hear("result")
    np.testing.assert_array_equal(data["w"], np.arange(400_000.0))
    assert scene.works() == [("t", 2)]


def test_an_agent_killed_after_its_result_is_in_redis_is_not_needed_any_more(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    pause(cj)
    agent.say("submit", "done")
    scene.until("t", "SUBMITTED", "ACCEPTED")
    agent.kill()
    successor = scene.agent()
    successor.say("serve")
    resume(cj)
    assert cj.hear("result") == ("t", "done")
    cj.say("run", "next", 2)
    assert cj.hear("result") == ("next", 2)
    scene.assert_settled({"t": "ACCEPTED", "next": "ACCEPTED"})


def test_an_agent_killed_with_a_large_result_in_redis_is_not_needed_any_more(scene: Scene) -> None:
    result = np.arange(400_000.0)
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    pause(cj)
    agent.say("submit", result)
    scene.until("t", "SUBMITTED")
    agent.kill()
    resume(cj)
    _, data = cj.hear("result")
    np.testing.assert_array_equal(data, result)
    assert scene.works() == [("t", 1)]


def test_an_agent_killed_just_before_it_submits_is_followed_by_one_that_may_answer_for_it(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task(wait_at="before:submit")
    agent.say("submit", "worked out")
    agent.hear("at")
    agent.kill()
    successor = scene.agent()
    successor.say("submit", "from the checkpoint")
    assert successor.hear("submitted") == (True,)
    assert cj.hear("result") == ("t", "from the checkpoint")
    scene.assert_settled({"t": "ACCEPTED"})


def test_a_second_agent_of_the_same_name_closes_the_first(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    older = scene.agent_with_task()
    newer = scene.agent_with_task()
    older.say("submit", "stale")
    assert "newer instance" in older.hear("closed")[0]
    newer.say("submit", "fresh")
    assert newer.hear("submitted") == (True,)
    assert cj.hear("result") == ("t", "fresh")
    scene.assert_settled({"t": "ACCEPTED"}, works={"t": 2})


def test_an_agent_that_was_frozen_while_another_took_over_can_change_nothing(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    older = scene.agent_with_task(wait_at="before:submit")
    older.say("submit", "stale")
    older.hear("at")
    pause(older)
    newer = scene.agent_with_task()
    newer.say("submit", "fresh")
    assert cj.hear("result") == ("t", "fresh")
    cj.say("run", "next", 2)
    scene.until("next", "NEW")
    resume(older)
    older.say("go")
    assert "newer instance" in older.hear("closed")[0]
    newer.say("serve")
    assert cj.hear("result") == ("next", 2)
    scene.assert_settled({"t": "ACCEPTED", "next": "ACCEPTED"}, works={"t": 2, "next": 1})


def test_a_task_aborted_while_its_agent_works_is_never_accepted(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    cj.say("abort")
    assert cj.hear("failed")[:2] == ("t", "TaskAborted")
    agent.say("await_abort", 10)
    assert agent.hear("aborted") == (True,)
    agent.say("submit", "too late")
    assert agent.hear("submitted") == (False,)
    cj.say("run", "next", 2)
    agent.say("serve")
    assert cj.hear("result") == ("next", 2)
    scene.assert_settled({"t": "ABORTED", "next": "ACCEPTED"})


def test_a_task_aborted_after_its_result_is_in_redis_is_never_accepted(scene: Scene) -> None:
    cj = scene.cj(wait_at="before:settle")
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    agent.say("submit", np.arange(400_000.0))
    cj.hear("at")
    # an operator aborts at the very moment at which the CJ has read the result
    scene.abort_as_operator("t")
    cj.say("go")
    assert cj.hear("failed")[:2] == ("t", "TaskAborted")
    assert agent.hear("submitted") == (False,)
    scene.assert_settled({"t": "ABORTED"})


def test_an_abort_reaches_an_agent_that_was_frozen_when_it_was_published(scene: Scene) -> None:
    cj = scene.cj()
    cj.say("run", "t", {"x": 1})
    agent = scene.agent_with_task()
    pause(agent)
    cj.say("abort")
    cj.hear("failed")
    # its connections are gone as well, and the message with them
    scene.client.client_kill_filter(_type="pubsub")
    resume(agent)
    agent.say("await_abort", 10)
    assert agent.hear("aborted") == (True,)
    scene.assert_settled({"t": "ABORTED"})
