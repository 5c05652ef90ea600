"""``python -m tests.benchmarks``: run the suite, print a table, write JSON."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import redis
from redflare_broker.embedded.server import EmbeddedServer
from rich.console import Console

from tests.benchmarks import (
    abort,
    beside_nvflare,
    idle,
    payload,
    recovery,
    round_trip,
    server_payload,
    server_tasks,
    throughput,
)
from tests.benchmarks.harness import Benchmark, BenchmarkContext, ChildError
from tests.benchmarks.report import Report, circumstances

BENCHMARKS: Final[Sequence[Benchmark]] = [
    module.BENCHMARK
    for module in (round_trip, payload, throughput, idle, abort, recovery, server_tasks, server_payload)
]

#: Those that are run only when they are asked for.
EXTRA: Final[Sequence[Benchmark]] = [beside_nvflare.BENCHMARK]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; 1 when a benchmark broke, 0 even when targets were missed."""
    options = _parse(arguments)
    asked = [benchmark for benchmark in (*BENCHMARKS, *EXTRA) if benchmark.name in (options.only or ())]
    chosen = asked or BENCHMARKS
    runs = 1 if options.quick and options.runs is None else options.runs or 3
    # A pipe or a CI log has no width of its own, and 80 columns would cut the table.
    console = Console(width=None if sys.stdout.isatty() else 170)
    try:
        with _server(options.url) as url, tempfile.TemporaryDirectory(prefix="redflare-bench-") as workspace:
            context = BenchmarkContext(url=url, workspace=workspace, quick=options.quick)
            report = Report(circumstances=circumstances(url, runs, options.quick))
            console.print(", ".join(f"{key}: {value}" for key, value in report.circumstances.items()), markup=False)
            _measure(context, chosen, runs, report, console)
    except KeyboardInterrupt:
        console.print("interrupted: every process was ended, nothing was written")
        return 130
    report.show(chosen, console)
    if options.json:
        report.write(chosen, options.json)
        console.print(f"written: {options.json}")
    return 1 if report.failures else 0


def _measure(
    context: BenchmarkContext, chosen: Sequence[Benchmark], runs: int, report: Report, console: Console
) -> None:
    for run in range(runs):
        for benchmark in chosen:
            if benchmark.name in report.failures:
                continue
            with console.status(f"run {run + 1} of {runs}: {benchmark.name}"):
                began = time.monotonic()
                try:
                    report.add(benchmark, benchmark.measure(context))
                    took = time.monotonic() - began
                    console.print(f"run {run + 1} of {runs}: {benchmark.name} took {took:.0f} s")
                except ChildError as exc:
                    report.failures[benchmark.name] = str(exc)
                finally:
                    _remove_floor_keys(context.url)


def _remove_floor_keys(url: str) -> None:
    """Remove the keys of the floors, which set no TTL; those of the link expire."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter("context:*", count=1000):
            client.unlink(key)


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    # by TCP, as agents on other hosts reach it, and as earlier figures were measured
    with EmbeddedServer(port=0) as server:
        yield server.url


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure the link between a CJ and its agent, a job's server, and the floors beside them.",
    )
    names = [benchmark.name for benchmark in (*BENCHMARKS, *EXTRA)]
    parser.add_argument("--quick", action="store_true", help="one run with fewer samples, under a minute")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"some of: {', '.join(names)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured here")
    parser.add_argument("--url", help="a server of your own, used by nobody else meanwhile (default: an embedded one)")
    parser.add_argument("--runs", type=int, metavar="N", help="runs of which medians are taken (default 3, quick 1)")
    options = parser.parse_args(arguments)
    if options.runs is not None and options.runs < 1:
        parser.error(f"--runs must be at least 1, but got {options.runs}")
    return options


if __name__ == "__main__":
    sys.exit(main())
