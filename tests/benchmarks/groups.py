"""Many agents in one process and many exchangers in one CJ process."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from redflare_workers.ipc.exchanger import IPCExchanger

from tests.benchmarks.peers import PATIENCE, EchoAgent, MeasuredProcess


class AgentGroup(MeasuredProcess):
    """Echo agents that share a process, a thread of work each."""

    def __init__(self, url: str, site: str, agent_ids: Sequence[str], workspace: str) -> None:
        self._agents = [EchoAgent(url, site, agent_id, workspace) for agent_id in agent_ids]

    def close(self) -> None:
        for agent in self._agents:
            agent.close()


class CallerGroup(MeasuredProcess):
    """One CJ process that serves many agents, with a calling thread each."""

    def __init__(self, url: str, site: str, agent_ids: Sequence[str]) -> None:
        self._stack = ExitStack()
        self._exchangers = [
            self._stack.enter_context(IPCExchanger(redis_url=url, site_name=site, agent_id=agent_id))
            for agent_id in agent_ids
        ]

    def tasks_per_second(self, count_each: int) -> float:
        """Give every agent ``count_each`` tasks, all agents at once."""
        gate = threading.Barrier(len(self._exchangers) + 1)
        threads = [
            threading.Thread(target=_call, args=(exchanger, count_each, gate), name="bench-caller", daemon=True)
            for exchanger in self._exchangers
        ]
        for thread in threads:
            thread.start()
        gate.wait()
        begin = time.monotonic()
        for thread in threads:
            thread.join()
        return count_each * len(threads) / (time.monotonic() - begin)

    def close(self) -> None:
        self._stack.close()


def _call(exchanger: IPCExchanger, count: int, gate: threading.Barrier) -> None:
    gate.wait()
    for number in range(count):
        result = exchanger.run("tiny", {"x": number}, timeout=PATIENCE)
        if result.data != {"x": number}:
            raise RuntimeError(f"sent x={number}, got {result!r} back")
