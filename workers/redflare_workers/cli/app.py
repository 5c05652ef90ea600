"""All commands of ``redflare`` under one app."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from redflare_workers.demo.command import demo

from . import agent, dead, doctor, job, simulate, status, tail, task
from .connecting import EXIT_CODES

app = typer.Typer(
    name="redflare",
    add_completion=True,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"redflare {version('redflare')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Look into a federation's Redis: jobs, agents, tasks, results, dead letters.

    redflare status --watch         [dim]who is there and what each agent does[/dim]
    redflare job list               [dim]which jobs there are[/dim]
    redflare job show job-7         [dim]one job: its sites, its tasks, why they wait[/dim]
    redflare task 7c1e              [dim]one task's whole story[/dim]
    redflare tail site-1--trainer   [dim]follow one agent live[/dim]
    redflare dead list              [dim]entries that nobody could read[/dim]
    redflare simulate trainer:train [dim]a workflow with all its sites on this machine[/dim]
    redflare demo                   [dim]a federated training to watch[/dim]

    Those that look into Redis find it by --url or REDFLARE_URL; the other two
    start a server of their own. All but the demo print JSON for programs with
    --json.
    """


app.command("status", epilog=EXIT_CODES)(status.status)
app.add_typer(job.app, name="job")
app.command("task", epilog=EXIT_CODES)(task.task)
app.command("tail", epilog=EXIT_CODES)(tail.tail)
app.add_typer(dead.app, name="dead")
app.command("doctor", epilog=doctor.EXIT_CODES)(doctor.doctor)
app.add_typer(agent.app, name="agent")
app.command("simulate", epilog=simulate.EXIT_CODES)(simulate.simulate)
app.command("demo")(demo)
