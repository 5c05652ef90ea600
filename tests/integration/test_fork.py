"""A trainer may fork data loaders, which end by themselves, by SIGKILL or by Ctrl-C."""

from __future__ import annotations

from signal import SIGKILL

from tests.programs import forking
from tests.programs.agent import AgentArgs
from tests.support.link.processes import LinkProcesses


def test_an_agent_that_forks_in_the_middle_of_its_tasks_continues(processes: LinkProcesses) -> None:
    cj = processes.cj()
    agent = processes.start(forking.main, AgentArgs(url=processes.url, settings=processes.settings))
    for number in range(3):
        cj.send("run", f"t{number}", {"x": number})
        _, loaders = cj.receive("result")
        assert [code for _, code in loaders] == [0, -SIGKILL, 1]
        assert all("called in its child" in message for message, _ in loaders)
        assert agent.receive("submitted") == (True,)
    assert agent.received("task") == [("t0", 1), ("t1", 1), ("t2", 1)]
