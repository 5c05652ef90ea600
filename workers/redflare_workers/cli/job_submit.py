"""``redflare job submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from redflare_broker.errors import JobExists

from redflare_workers.jobs import ArchiveError, JobDefinition, JobProblems, read_job

from . import showing
from .connecting import NOT_FOUND, USAGE, Target, connected, fail
from .job_watch import told_end, watch
from .stored_jobs import ServerName, server_there, store_of


@connected
def submit(
    target: Target,
    path: Annotated[Path, typer.Argument(metavar="JOB", help="Folder of the job, or a zip of it.", show_default=False)],
    job_id: Annotated[
        str | None, typer.Option("--id", help="The job's id; without it, a new one. The same job again is no error.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look for mistakes; submit nothing.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Follow its log until it is over; exit code 1 unless it COMPLETED.")
    ] = False,
    server: ServerName = "server",
    as_json: showing.Json = False,
) -> None:
    """Give a job to the server, which runs it as soon as its sites are there; prints its id.

    The job is checked first, as a whole: every mistake is told with its file
    and key, none of its code is run, and with a mistake nothing is submitted
    (exit code 2). The server need not be there yet. docs/job-folders.md says
    how a job is written.

    [bold]Examples[/bold]
    redflare job submit means
    redflare job submit means --check
    redflare job submit means.zip --id monday --wait
    job=$(redflare job submit means --json | jq -r .id)
    """
    job = _read(path, as_json)
    for warning in job.warnings:
        typer.echo(f"redflare: note: {warning}", err=True)
    if check:
        if as_json:
            showing.print_json({"name": job.meta.name, "problems": []})
        else:
            typer.echo(f"{job.meta.name}: no mistakes")
        return
    store = store_of(target, server)
    try:
        made = store.submit(job.meta.to_dict(), job.archive(), job_id)
    except JobExists as error:
        fail(str(error), USAGE)
    record = store.get(made)
    if as_json and not wait and record:
        showing.print_json(record.to_json())
    elif not as_json:
        typer.echo(made)
    if not server_there(target, server):
        typer.echo(f"redflare: note: no server {server!r} is there yet; the job waits for `redflare server`", err=True)
    if wait:
        watch(store, made, as_json=as_json)
        told_end(store, made, as_json=as_json)


def _read(path: Path, as_json: bool) -> JobDefinition:
    try:
        return read_job(path)
    except FileNotFoundError:
        fail(f"there is no job {path}: name its folder, or a zip of it", NOT_FOUND)
    except JobProblems as error:
        if as_json:
            problems = [{"file": each.file, "key": each.key, "text": each.text} for each in error.problems]
            showing.print_json({"problems": problems})
        else:
            typer.echo(f"redflare: {error}", err=True)
        raise typer.Exit(USAGE) from None
    except ArchiveError as error:
        fail(str(error), USAGE)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror or error}", USAGE)
