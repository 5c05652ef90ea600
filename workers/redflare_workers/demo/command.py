"""``redflare demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of federated averaging.")] = 30,
    sites: Annotated[int, typer.Option(min=2, max=8, help="Sites, each with an agent process of its own.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Decides data split, initial weights and mini-batches.")] = 7,
    kill_agents: Annotated[
        bool, typer.Option("--kill-agents", help="Kill one agent with SIGKILL in the middle of every round.")
    ] = False,
    url: Annotated[str | None, typer.Option(help="Redis to use; without it an embedded server is started.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for the plot.")] = Path("out"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all numbers to this file.")] = None,
) -> None:
    """Train a classifier of handwritten digits at four sites by federated averaging, and watch it."""
    from redflare_broker.errors import RedflareError
    from rich.console import Console  # these take a moment, and only this command needs them

    from redflare_workers.demo.display import Display
    from redflare_workers.demo.errors import DemoStopped
    from redflare_workers.demo.report import report
    from redflare_workers.demo.run import Options, Run

    console = Console()
    options = Options(rounds=rounds, sites=sites, seed=seed, kill_agents=kill_agents, url=url, out=out)
    try:
        outcome = Run(options).carry_out(Display(console, rounds, kills=kill_agents))
    except DemoStopped as stopped:
        typer.echo("stopped; every process has ended", err=True)
        raise typer.Exit(128 + stopped.signal_number) from None
    except RedflareError as error:
        typer.echo(f"redflare demo: {error}", err=True)
        raise typer.Exit(1) from None
    report(outcome, console)
    if json_file:
        outcome.write(json_file)
