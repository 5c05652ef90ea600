"""``redflare job log``."""

from __future__ import annotations

from typing import Annotated

import typer

from . import showing
from .connecting import NOT_FOUND, Target, connected
from .job_watch import tell, wanted, watch
from .stored_jobs import ServerName, StoredJob, need, store_of


@connected
def log(
    target: Target,
    job: StoredJob,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    sites: Annotated[
        list[str] | None, typer.Option("--site", "-s", help="Only this site's lines (or `server`); may be repeated.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--lines", "-l", min=0, help="Only the last so many; without it, all.")
    ] = None,
    server: ServerName = "server",
    as_json: showing.Json = False,
) -> None:
    """What a job's processes have written, at the server and at all sites, in one stream.

    Changes of the job's status stand among the lines. The last 10,000 lines
    are kept; each process has its whole log in its workspace, as
    <workspace>/<job>/log.txt. With --json each line is a document. Exit code 1
    when there is none.

    [bold]Examples[/bold]
    redflare job log job-7 --follow
    redflare job log job-7 --site site-1 --lines 20
    redflare job log job-7 --json | jq -r 'select(.level == "ERROR") | .text'
    """
    store = store_of(target, server)
    record = need(store, job)
    lines = store.read_log(record.id)
    chosen = [line for line in lines if wanted(line, sites or ())]
    for line in chosen if last is None else chosen[len(chosen) - min(last, len(chosen)) :]:
        tell(line, as_json=as_json)
    if follow:
        watch(store, record.id, after=lines[-1].id if lines else "0-0", sites=sites or (), as_json=as_json)
    elif not chosen:
        raise typer.Exit(NOT_FOUND)
