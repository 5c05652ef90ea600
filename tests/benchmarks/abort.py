"""From the CJ's abort to ``task.aborted`` in the agent, while a thread of the agent waits for it."""

from __future__ import annotations

from typing import Final

from tests.benchmarks.figures import Figure, Target, summary
from tests.benchmarks.harness import Benchmark, BenchmarkContext, Child, children
from tests.benchmarks.peers import Caller, HoldingAgent


def measure(context: BenchmarkContext) -> dict[str, float]:
    name = context.unique("abort")
    with children(
        lambda: Child(Caller, context.url, context.site, name),
        lambda: Child(HoldingAgent, context.url, context.site, name, context.workspace),
    ) as (caller, agent):
        _abort_one(caller, agent)  # warms up
        return summary("abort", [_abort_one(caller, agent) for _ in range(context.count(200, 50))])


def _abort_one(caller: Child, agent: Child) -> float:
    caller.call("begin", "endless")
    agent.call("take")
    agent.call("watch")
    asked = float(caller.call("abort"))
    aborted = float(agent.call("aborted_at"))
    caller.call("finish")
    return (aborted - asked) * 1000


BENCHMARK: Final = Benchmark(
    name="abort",
    about="from exchanger.abort() to task.wait_aborted() returned in the agent",
    measure=measure,
    figures=[
        Figure(title="abort to task.aborted, p50", key="abort.p50", unit="ms"),
        Figure(title="abort to task.aborted, p99", key="abort.p99", unit="ms", target=Target(bound=5.0)),
    ],
)
