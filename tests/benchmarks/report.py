"""The result of a session of benchmarks: a table for people, JSON for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import psutil
import redis
from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Figure, median, spread
from tests.benchmarks.harness import Benchmark


@dataclass(slots=True)
class Report:
    """What each benchmark measured in each run."""

    runs: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    #: Machine, versions and settings: without them a figure says nothing.
    circumstances: dict[str, Any] = field(default_factory=dict)

    def add(self, benchmark: Benchmark, values: dict[str, float]) -> None:
        self.runs.setdefault(benchmark.name, []).append(values)

    def show(self, benchmarks: Sequence[Benchmark], console: Console) -> None:
        """Print one table per benchmark and the count of targets reached."""
        for benchmark in benchmarks:
            if benchmark.name in self.failures:
                console.print(f"[bold red]{benchmark.name} failed[/]: ", end="")
                console.print(self.failures[benchmark.name], markup=False)
            elif benchmark.name in self.runs:
                console.print(_table(benchmark, self.runs[benchmark.name]))
        targets = self._targets(benchmarks)
        console.print(f"targets reached: {sum(reached for _, reached in targets)} of {len(targets)}")
        for title, reached in targets:
            if not reached:
                console.print(f"[red]missed[/]: {title}")

    def as_dict(self, benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
        """Everything that was measured, with the raw values of every run."""
        return {
            **self.circumstances,
            "figures": [
                _figure_dict(benchmark, figure, self.runs[benchmark.name])
                for benchmark in benchmarks
                if benchmark.name in self.runs
                for figure in benchmark.figures
            ],
            "failures": self.failures,
            "runs": self.runs,
        }

    def write(self, benchmarks: Sequence[Benchmark], path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(self.as_dict(benchmarks), option=orjson.OPT_INDENT_2))

    def _targets(self, benchmarks: Sequence[Benchmark]) -> list[tuple[str, bool]]:
        """The title of each target, and whether it was reached."""
        return [
            (f"{benchmark.name}: {figure.title}", bool(figure.reached(self.runs[benchmark.name])))
            for benchmark in benchmarks
            if benchmark.name in self.runs
            for figure in benchmark.figures
            if figure.target
        ]


def circumstances(url: str, runs: int, quick: bool) -> dict[str, Any]:
    """Where, when and with what the figures were taken."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        info: Any = client.info("server")
    server = f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info['redis_version']}"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("redflare", "redis", "hiredis", "orjson", "numpy")},
        "server": server,
        "transport": "unix" if url.startswith("unix") else "tcp",
        "runs": runs,
        "quick": quick,
    }


def _table(benchmark: Benchmark, runs: Sequence[dict[str, float]]) -> Table:
    table = Table(title=f"{benchmark.name}: {benchmark.about}", title_justify="left", expand=False)
    table.add_column("what", min_width=30)
    for heading in ("median", "spread", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("to")
    table.add_column("target", no_wrap=True)
    table.add_column("")
    for figure in benchmark.figures:
        ratios = figure.ratios(runs)
        table.add_row(
            figure.title,
            f"{_number(median(figure.values(runs)))} {figure.unit}".strip(),
            f"{spread(figure.values(runs)):.0%}",
            f"{_number(median(ratios))} x (±{spread(ratios) / 2:.0%})" if ratios else "",
            figure.floor_title,
            _target(figure),
            {True: "[green]reached", False: "[red]missed", None: ""}[figure.reached(runs)],
        )
    return table


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    unit = "x" if figure.floor else figure.unit
    return f"{figure.target.direction} {_number(figure.target.bound)} {unit}"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _figure_dict(benchmark: Benchmark, figure: Figure, runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    values, ratios = figure.values(runs), figure.ratios(runs)
    return {
        "benchmark": benchmark.name,
        "title": figure.title,
        "key": figure.key,
        "unit": figure.unit,
        "median": median(values),
        "spread": spread(values),
        "values": values,
        "floor": {"key": figure.floor, "values": figure.floors(runs), "ratio": median(ratios), "ratios": ratios}
        if ratios
        else None,
        "target": f"{figure.target.direction} {figure.target.bound}" if figure.target else None,
        "reached": figure.reached(runs),
    }
