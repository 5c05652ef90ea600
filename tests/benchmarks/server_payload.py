"""A job's server and large models: what a broadcast stores, and what aggregating and passing on cost in memory."""

from __future__ import annotations

import time
from typing import Any, Final

import redis

from tests.benchmarks.federation import AveragingServer, BroadcastServer, LightClients, PassingSite
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.harness import Benchmark, BenchmarkContext, Child, children
from tests.benchmarks.peers import MB, EchoAgent

#: MB of the model, and how many sites have it at once.
MODEL: Final = 100
SITES: Final = 50
#: Results that are aggregated in a quick run.
FEW_RESULTS: Final = 6
#: MB of the model that a client job passes through.
PASSED: Final = 200


def measure(context: BenchmarkContext) -> dict[str, float]:
    return _broadcast(context) | _aggregate(context) | _pass_through(context)


def _size(context: BenchmarkContext, megabytes: int) -> int:
    return max(1 << 20, int(megabytes * MB * min(1.0, context.scale)))


def _broadcast(context: BenchmarkContext) -> dict[str, float]:
    job, nbytes = context.unique("stored"), _size(context, MODEL)
    with (
        redis.Redis.from_url(context.url) as client,
        children(
            lambda: Child(BroadcastServer, context.url, job),
            lambda: Child(LightClients, context.url, job, SITES, 0, True),
        ) as (server, sites),
    ):
        sites.call("ask")
        server.call("await_clients", SITES)
        before = _stored(client)
        begin = time.monotonic()
        server.call("begin_broadcast", nbytes)
        taken = sites.call("stamps", SITES)
        stored = _stored(client) - before
        sites.call("answer")
        server.call("finish_broadcast")
    return {
        "stored": stored / MB * MODEL * MB / nbytes,
        "handed_out": (taken[-1] - begin) * 1000,
    }


def _stored(client: redis.Redis) -> float:
    """Bytes of data in Redis; what its connections take for a moment is not data."""
    memory: Any = client.info("memory")
    return float(memory["used_memory"]) - float(memory["mem_clients_normal"])


def _aggregate(context: BenchmarkContext) -> dict[str, float]:
    job, nbytes = context.unique("averaged"), _size(context, MODEL)
    results = context.count(SITES, FEW_RESULTS)
    begin = time.monotonic()
    with children(
        lambda: Child(AveragingServer, context.url, job, nbytes, results),
        lambda: Child(LightClients, context.url, job, results, nbytes),
    ) as (server, sites):
        sites.call("ask")
        server.call("await_clients", results)
        grown = server.call("average")
    return {
        "aggregated": grown * MB / nbytes,
        "aggregating": (time.monotonic() - begin) / results * 1000,
    }


def _pass_through(context: BenchmarkContext) -> dict[str, float]:
    job, nbytes = context.unique("passed"), _size(context, PASSED)
    site = context.unique("site")
    with children(
        lambda: Child(BroadcastServer, context.url, job),
        lambda: Child(EchoAgent, context.url, site, "agent", context.workspace),
        lambda: Child(PassingSite, context.url, job, site, "agent"),
    ) as (server, agent, passing):
        server.call("await_clients", 1)
        server.call("begin_broadcast", 4 * MB)  # buffers, imports
        server.call("finish_broadcast")
        passing.call("mark_memory")
        begin = time.monotonic()
        server.call("begin_broadcast", nbytes)
        (back,) = server.call("finish_broadcast")
        seconds = time.monotonic() - begin
        agent.call("stamps", 2)
        if back < nbytes - 4:
            raise RuntimeError(f"{nbytes} bytes were sent through the client job, {back} came back")
        return {"passed": passing.call("memory_growth"), "passing": seconds * 1000}


BENCHMARK: Final = Benchmark(
    name="server_payload",
    about=f"models of {MODEL} MB between a server and its sites; those that only take and answer share one process",
    measure=measure,
    figures=[
        Figure(
            title=f"{MODEL} MB broadcast to {SITES} sites, data in Redis",
            key="stored",
            unit="MB",
            target=Target(bound=105),
        ),
        Figure(title="until all sites know of it", key="handed_out", unit="ms"),
        Figure(
            title=f"FedAvg over {SITES} results of {MODEL} MB ({FEW_RESULTS} in a quick run), memory beyond the model",
            key="aggregated",
            unit="arrays",
            target=Target(bound=3),
        ),
        Figure(title="the same, for each result, with the storing of it", key="aggregating", unit="ms"),
        Figure(
            title=f"{PASSED} MB to an agent and back, memory of the client job",
            key="passed",
            unit="MB",
            target=Target(bound=20),
        ),
        Figure(title="the same, from the server to the agent and back", key="passing", unit="ms"),
    ],
)
