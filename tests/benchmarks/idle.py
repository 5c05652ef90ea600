"""What a link costs while nothing happens: commands, processor time, memory in Redis."""

from __future__ import annotations

import time
from typing import Any, Final

import redis

from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.groups import AgentGroup, CallerGroup
from tests.benchmarks.harness import Bench, Benchmark, Child, children, count_commands, idle
from tests.benchmarks.peers import Caller, EchoAgent


def measure(bench: Bench) -> dict[str, float]:
    return _link(bench) | _memory(bench)


def _link(bench: Bench) -> dict[str, float]:
    name = bench.unique("idle")
    with children(
        lambda: Child(EchoAgent, bench.url, bench.site, name, bench.workspace),
        lambda: Child(Caller, bench.url, bench.site, name),
    ) as (agent, caller):
        caller.call("round_trips", 2)
        seconds = bench.seconds(60, 6)
        with count_commands(bench.url) as count:
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


def _memory(bench: Bench) -> dict[str, float]:
    number = bench.count(100, 20)
    ids = [bench.unique("memory") for _ in range(number)]
    with redis.Redis.from_url(bench.url, decode_responses=True) as client:
        before = _usage(client)
        with children(
            lambda: Child(AgentGroup, bench.url, bench.site, ids, bench.workspace),
            lambda: Child(CallerGroup, bench.url, bench.site, ids),
        ) as (_, callers):
            fresh = _grown(client, before, number, bench)
            callers.call("tasks_per_second", 1)
            used = _grown(client, before, number, bench)
    return fresh | {f"{key}.after_task": value for key, value in used.items()}


def _grown(client: redis.Redis, before: dict[str, float], number: int, bench: Bench) -> dict[str, float]:
    # Redis shrinks the buffers of quiet connections once they have been quiet for about 2 s.
    idle(bench.seconds(6, 3))
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
