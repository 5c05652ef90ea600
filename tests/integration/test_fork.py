"""A trainer may fork data loaders as it likes: they end by themselves, by SIGKILL or by Ctrl-C."""

from __future__ import annotations

from signal import SIGKILL

from tests.programs import forking
from tests.programs.agent import AgentArgs
from tests.support.link.processes import Scene


def test_an_agent_that_forks_in_the_middle_of_its_tasks_works_on(scene: Scene) -> None:
    cj = scene.cj()
    agent = scene.start(forking.main, AgentArgs(url=scene.url, settings=scene.settings))
    for number in range(3):
        cj.say("run", f"t{number}", {"x": number})
        _, loaders = cj.hear("result")
        assert [code for _, code in loaders] == [0, -SIGKILL, 1]
        assert all("called in its child" in message for message, _ in loaders)
        assert agent.hear("submitted") == (True,)
    assert agent.heard("task") == [("t0", 1), ("t1", 1), ("t2", 1)]
