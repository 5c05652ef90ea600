"""``python -m tests.chaos``: the long soaks. Exit code 1 when a promise was broken."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.federation_soak import FederationSoak
from tests.chaos.plan import KINDS
from tests.chaos.soak import Soak


def main() -> int:
    """Run, and print the injections and the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--what", choices=["all", "links", "federation"], default="all")
    parser.add_argument("--tasks", type=int, default=2_000, help="of the links")
    parser.add_argument("--agents", type=int, default=8, help="of the links")
    parser.add_argument("--injections", type=int, default=20 * len(KINDS), help="spread evenly over their kinds")
    parser.add_argument("--runs", type=int, default=20, help="of the federation, each with a seed of its own")
    parser.add_argument("--rounds", type=int, default=20, help="of each of those runs")
    parser.add_argument("--deaths", type=int, default=15, help="of servers, of client jobs and of agents, in each")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same sequence of injections")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="redflare-chaos-"))
    print(f"seed {args.seed}, logs in {folder} until it passes", flush=True)
    passed = args.what == "federation" or _soak_links(folder, args)
    for seed in range(args.seed, args.seed + args.runs if args.what != "links" else args.seed):
        passed = _soak_federation(folder / f"federation-{seed}", args, seed) and passed
    if not passed:
        print(f"logs of all processes: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _soak_links(folder: Path, args: argparse.Namespace) -> bool:
    soak = Soak(folder, seed=args.seed, tasks=args.tasks, injections=args.injections, links=args.agents, report=_report)
    outcome = soak.run()
    print(f"\n{outcome.table()}", flush=True)
    return not outcome.broken


def _soak_federation(folder: Path, args: argparse.Namespace, seed: int) -> bool:
    folder.mkdir()
    cuts = max(1, args.rounds // 3)
    soak = FederationSoak(folder, seed=seed, rounds=args.rounds, deaths=args.deaths, cuts=cuts, report=_report)
    outcome = soak.run()
    print(f"\nfederation, seed {seed}\n{outcome.table()}", flush=True)
    return not outcome.broken


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
