"""The app with all commands of ``redflare``."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from redflare_workers.demo.command import demo

from . import agent, dead, doctor, job, server, service, simulate, site, status, tail, task
from .exit_codes import EXIT_CODES

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
    """Run federated learning over Redis, and inspect it.

    [bold]Run[/bold]
    redflare doctor                 [dim]check that Redis is ready[/dim]
    redflare server                 [dim]accept jobs and run them on sites[/dim]
    redflare site site-1            [dim]run jobs at a site[/dim]
    redflare agent run trainer:train --site site-1
                                    [dim]run your training code at a site[/dim]
    redflare job submit my-job      [dim]then job show, log, abort, download, delete[/dim]

    [bold]Inspect[/bold]
    redflare status --watch         [dim]who is connected, what each agent is doing[/dim]
    redflare job show job-7         [dim]a job's sites and tasks, and why they wait[/dim]
    redflare task 7c1e              [dim]the history of one task[/dim]
    redflare tail site-1--trainer   [dim]follow one agent live[/dim]
    redflare dead list              [dim]messages that could not be read[/dim]

    [bold]Try[/bold]
    redflare simulate trainer:train [dim]a workflow with all its sites on this machine[/dim]
    redflare demo                   [dim]watch a federated training[/dim]

    Redis is found by --url or REDFLARE_URL; simulate and demo start their own.
    All commands but demo print JSON with --json. --install-completion sets up
    completion of commands and job ids in your shell.
    """


app.command("server", epilog=service.EXIT_CODES)(server.server)
app.command("site", epilog=service.EXIT_CODES)(site.site)
app.add_typer(agent.app, name="agent")
app.add_typer(job.app, name="job")
app.command("doctor", epilog=doctor.EXIT_CODES)(doctor.doctor)
app.command("status", epilog=EXIT_CODES)(status.status)
app.command("task", epilog=EXIT_CODES)(task.task)
app.command("tail", epilog=EXIT_CODES)(tail.tail)
app.add_typer(dead.app, name="dead")
app.command("simulate", epilog=simulate.EXIT_CODES)(simulate.simulate)
app.command("demo")(demo)
