"""The app with all commands of ``redflare``; the module of a command is imported when the command is used.

A health check runs a command every few seconds, so none pays for the imports of the others, and help for none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from .exit_codes import EXIT_CODES

#: By name: the module, whose ``app`` is the command, and the summary that the list of commands shows.
COMMANDS: Final = {
    "server": (
        "redflare_workers.cli.server",
        "Run the server of a federation: accept submitted jobs, run them on the sites, and record how each ends.",
    ),
    "site": (
        "redflare_workers.cli.site",
        "Run a site: take part in the server's jobs, each in a child process of this one.",
    ),
    "agent": ("redflare_workers.cli.agent", "Run your training code at a site."),
    "job": (
        "redflare_workers.cli.job",
        "Submit jobs, see what they are waiting for, follow their logs, abort, download and delete them.",
    ),
    "doctor": ("redflare_workers.cli.doctor", "Check that Redis is ready for jobs, and say what to change."),
    "rights": (
        "redflare_workers.cli.rights",
        "Print the rules of a user of Redis for one party, to paste behind ACL SETUSER or into users.acl.",
    ),
    "status": (
        "redflare_workers.cli.status",
        "Show all jobs and agents: who is connected, the open tasks and what they wait for, queues, payload.",
    ),
    "task": (
        "redflare_workers.cli.task",
        "Show one task of an agent: when it was assigned, fetched, submitted and settled, and why it waits.",
    ),
    "tail": (
        "redflare_workers.cli.tail",
        "Follow one agent live: its tasks and results, their states, aborts, verdicts, who connects and leaves.",
    ),
    "audit": (
        "redflare_workers.cli.audit",
        "Show the audit log of a server or a site, and check that nobody has changed it.",
    ),
    "dead": (
        "redflare_workers.cli.dead",
        "Dead letters: messages that could not be read, kept with the reason.",
    ),
    "up": (
        "redflare_workers.cli.up",
        "Run a federation on this machine: Redis, server, sites and agents, for a first look and for development.",
    ),
    "simulate": (
        "redflare_workers.cli.simulate",
        "Run a workflow with all its sites on this machine, with the same code as in a distributed run.",
    ),
    "demo": (
        "redflare_workers.demo.command",
        "Train a classifier of handwritten digits at four sites by federated averaging, and watch it.",
    ),
}


class Commands(TyperGroup):
    """The commands by name; help and completion need their summaries alone."""

    _only_summaries = False

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, summary = COMMANDS[cmd_name]
        if self._only_summaries:
            return TyperCommand(cmd_name, help=summary)
        command = typer.main.get_command(import_module(module).app)
        command.name = cmd_name
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        with self._summaries():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """List the commands and options that begin with a text."""
        with self._summaries():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _summaries(self) -> Iterator[None]:
        self._only_summaries = True
        try:
            yield
        finally:
            self._only_summaries = False


app = typer.Typer(
    name="redflare",
    cls=Commands,
    add_completion=True,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # this takes a moment

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
    redflare task round-3.site-1    [dim]the history of one task[/dim]
    redflare tail site-1--trainer   [dim]follow one agent live[/dim]
    redflare dead list              [dim]messages that could not be read[/dim]
    redflare audit verify /srv/redflare
                                    [dim]has somebody changed the audit log?[/dim]

    [bold]Try[/bold]
    redflare up --agent trainer:train
                                    [dim]a whole federation on this machine[/dim]
    redflare simulate trainer:train [dim]a workflow with all its sites on this machine[/dim]
    redflare demo                   [dim]watch a federated training[/dim]

    Redis is found by --url, by REDFLARE_URL, or in a folder where redflare up
    runs; up, simulate and demo start their own.
    All commands but demo print JSON with --json. --install-completion sets up
    completion of commands and job ids in your shell.
    """
