"""What a link costs while nothing happens: commands, processor time, memory in Redis."""

from __future__ import annotations

import time
from typing import Any, Final

import redis

from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.groups import AgentGroup, CallerGroup
from tests.benchmarks.harness import Benchmark, BenchmarkContext, Child, children, count_commands, idle
from tests.benchmarks.peers import Caller, EchoAgent


def measure(context: BenchmarkContext) -> dict[str, float]:
    return _link(context) | _memory(context)


def _link(context: BenchmarkContext) -> dict[str, float]:
    name = context.unique("idle")
    with children(
        lambda: Child(EchoAgent, context.url, context.site, name, context.workspace),
        lambda: Child(Caller, context.url, context.site, name),
    ) as (agent, caller):
        caller.call("round_trips", 2)
        seconds = context.seconds(60, 6)
        with count_commands(context.url) as count:
            begin = time.monotonic()
            agent_cpu, caller_cpu = agent.call("cpu_seconds"), caller.call("cpu_seconds")
            idle(seconds)
            agent_cpu = agent.call("cpu_seconds") - agent_cpu
            caller_cpu = caller.call("cpu_seconds") - caller_cpu
            passed = time.monotonic() - begin
    return {
        "commands": count.by_clients / passed,
        "in_lua": count.by_scripts / passed,
        "agent_cpu": agent_cpu * 60 / passed,
        "caller_cpu": caller_cpu * 60 / passed,
    }


def _memory(context: BenchmarkContext) -> dict[str, float]:
    number = context.count(100, 20)
    ids = [context.unique("memory") for _ in range(number)]
    with redis.Redis.from_url(context.url, decode_responses=True) as client:
        before = _usage(client)
        with children(
            lambda: Child(AgentGroup, context.url, context.site, ids, context.workspace),
            lambda: Child(CallerGroup, context.url, context.site, ids),
        ) as (_, callers):
            fresh = _grown(client, before, number, context)
            callers.call("tasks_per_second", 1)
            used = _grown(client, before, number, context)
    return fresh | {f"{key}.after_task": value for key, value in used.items()}


def _grown(client: redis.Redis, before: dict[str, float], number: int, context: BenchmarkContext) -> dict[str, float]:
    # Redis shrinks the buffers of quiet connections once they have been quiet for about 2 s.
    idle(context.seconds(6, 3))
    return {key: (value - before[key]) / number for key, value in _usage(client).items()}


def _usage(client: redis.Redis) -> dict[str, float]:
    memory: Any = client.info("memory")
    clients: Any = client.info("clients")
    connections = float(memory["mem_clients_normal"])
    total = float(memory["used_memory"])
    return {
        "dataset": (total - connections) / 1024,
        "total": total / 1024,
        "connections": float(clients["connected_clients"]),
    }


BENCHMARK: Final = Benchmark(
    name="idle",
    about="one link without a task; memory is that of 100 such links (20 in a quick run), heartbeats running",
    measure=measure,
    figures=[
        Figure(title="commands sent by both sides", key="commands", unit="1/s", target=Target(bound=1.0)),
        Figure(title="commands inside Lua, on top", key="in_lua", unit="1/s"),
        Figure(title="processor time of the agent", key="agent_cpu", unit="s/min", target=Target(bound=0.1)),
        Figure(title="processor time of the CJ", key="caller_cpu", unit="s/min", target=Target(bound=0.1)),
        Figure(title="data in Redis per idle agent", key="dataset", unit="KB", target=Target(bound=4.0)),
        Figure(title="the same and connections of both sides", key="total", unit="KB"),
        Figure(title="connections of both sides", key="connections", unit=""),
        Figure(title="data in Redis per idle agent that has done a task", key="dataset.after_task", unit="KB"),
    ],
)
