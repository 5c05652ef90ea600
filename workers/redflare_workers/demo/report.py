"""The report at the end of the demo: the comparison as a table, and the model's hash."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from .outcome import Curve, DemoOutcome
from .sparkline import sparkline


def report(outcome: DemoOutcome, console: Console) -> None:
    """Print the report."""
    table = Table(
        title=f"Accuracy on {outcome.held_out} held-out images",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("trained on")
    table.add_column("images", justify="right")
    table.add_column("digits 0-9")
    table.add_column("steps", justify="right")
    table.add_column("accuracy", justify="right")
    top = max(max(curve.digits) for curve in outcome.alone)
    for curve in outcome.alone:
        table.add_row(*_cells(curve, str(outcome.steps), top))
    table.add_section()
    everywhere = f"{len(outcome.alone)} x {outcome.steps}"
    table.add_row(*_cells(outcome.federated, everywhere, max(outcome.federated.digits)), style="bold green")
    table.add_row(*_cells(outcome.pooled, str(outcome.steps), max(outcome.pooled.digits)))
    console.print(table)
    lines = [
        f"model   sha256 {outcome.sha256}",
        f"plot    {outcome.plot}",
        f"time    {outcome.seconds:.1f} s, {outcome.rounds} rounds, seed {outcome.seed}",
    ]
    if outcome.kills:
        lines.append(f"killed  {outcome.kills} agents with SIGKILL, one half-way through every round")
    if outcome.server_kills:
        lines.append(f"killed  the server with SIGKILL, {outcome.server_kills} times in the middle of a round")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _cells(curve: Curve, steps: str, top: int) -> tuple[str, ...]:
    return curve.name, str(curve.images), sparkline(curve.digits, top), steps, f"{curve.final:.1%}"
