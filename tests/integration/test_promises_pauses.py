"""A side whose process was stopped, or too busy, does not take the other one for dead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.link.processes import LinkProcesses, pause, resume
from tests.support.waiting import wait_until

DATA = np.arange(40_000.0)
#: Every pause is longer, as long as a heartbeat lives. A process that is not paused beats twenty times as often, also
#: where the machine is busy: its peer would be right to take it for dead.
TIMEOUT = 2.0
TTL = 2.4


@pytest.mark.parametrize("paused", ["agent", "cj", "both"])
def test_a_side_that_was_stopped_looks_before_it_judges(processes: LinkProcesses, paused: str) -> None:
    processes.settings = replace(processes.settings, heartbeat_interval=0.1, heartbeat_ttl=TTL)
    # a side that is not stopped would be right to take the other one for dead
    cj = processes.cj(heartbeat_timeout=TIMEOUT if paused != "agent" else None)
    agent = processes.agent(heartbeat_timeout=TIMEOUT if paused != "cj" else None)
    agent.send("get")
    cj.send("run", "t", DATA)
    agent.receive("task")
    sides = {"agent": [agent], "cj": [cj], "both": [agent, cj]}[paused]
    roles = ("agent", "cj") if paused == "both" else (paused,)
    beats = [processes.keys.heartbeat(role) for role in roles]
    for _ in range(3):
        pause(*sides)
        wait_until(lambda: not processes.client.exists(*beats), what="the heartbeats have expired")
        resume(*sides)
        wait_until(lambda: processes.client.exists(*beats) == len(beats), what="they are back")
    agent.send("echo")
    _, data = cj.receive("result")
    np.testing.assert_array_equal(data, DATA)
    assert agent.receive("submitted") == (True,)
    processes.assert_settled({"t": "ACCEPTED"})
