"""``redflare job abort`` and ``redflare job delete``."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from redflare_broker.errors import JobUnfinished
from redflare_broker.job_store.record import JobRecord
from redflare_broker.job_store.store import whoami
from rich.text import Text

from . import showing
from .connecting import NOT_FOUND, Target, connected, fail
from .job_watch import ending, watch
from .stored_jobs import ServerName, StoredJob, complete_job, find, need, server_there, store_of

#: Exit code of an abort that is not over, and of a deletion that is refused.
_NOT_DONE: Final = 1


@connected
def abort(
    target: Target,
    job: StoredJob,
    reason: Annotated[str, typer.Option("--reason", "-r", help="For the job's history.")] = "",
    wait: Annotated[
        float, typer.Option("--wait", "-w", min=0, help="Seconds to wait for the proof that all has ended; 0: none.")
    ] = 60.0,
    server: ServerName = "server",
    as_json: showing.Json = False,
) -> None:
    """End a job, in whatever state it is, and say how each site has ended it.

    Its processes are asked first (cooperative), get SIGTERM after a while
    (terminated), and SIGKILL at last (killed). A job that was not sent to its
    sites yet is over at once, and one that is over stays as it is. Exit code 1
    when it was not over within --wait seconds; the abort stands all the same.

    [bold]Examples[/bold]
    redflare job abort job-7 --reason "wrong data"
    redflare job abort job-7 --wait 0
    """
    store = store_of(target, server)
    found = need(store, job)
    if found.finished:
        _told(found, as_json, "is over already: ")
        return
    record = store.request_abort(found.id, whoami(), reason)
    if not record.finished and wait:
        if not server_there(target, server):
            typer.echo(f"redflare: note: no server {server!r} is there to end it; the abort waits for it", err=True)
        watch(store, found.id, quiet=True, timeout=wait)
        record = store.get(found.id) or record
    _told(record, as_json, "" if record.finished else "its abort was asked for; it is still ")
    if not record.finished and wait:
        raise typer.Exit(_NOT_DONE)


def _told(record: JobRecord, as_json: bool, before: str) -> None:
    if as_json:
        showing.print_json(record.to_json())
        return
    showing.console().print(Text.assemble(f"{record.id} {before}", ending(record)), soft_wrap=True)


@connected
def delete(
    target: Target,
    jobs: Annotated[
        list[str], typer.Argument(metavar="JOB...", help="Ids.", show_default=False, autocompletion=complete_job)
    ],
    server: ServerName = "server",
    as_json: showing.Json = False,
) -> None:
    """Delete jobs that are over, with archive, log and result; their folders at server and sites go too.

    One that is not over must be aborted first: exit code 1. A job that is not
    there is no error for others that are. What nobody deletes goes by itself,
    a week after its end.

    [bold]Examples[/bold]
    redflare job delete job-7
    redflare job list --json | jq -r '.[] | select(.record.finished) | .job_id' |
      xargs redflare job delete
    """
    store = store_of(target, server)
    deleted, kept = [], []
    for said in jobs:
        record = find(store, said)
        if record is None:
            continue
        try:
            store.delete(record.id)
        except JobUnfinished as error:
            kept.append(str(error))
        else:
            deleted.append(record.id)
    if as_json:
        showing.print_json({"deleted": deleted, "refused": kept})
    for job_id in deleted if not as_json else ():
        typer.echo(f"{job_id} is deleted")
    if kept:
        fail("; ".join(kept), _NOT_DONE)
    if not deleted:
        fail(f"no such job: {', '.join(jobs)}; `redflare job list` shows those that are there", NOT_FOUND)
