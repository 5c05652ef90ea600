"""``python -m tests.chaos``: the long soak. Exit code 1 when a promise was broken."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from .plan import KINDS
from .soak import Soak


def main() -> int:
    """Run, and print what was injected and what was counted."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--injections", type=int, default=20 * len(KINDS), help="spread evenly over their kinds")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same sequence of injections")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="redflare-chaos-"))
    print(f"seed {args.seed}, logs in {folder} until it ends well", flush=True)
    soak = Soak(
        folder,
        seed=args.seed,
        tasks=args.tasks,
        injections=args.injections,
        pairs=args.agents,
        report=lambda line: print(line, flush=True),
    )
    tally = soak.run()
    print(f"\n{tally.table()}")
    if tally.broken:
        print(f"logs of all processes: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
