"""Inside a real NVFlare job: the same trainer over NVFlare's IPCExchanger and IPCAgent, and over ours, in turns."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.harness import Benchmark, BenchmarkContext

if TYPE_CHECKING:  # NVFlare is imported only when this benchmark runs
    from tests.inside_nvflare.programs import Program
    from tests.inside_nvflare.system import FlareSystem

SIZES: Final = (1, 10, 100)
_SITE: Final = "site-1"
_THEIRS: Final = "theirs"
_OURS: Final = "ours"


def measure(context: BenchmarkContext) -> dict[str, float]:
    from tests.inside_nvflare.system import FlareSystem

    folder = Path(context.workspace) / context.unique("nvflare")
    with FlareSystem(folder) as system:
        samples = {_THEIRS: _theirs(context, system, folder / _THEIRS), _OURS: _ours(context, system, folder / _OURS)}
    return {f"{who}.{key}": _figure(value) for who, values in samples.items() for key, value in values.items()}


def _figure(value: list[float] | float) -> float:
    """Return the median of trips in ms; other values are figures already."""
    return statistics.median(value) * 1000 if isinstance(value, list) else value


def _plan(context: BenchmarkContext, tiny: int) -> dict[str, Any]:
    trips = {1: context.count(20, 6), 10: context.count(10, 4), 100: context.count(5, 2)}
    return {"tiny": tiny, "payload": [[size, trips[size]] for size in SIZES], "idle": context.seconds(20, 6)}


def _theirs(context: BenchmarkContext, system: FlareSystem, folder: Path) -> dict[str, Any]:
    from tests.inside_nvflare.programs import nvflare_trainer

    agent_id = context.unique("ipc")
    args = {"agent_id": agent_id, "plan": _plan(context, context.count(40, 20))}
    start = nvflare_trainer, system.listener(_SITE)
    return _measured(system, folder, ("timed.TimedIPCExchanger", args), start)


def _ours(context: BenchmarkContext, system: FlareSystem, folder: Path) -> dict[str, Any]:
    from tests.inside_nvflare.programs import trainer

    agent_id = context.unique("redis")
    args = {"agent_id": agent_id, "redis_url": context.url, "plan": _plan(context, context.count(500, 200))}
    return _measured(system, folder, ("timed.TimedRedisExchanger", args), (trainer, context.url))


def _measured(
    system: FlareSystem,
    folder: Path,
    executor: tuple[str, dict[str, Any]],
    start: tuple[Callable[..., AbstractContextManager[Program]], str],
) -> dict[str, Any]:
    """Run a job with an executor that measures itself, and the trainer beside it."""
    from tests.inside_nvflare.jobs import FedAvgJob

    path, args = executor
    run, url = start
    output = folder.with_suffix(".json")
    config = {"path": path, "args": {**args, "output": str(output)}}
    with run("echo.py", folder, url, _SITE, args["agent_id"], str(folder)):
        job_id = system.submit(FedAvgJob(executor=config, rounds=1, custom=("timed.py",)), folder.name)
        system.result(job_id)
    return json.loads(output.read_text())  # type: ignore[no-any-return]


def _pair(title: str, key: str, unit: str, bound: float | None = None) -> list[Figure]:
    """Ours, and NVFlare's as a multiple of it."""
    return [
        Figure(title=f"{title}: RedisExchanger, our IPCAgent", key=f"{_OURS}.{key}", unit=unit),
        Figure(
            title=f"{title}: NVFlare's own two",
            key=f"{_THEIRS}.{key}",
            unit=unit,
            floor=f"{_OURS}.{key}",
            floor_title="ours",
            target=None if bound is None else Target(direction=">=", bound=bound),
        ),
    ]


BENCHMARK: Final = Benchmark(
    name="nvflare",
    about="inside a job of NVFlare's, execute() to the result; a minute of idling is scaled up from 20 s (quick: 6 s)",
    measure=measure,
    figures=[
        *_pair("tiny task, p50", "tiny", "ms", 50),
        *_pair("1 MB there and back", "1 MB", "ms", 5),
        *_pair("10 MB there and back", "10 MB", "ms", 3),
        *_pair("100 MB there and back", "100 MB", "ms", 2.8),
        *_pair("CPU of the client job in an idle minute", "job cpu", "s"),
        *_pair("CPU of the trainer in an idle minute", "agent cpu", "s"),
    ],
)
