"""``redflare job``: the group of its commands; list and show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from redflare_broker.util import humanize
from rich.text import Text

from . import display, job_end, job_output, job_submit
from .connection import Target, connected
from .exit_codes import EXIT_CODES, NOT_FOUND, fail
from .job_display import show_job, show_record
from .job_lookup import ServerName, complete_job, find, is_server_running, note_if_unknown, redis_now, store_of
from .listed_jobs import ListedJob, pair, read_jobs

app = typer.Typer(
    add_completion=False,
    help="Submit jobs, see what they are waiting for, follow their logs, abort, download and delete them.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

#: Of ``job list``, each with its widest cell.
_COLUMNS: Final = (("Job", 16), ("Name", 10), ("Status", 19), ("Sites", 5), ("Tasks", 5))

#: An id that the store has made up, of which the beginning is enough.
_MADE_UP: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

app.command("submit", epilog=EXIT_CODES)(job_submit.submit)


@app.command("list", epilog=EXIT_CODES)
@connected
def list_jobs(
    target: Target,
    open_only: Annotated[bool, typer.Option("--open", "-o", help="Only jobs that are not over.")] = False,
    server: ServerName = "server",
    as_json: display.Json = False,
) -> None:
    """List all jobs, each in one line: status, connected sites, number of open tasks, and what it is waiting for.

    Details begin with the time in this status, and are cut at the end of the
    line of a terminal: `redflare job show` shows all of one job. In a file or
    a pipe nothing is cut, unless COLUMNS is set. Of ids that were made up only
    the beginning is shown, which all commands take.

    Submitted jobs are kept for a week after their end; jobs run without
    `redflare server`, for one hour. Both can be configured. Exit code 1 if
    there are no jobs.

    [bold]Examples[/bold]
    redflare job list --open
    redflare job list --json | jq -r '.[] | select(.tasks != []) | .fqcn'
    redflare job list --json | jq -r '.[] | [.job_id, .record.status] | @tsv'
    """
    found = read_jobs(target, [server], target.inspector.jobs.all())
    jobs = [job for job in found.jobs if job.is_open or not open_only]
    if as_json:
        display.print_json([job.to_json() for job in jobs])
    elif jobs:
        table = display.one_line_table(*_COLUMNS, rest="Details")
        for name, job in zip(_short_names(jobs), jobs, strict=True):
            table.add_row(name, *_row(job, found.details(job), found.now))
        display.print_lines(table)
    else:
        display.say(f"no jobs in namespace {target.namespace}")
    if server != "server":
        note_if_unknown(target, server)
    if not jobs:
        raise typer.Exit(NOT_FOUND)


@app.command("show", epilog=EXIT_CODES)
@connected
def show(
    target: Target,
    job: Annotated[
        str,
        typer.Argument(
            help="The job's id, the beginning of it, or the full name (FQCN) of its server: server.job-7.",
            show_default=False,
            autocompletion=complete_job,
        ),
    ],
    server: ServerName = "server",
    as_json: display.Json = False,
) -> None:
    """Show one job: its history, its sites and what each is doing, its tasks and why they are not done.

    First comes what was submitted: each status with its time, why the job is
    not scheduled yet, how each site ended. Once the job runs, its server and
    its sites follow, each with the age of its last heartbeat:
    [green]● connected[/green]
    [yellow]◐ silent[/yellow]     its last three heartbeats are missing
    [red]○ gone[/red]       its heartbeat has expired
    [dim]○ left[/dim]       it said bye

    A task is a broadcast (to all targets), a send (to one of them) or a relay
    (to one after the other). An id behind "as" is that of the task at one
    site: agents and `redflare task` know it by this id. The last ten ended
    tasks are shown.

    [bold]Examples[/bold]
    redflare job show job-7
    redflare job show server.job-7 --json | jq -r '.[].tasks[].waiting'
    """
    record = find(store_of(target, server), job.removeprefix(f"{server}."))
    views = target.inspector.jobs.find(f"{server}.{record.id}" if record else job)
    found = pair(server, [record] if record else [], views)
    if as_json:
        display.print_json([each.to_json() for each in found])
    if not found:
        if server != "server":
            note_if_unknown(target, server)
        fail(f"no job {job!r} in namespace {target.namespace!r}: `redflare job list` shows all jobs", NOT_FOUND)
    if not as_json:
        server_is_running, now = is_server_running(target, server), redis_now(target)
        for each in found:
            parts = [*show_record(each.record, now, server_is_running=server_is_running)] if each.record else []
            display.console().print(*parts, *(show_job(each.view) if each.view else ()), sep="\n")


app.command("log", epilog=EXIT_CODES)(job_output.log)
app.command("abort", epilog=EXIT_CODES)(job_end.abort)
app.command("download", epilog=EXIT_CODES)(job_output.download)
app.command("delete", epilog=EXIT_CODES)(job_end.delete)


def _row(job: ListedJob, details: str, now: int) -> list[Text | str]:
    record, view = job.record, job.view
    sites = f"{view.connected}/{len(view.sites)}" if view and (not record or job.is_open) else ""
    tasks = str(len(view.tasks)) if view else ""
    if record is None:
        waiting = Text(details) if job.is_open else display.status(details)
        return ["", display.presence(job.begun.server), sites, tasks, waiting]
    status = display.status(record.status.removeprefix("FINISHED:"))
    since = humanize.age((now - record.changed) / 1000)
    return [record.name, status, sites, tasks, Text.assemble((since, "dim"), "  ", details)]


def _short_names(jobs: Sequence[ListedJob]) -> list[str]:
    """What commands know each job by: its id, or the beginning of one that was made up, if no other begins so."""
    ids = [job.record.id if job.record else job.name for job in jobs]
    return [
        short if _MADE_UP.fullmatch(each) and sum(other.startswith(short) for other in ids) == 1 else each
        for each in ids
        for short in (each.partition("-")[0],)
    ]
