"""``redflare job submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from redflare_broker.errors import JobExists
from redflare_broker.job_store.record import COMPLETED
from redflare_broker.job_store.store import JobStore

from redflare_workers.jobs import ArchiveError, JobDefinition, JobProblems, read_job

from . import display
from .connection import Target, connected
from .exit_codes import FAILED, NOT_FOUND, USAGE, fail, note
from .job_display import ending
from .job_lookup import ServerName, is_server_running, store_of
from .job_output import follow_log


@connected
def submit(
    target: Target,
    path: Annotated[Path, typer.Argument(metavar="JOB", help="Folder of the job, or a zip of it.", show_default=False)],
    job_id: Annotated[
        str | None, typer.Option("--id", help="The job's id; default: a new one. The same job may be submitted again.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the job for errors; submit nothing.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Follow its log until it is over; exit code 1 unless it COMPLETED.")
    ] = False,
    server: ServerName = "server",
    as_json: display.Json = False,
) -> None:
    """Submit a job to the server, which runs it as soon as its sites are connected; prints the job's id.

    The job is checked first: all errors are reported together, each with its
    file and key. None of its code is run. A job with errors is not submitted
    (exit code 2). The server need not be running yet. docs/job-folders.md
    explains how to write a job.

    [bold]Examples[/bold]
    redflare job submit means
    redflare job submit means --check
    redflare job submit means.zip --id monday --wait
    job=$(redflare job submit means --json | jq -r .id)
    """
    job = _read(path, as_json=as_json)
    for warning in job.warnings:
        note(str(warning))
    if check:
        display.output({"name": job.meta.name, "problems": []}, f"{job.meta.name}: no errors", as_json=as_json)
        return
    store = store_of(target, server)
    try:
        submitted = store.submit(job.meta.to_dict(), job.archive(), job_id)
    except JobExists as error:
        fail(str(error), USAGE)
    record = store.get(submitted)
    if as_json and not wait and record:
        display.print_json(record.to_json())
    elif not as_json:
        display.say(submitted)
    if not is_server_running(target, server):
        note(f"server {server!r} is not running; the job waits for `redflare server`")
    if wait:
        follow_log(store, submitted, as_json=as_json)
        _print_ending(store, submitted, as_json=as_json)


def _read(path: Path, *, as_json: bool) -> JobDefinition:
    try:
        return read_job(path)
    except FileNotFoundError:
        fail(f"no job at {path}: name its folder, or a zip of it", NOT_FOUND)
    except JobProblems as error:
        if as_json:
            problems = [{"file": each.file, "key": each.key, "text": each.text} for each in error.problems]
            display.print_json({"problems": problems})
        else:
            display.say(f"redflare: {error}", err=True)
        raise typer.Exit(USAGE) from None
    except ArchiveError as error:
        fail(str(error), USAGE)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror or error}", USAGE)


def _print_ending(store: JobStore, job_id: str, *, as_json: bool) -> None:
    """Print how a job ended; exit with 1 unless it completed."""
    record = store.get(job_id)
    if record is None:
        fail(f"job {job_id} was deleted", NOT_FOUND)
    display.output(record.to_json(), ending(record), as_json=as_json, lines=True)
    if record.status != COMPLETED:
        raise typer.Exit(FAILED)
