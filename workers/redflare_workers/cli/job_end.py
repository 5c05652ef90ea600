"""``redflare job abort`` and ``redflare job delete``."""

from __future__ import annotations

from typing import Annotated

import typer
from redflare_broker.errors import JobUnfinished
from redflare_broker.job_store.record import JobRecord
from redflare_broker.job_store.store import whoami
from rich.text import Text

from . import display
from .connection import Target, connected
from .exit_codes import FAILED, NOT_FOUND, done_before, fail, note
from .job_display import ending
from .job_lookup import ServerName, StoredJob, complete_job, find, is_server_running, need, store_of
from .job_output import follow_log


@connected
def abort(
    target: Target,
    job: StoredJob,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Reason for the job's history.")] = "",
    wait: Annotated[
        float, typer.Option("--wait", "-w", min=0, help="Seconds to wait until all of it has ended; 0: do not wait.")
    ] = 60.0,
    server: ServerName = "server",
    as_json: display.Json = False,
) -> None:
    """Abort a job in any state, and show how each site ended it.

    Its processes are asked to end (cooperative); those that do not end get
    SIGTERM (terminated), and at last SIGKILL (killed). A job that was not sent
    to its sites yet is over at once; a job that is over stays as it is. Exit
    code 1 if it is not over within --wait seconds: the abort remains
    requested.

    [bold]Examples[/bold]
    redflare job abort job-7 --reason "wrong data"
    redflare job abort job-7 --wait 0
    """
    store = store_of(target, server)
    found = need(store, job)
    if found.finished:
        _print_status(found, "is over already: ", as_json=as_json)
        return
    record = store.request_abort(found.id, whoami(), reason)
    if not record.finished and wait:
        if not is_server_running(target, server):
            note(f"server {server!r} is not running; it aborts the job when it starts")
        with done_before(f"the abort of job {found.id} is requested"):
            follow_log(store, found.id, quiet=True, timeout=wait)
            record = store.get(found.id) or record
    _print_status(record, "" if record.finished else "abort requested, still ", as_json=as_json)
    if not record.finished and wait:
        raise typer.Exit(FAILED)


def _print_status(record: JobRecord, before: str, *, as_json: bool) -> None:
    display.output(record.to_json(), Text.assemble(f"{record.id} {before}", ending(record)), as_json=as_json)


@connected
def delete(
    target: Target,
    jobs: Annotated[
        list[str], typer.Argument(metavar="JOB...", help="Ids.", show_default=False, autocompletion=complete_job)
    ],
    server: ServerName = "server",
    as_json: display.Json = False,
) -> None:
    """Delete jobs that are over, with archive, log and result, and with their folders at server and sites.

    A job that is not over must be aborted first: exit code 1. An unknown id is
    ignored if another job is deleted. Jobs that nobody deletes expire a week
    after their end.

    [bold]Examples[/bold]
    redflare job delete job-7
    redflare job list --json | jq -r '.[] | select(.record.finished) | .job_id' |
      xargs redflare job delete
    """
    store = store_of(target, server)
    deleted, refused = [], []
    for job in jobs:
        record = find(store, job)
        if record is None:
            continue
        try:
            store.delete(record.id)
        except JobUnfinished as error:
            refused.append(str(error))
        else:
            deleted.append(record.id)
    if as_json:
        display.print_json({"deleted": deleted, "refused": refused})
    for job_id in deleted if not as_json else ():
        display.say(f"deleted {job_id}")
    if refused:
        fail("; ".join(refused), FAILED)
    if not deleted:
        fail(f"no such job: {', '.join(jobs)}; `redflare job list` shows all jobs", NOT_FOUND)
