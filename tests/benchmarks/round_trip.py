"""A tiny task there and back, one at a time: hot, and after idling."""

from __future__ import annotations

from typing import Final

from tests.benchmarks.figures import Figure, Target, summary
from tests.benchmarks.floors import FloorAgent, FloorCaller
from tests.benchmarks.harness import Benchmark, BenchmarkContext, Child, children, count_commands, idle
from tests.benchmarks.peers import Caller, EchoAgent

#: Ours and the floor take turns in blocks, so that whatever else the machine does hits both.
BLOCKS: Final = 10


def measure(context: BenchmarkContext) -> dict[str, float]:
    name = context.unique("tiny")
    with children(
        lambda: Child(FloorAgent, context.url, name),
        lambda: Child(FloorCaller, context.url, name),
        lambda: Child(EchoAgent, context.url, context.site, name, context.workspace),
        lambda: Child(Caller, context.url, context.site, name),
    ) as (_, floor, agent, caller):
        return _hot(context, floor, agent, caller) | _idle(context, floor, caller) | _commands(context, caller)


def _hot(context: BenchmarkContext, floor: Child, agent: Child, caller: Child) -> dict[str, float]:
    warm_up = context.count(100, 50)
    floor.call("round_trips", warm_up)
    caller.call("round_trips", warm_up)
    agent.call("stamps", warm_up)
    size = context.count(2000 // BLOCKS, 500 // BLOCKS)
    floors: list[float] = []
    ours: list[float] = []
    late: list[float] = []
    for _ in range(BLOCKS):
        floors += floor.call("round_trips", size)
        trips = caller.call("round_trips", size)
        stamps = agent.call("stamps", size)
        ours += [end - begin for begin, end in trips]
        late += [returned - end for (_, _, returned), (_, end) in zip(stamps, trips, strict=True)]
    return summary("floor", _ms(floors)) | summary("ours", _ms(ours)) | summary("late", _ms(late))


def _idle(context: BenchmarkContext, floor: Child, caller: Child) -> dict[str, float]:
    floors: list[float] = []
    ours: list[float] = []
    for _ in range(context.count(5, 2)):
        idle(context.seconds(2, 1))
        floors += floor.call("round_trips", 1)
        idle(context.seconds(2, 1))
        ((begin, end),) = caller.call("round_trips", 1)
        ours.append(end - begin)
    return summary("idle_floor", _ms(floors), [50]) | summary("idle", _ms(ours), [50])


def _commands(context: BenchmarkContext, caller: Child) -> dict[str, float]:
    trips = context.count(200, 100)
    with count_commands(context.url) as count:
        caller.call("round_trips", trips)
    return {"commands": count.by_clients / trips, "in_lua": count.by_scripts / trips}


def _ms(seconds: list[float]) -> list[float]:
    return [value * 1000 for value in seconds]


FLOOR: Final = "streams-lua p50"

BENCHMARK: Final = Benchmark(
    name="round_trip",
    about="a tiny task, from run() to the accepted result in hand; agent and CJ are processes of their own",
    measure=measure,
    figures=[
        Figure(title="streams-lua floor, p50", key="floor.p50", unit="ms"),
        Figure(title="streams-lua floor, p99", key="floor.p99", unit="ms"),
        Figure(
            title="round trip, p50",
            key="ours.p50",
            unit="ms",
            floor="floor.p50",
            floor_title=FLOOR,
            target=Target(bound=2.0),
        ),
        Figure(title="round trip, p90", key="ours.p90", unit="ms", floor="floor.p50", floor_title=FLOOR),
        Figure(
            title="round trip, p99",
            key="ours.p99",
            unit="ms",
            floor="floor.p50",
            floor_title=FLOOR,
            target=Target(bound=6.0),
        ),
        Figure(
            title="submit_result returns later than the CJ has the result by, p50",
            key="late.p50",
            unit="ms",
            floor="floor.p50",
            floor_title=FLOOR,
            target=Target(bound=1.0),
        ),
        Figure(
            title="round trip after idling, p50",
            key="idle.p50",
            unit="ms",
            floor="idle_floor.p50",
            floor_title="streams-lua after idling",
        ),
        Figure(title="Redis commands per task, sent by clients", key="commands", unit=""),
        Figure(title="Redis commands per task, inside Lua", key="in_lua", unit=""),
    ],
)
