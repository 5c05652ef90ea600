"""An agent is killed while it has a task: how soon its successor has taken it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.harness import Benchmark, BenchmarkContext, Child, children
from tests.benchmarks.peers import Caller, HoldingAgent


def measure(context: BenchmarkContext) -> dict[str, float]:
    name = context.unique("recovery")

    def agent() -> Child:
        return Child(HoldingAgent, context.url, context.site, name, context.workspace)

    with children(lambda: Child(Caller, context.url, context.site, name)) as (caller,):
        warm = [_standby(caller, agent) for _ in range(context.count(10, 2))]
        cold = [_restart(caller, agent) for _ in range(context.count(3, 2))]
    from_start = [since_start for since_start, _ in warm]
    return {
        "from_start": statistics.median(from_start),
        "from_start.worst": max(from_start),
        "from_kill": statistics.median(since_kill for _, since_kill in warm),
        "from_kill.cold": statistics.median(cold),
    }


def _standby(caller: Child, agent: Callable[[], Child]) -> tuple[float, float]:
    """Kill an agent whose successor's process stands by, and start that; ms since its start() and since the kill."""
    with children(agent, agent) as (victim, successor):
        killed = _kill_with_task(caller, victim)
        started, taken = successor.call("take")
        _finish(caller, successor)
    return (taken - started) * 1000, (taken - killed) * 1000


def _restart(caller: Child, agent: Callable[[], Child]) -> float:
    """Kill an agent and launch a new process only then; ms since the kill."""
    with children(agent) as (victim,):
        killed = _kill_with_task(caller, victim)
        with children(agent) as (successor,):
            _, taken = successor.call("take")
            _finish(caller, successor)
    return float(taken - killed) * 1000


def _kill_with_task(caller: Child, victim: Child) -> float:
    caller.call("begin", "tiny")
    victim.call("take")
    killed = time.monotonic()
    victim.kill()
    return killed


def _finish(caller: Child, successor: Child) -> None:
    if not successor.call("finish"):
        raise RuntimeError("the successor's result was not accepted")
    caller.call("finish")


BENCHMARK: Final = Benchmark(
    name="recovery",
    about="SIGKILL of an agent that has a task, until its successor has taken it",
    measure=measure,
    figures=[
        Figure(title="after the successor's start(), median", key="from_start", unit="ms", target=Target(bound=100.0)),
        Figure(title="after the successor's start(), worst", key="from_start.worst", unit="ms"),
        Figure(title="after the kill, the successor's process standing by", key="from_kill", unit="ms"),
        Figure(title="after the kill, with a new process launched", key="from_kill.cold", unit="ms"),
    ],
)
