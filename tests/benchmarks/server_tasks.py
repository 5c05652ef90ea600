"""A job's server: tasks handed out and taken back per second, and how soon a scheduled task is in a client's hands."""

from __future__ import annotations

import statistics
from typing import Final

from tests.benchmarks.federation import BroadcastServer, LightClients
from tests.benchmarks.figures import Figure, Target, percentile
from tests.benchmarks.floors import BareWorker, FloorAgent, FloorCaller
from tests.benchmarks.harness import Benchmark, BenchmarkContext, Child, children, idle

#: Clients: rounds of a full run, of a quick one.
SIZES: Final = {1: (1000, 200), 10: (200, 40), 100: (40, 8), 1000: (8, 3)}
#: Clients: scheduled tasks of a full run, of a quick one, for the latency.
LATENCIES: Final = {1: (300, 100), 100: (30, 10)}
#: Seconds after a task in which its clients ask for the next one.
PAUSES: Final = {1: 0.005, 100: 0.2}


def measure(context: BenchmarkContext) -> dict[str, float]:
    values: dict[str, float] = {}
    with children(lambda: Child(BareWorker, context.url)) as (worker,):
        values["bare"] = worker.call("tasks_per_second", context.count(3000, 600))
    for clients in SIZES:
        values |= _measure_size(context, clients)
    return values


def _measure_size(context: BenchmarkContext, clients: int) -> dict[str, float]:
    job = context.unique("tasks")
    count = clients if context.scale == 1.0 else max(1, round(clients * context.scale))
    with children(
        lambda: Child(FloorAgent, context.url, job),
        lambda: Child(FloorCaller, context.url, job),
        lambda: Child(BroadcastServer, context.url, job),
        lambda: Child(LightClients, context.url, job, count),
    ) as (_, floor, server, sites):
        sites.call("ask")
        server.call("await_clients", count)
        server.call("rounds", 2)  # warms up
        sites.call("stamps", 2 * count)
        values = _rate(context, server, sites, clients, count)
        if clients in LATENCIES:
            values |= _latency(context, floor, server, sites, clients, count)
    return {f"{clients}.{key}": value for key, value in values.items()}


def _rate(context: BenchmarkContext, server: Child, sites: Child, clients: int, count: int) -> dict[str, float]:
    rounds = context.count(*SIZES[clients])
    sites_cpu = sites.call("cpu_seconds")
    seconds, cpu = server.call("rounds", rounds)
    sites.call("stamps", rounds * count)
    sites_cpu = sites.call("cpu_seconds") - sites_cpu
    tasks = rounds * count
    return {"rate": tasks / seconds, "cpu": cpu / tasks * 1000, "sites_cpu": sites_cpu / tasks * 1000}


def _latency(
    context: BenchmarkContext, floor: Child, server: Child, sites: Child, clients: int, count: int
) -> dict[str, float]:
    blocks = 4
    floors: list[float] = []
    late: list[float] = []
    for _ in range(blocks):
        floors += floor.call("round_trips", context.count(200, 50))
        idle(PAUSES[clients])
        rounds = max(1, context.count(*LATENCIES[clients]) // blocks)
        scheduled = server.call("spaced_rounds", rounds, PAUSES[clients])
        taken = sites.call("stamps", rounds * count)
        for number, begin in enumerate(scheduled):
            late += [(end - begin) * 1000 for end in taken[number * count : (number + 1) * count]]
    return {
        "floor": statistics.median(floors) * 1000,
        "latency.p50": percentile(late, 50),
        "latency.p99": percentile(late, 99),
    }


def _figures(clients: int) -> list[Figure]:
    rate_target = Target(direction=">=", bound=1500) if clients == 1000 else None
    named = f"{clients:,} client{'s' * (clients > 1)}"
    figures = [
        Figure(title=f"{named}, broadcast after broadcast", key=f"{clients}.rate", unit="tasks/s", target=rate_target),
        Figure(title=f"{named}, processor time of the server per task", key=f"{clients}.cpu", unit="ms"),
        Figure(title=f"{named}, processor time of the clients per task", key=f"{clients}.sites_cpu", unit="ms"),
    ]
    if clients in LATENCIES:
        floor, floor_title = f"{clients}.floor", "streams-lua p50"
        bound = Target(bound=3.0) if clients == 1 else None
        figures += [
            Figure(
                title=f"{named}, scheduled to in the client's hands, {name}",
                key=f"{clients}.latency.{name}",
                unit="ms",
                floor=floor,
                floor_title=floor_title,
                target=bound if name == "p50" else None,
            )
            for name in ("p50", "p99")
        ]
    return figures


BENCHMARK: Final = Benchmark(
    name="server_tasks",
    about="tiny tasks broadcast to light clients, which share one process; the server is one process too",
    measure=measure,
    figures=[
        Figure(title="bare redis-py, one worker on a filled queue", key="bare", unit="tasks/s"),
        *(figure for clients in SIZES for figure in _figures(clients)),
    ],
)
