"""``redflare job submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from redflare_broker.errors import JobExists, ServerError, Unavailable
from redflare_broker.job_store.record import COMPLETED
from redflare_broker.job_store.store import JobStore, new_job_id
from redflare_broker.transport.replies import sentence

from redflare_workers.jobs import ArchiveError, JobDefinition, JobProblems, read_job

from . import display
from .connection import Target, connected
from .exit_codes import FAILED, NOT_FOUND, UNAVAILABLE, USAGE, done_before, fail, note
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
    file and key, arguments by the types and checks of their constructors. None
    of its code is run; installed modules that it names are imported. A job with
    errors is not submitted (exit code 2). The same job under the same --id is
    submitted once, however often this is called; one that is over does not run
    again. The server need not be running yet. docs/job-folders.md explains how
    to write a job.

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
    submitted = _submit(store, job, job_id or new_job_id())
    if not as_json:
        display.say(submitted)
    _show_submitted(target, store, submitted, server, as_json=as_json and not wait)
    if wait:
        with done_before(f"job {submitted} is submitted"):
            follow_log(store, submitted, as_json=as_json)
            _print_ending(store, submitted, as_json=as_json)


def _submit(store: JobStore, job: JobDefinition, job_id: str) -> str:
    """Submit a job under an id that is known before: if an error hides the outcome, it can be submitted again."""
    try:
        return store.submit(job.meta.to_dict(), job.archive(), job_id)
    except JobExists as error:
        fail(str(error), USAGE)
    except (ServerError, Unavailable) as error:
        again = f"The job may be submitted; try again with --id {job_id}, so that it does not run twice."
        fail(f"{sentence(error)} {again}", UNAVAILABLE)


def _show_submitted(target: Target, store: JobStore, job_id: str, server: str, *, as_json: bool) -> None:
    """Print what is known of a job by now; a user who may submit need not have the right to read."""
    try:
        record = store.get(job_id)
        is_running = is_server_running(target, server)
    except (ServerError, Unavailable) as error:
        note(f"job {job_id} is submitted, but cannot be read: {error}")
        record, is_running = None, True
    if as_json:
        display.print_json(record.to_json() if record else {"id": job_id})
    if record and record.finished:
        note(
            f"job {job_id} is over and does not run again: {record.status}. Leave --id out, or give another, to run it"
        )
    elif not is_running:
        name = "" if server == "server" else f" --name {server}"
        note(f"server {server!r} is not running; the job waits for `redflare server{name}`")


def _read(path: Path, *, as_json: bool) -> JobDefinition:
    try:
        return read_job(path, installed=True)
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
        fail(f"{path}: {error}", USAGE)
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
