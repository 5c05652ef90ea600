"""Arrays of float32 there and back: seconds each way, against plain sockets, and the memory both processes need."""

from __future__ import annotations

import statistics
from typing import Final

from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.harness import Benchmark, BenchmarkContext, Child, children
from tests.benchmarks.payload_floor import PayloadFloorAgent, PayloadFloorCaller
from tests.benchmarks.peers import MB, Caller, EchoAgent

#: Size in MB: trips in a full run, trips in a quick one.
SIZES: Final = {1: (30, 10), 10: (15, 6), 100: (11, 4)}
#: Trips that are not counted: the server and both processes get their memory from the system.
WARM_UP: Final = 2
#: NVFlare's IPC needed 1,040 ms for 100 MB there and back when the floors were first measured.
NVFLARE_100MB_MS: Final = 1040.0


def measure(context: BenchmarkContext) -> dict[str, float]:
    values: dict[str, float] = {}
    for size, (full, quick) in SIZES.items():
        nbytes = max(4096, int(size * MB * min(1.0, context.scale)))
        measured = _measure_size(context, nbytes, context.count(full, quick))
        values |= {f"{size}.{key}": value for key, value in measured.items()}
    return values


def _measure_size(context: BenchmarkContext, nbytes: int, trips: int) -> dict[str, float]:
    name = context.unique("payload")
    with children(
        lambda: Child(PayloadFloorAgent, context.url, nbytes, name),
        lambda: Child(PayloadFloorCaller, context.url, nbytes, name),
        lambda: Child(EchoAgent, context.url, context.site, name, context.workspace),
        lambda: Child(Caller, context.url, context.site, name),
    ) as (_, floor, agent, caller):
        caller.call("round_trips", 5)  # open connections and load scripts before memory is measured
        agent.call("stamps", 5)
        agent.call("mark_memory")
        caller.call("mark_memory")
        caller.call("make_array", nbytes)
        floors, there, back = [], [], []
        for trip in range(trips + WARM_UP):
            seconds = floor.call("round_trip")
            begin, end = caller.call("send_array")
            ((taken, submitted, _returned),) = agent.call("stamps", 1)
            if trip >= WARM_UP:
                floors.append(seconds)
                there.append(taken - begin)
                back.append(end - submitted)
        both = [a + b for a, b in zip(there, back, strict=True)]
        return {
            "floor": statistics.median(floors) * 1000,
            "both": statistics.median(both) * 1000,
            "there": statistics.median(there) * 1000,
            "back": statistics.median(back) * 1000,
            "rate": 2 * nbytes / MB / statistics.median(both),
            "agent_memory": agent.call("memory_growth"),
            "caller_memory": caller.call("memory_growth"),
        }


def _figures(size: int) -> list[Figure]:
    bounds = {10: 1.8, 100: 1.4}
    target = Target(bound=bounds[size]) if size in bounds else None
    return [
        Figure(title=f"{size} MB, payload floor there and back", key=f"{size}.floor", unit="ms"),
        Figure(
            title=f"{size} MB there and back",
            key=f"{size}.both",
            unit="ms",
            floor=f"{size}.floor",
            floor_title="payload floor",
            target=target,
        ),
        Figure(title=f"{size} MB there: run() to get_task() returned", key=f"{size}.there", unit="ms"),
        Figure(title=f"{size} MB back: submit_result() to run() returned", key=f"{size}.back", unit="ms"),
        Figure(title=f"{size} MB, both ways together", key=f"{size}.rate", unit="MB/s"),
    ]


BENCHMARK: Final = Benchmark(
    name="payload",
    about="one float32 array there and back; the agent returns the array it received",
    measure=measure,
    figures=[
        *(figure for size in SIZES for figure in _figures(size)),
        Figure(
            title="100 MB there and back, against NVFlare's 1,040 ms (another day's figure)",
            key="100.both",
            unit="ms",
            target=Target(bound=NVFLARE_100MB_MS / 2.8),
        ),
        Figure(
            title="100 MB, peak memory of the agent: one array received, the same sent",
            key="100.agent_memory",
            unit="MB",
            target=Target(bound=120),
        ),
        Figure(
            title="100 MB, peak memory of the CJ: one array sent, one received",
            key="100.caller_memory",
            unit="MB",
            target=Target(bound=220),
        ),
    ],
)
