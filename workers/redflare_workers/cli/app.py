"""All commands of ``redflare`` under one app."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from redflare_workers.demo.command import demo

from . import agent, dead, doctor, job, server, serving, simulate, site, status, tail, task
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
    """Run a federation over Redis, and look into it.

    [bold]Run[/bold]
    redflare doctor                 [dim]is Redis fit for it?[/dim]
    redflare server                 [dim]the server; takes jobs and gives them to sites[/dim]
    redflare site site-1            [dim]a site; takes part in them[/dim]
    redflare agent run trainer:train --site site-1
                                    [dim]your training code, next to a site[/dim]
    redflare job submit my-job      [dim]then job show, log, abort, download, delete[/dim]

    [bold]Look in[/bold]
    redflare status --watch         [dim]who is there and what each agent does[/dim]
    redflare job show job-7         [dim]one job: its sites, its tasks, why they wait[/dim]
    redflare task 7c1e              [dim]one task's whole story[/dim]
    redflare tail site-1--trainer   [dim]follow one agent live[/dim]
    redflare dead list              [dim]entries that nobody could read[/dim]

    [bold]Try[/bold]
    redflare simulate trainer:train [dim]a workflow with all its sites on this machine[/dim]
    redflare demo                   [dim]a federated training to watch[/dim]

    All find Redis by --url or REDFLARE_URL, but for the last two, which start
    one of their own. All but the demo print JSON for programs with --json.
    --install-completion teaches your shell to complete them, and ids of jobs.
    """


app.command("server", epilog=serving.EXIT_CODES)(server.server)
app.command("site", epilog=serving.EXIT_CODES)(site.site)
app.add_typer(agent.app, name="agent")
app.add_typer(job.app, name="job")
app.command("doctor", epilog=doctor.EXIT_CODES)(doctor.doctor)
app.command("status", epilog=EXIT_CODES)(status.status)
app.command("task", epilog=EXIT_CODES)(task.task)
app.command("tail", epilog=EXIT_CODES)(tail.tail)
app.add_typer(dead.app, name="dead")
app.command("simulate", epilog=simulate.EXIT_CODES)(simulate.simulate)
app.command("demo")(demo)
