"""``redflare job log`` and ``redflare job download``: what a job has written."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from redflare_broker.errors import BlobMissing
from redflare_broker.job_store.record import LogLine, summary
from redflare_broker.job_store.store import JobStore
from rich.table import Table
from rich.text import Text

from redflare_workers.jobs import ArchiveError, safe_extract

from . import display
from .connection import Target, connected
from .exit_codes import NOT_FOUND, USAGE, fail, note
from .job_lookup import ServerName, StoredJob, need, store_of

#: Least and most characters of a site.
_SITE_WIDTHS: Final = (10, 20)
_LEVEL_WIDTH: Final = 5
_SHORT: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}
_LEVEL_STYLES: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}


@connected
def log(
    target: Target,
    job: StoredJob,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the job is over.")] = False,
    sites: Annotated[
        list[str] | None, typer.Option("--site", "-s", help="Only lines of this site (or `server`); may be repeated.")
    ] = None,
    last: Annotated[int | None, typer.Option("--lines", "-l", min=0, help="Only the last N lines.")] = None,
    server: ServerName = "server",
    as_json: display.Json = False,
) -> None:
    """Show the log of a job: the lines of its processes at the server and at all sites, in one stream.

    Changes of the job's status appear between the lines. The last 10,000
    lines are kept; each process writes its whole log to its workspace, to
    <workspace>/<job>/log.txt. With --json, one JSON object per line. Exit
    code 1 if there are no lines.

    [bold]Examples[/bold]
    redflare job log job-7 --follow
    redflare job log job-7 --site site-1 --lines 20
    redflare job log job-7 --json | jq -r 'select(.level == "ERROR") | .text'
    """
    store = store_of(target, server)
    record = need(store, job)
    lines = store.read_log(record.id)
    chosen = [line for line in lines if _is_of(line, sites or ())]
    for line in chosen if last is None else chosen[len(chosen) - min(last, len(chosen)) :]:
        _print_line(line, as_json=as_json)
    written = {line.site for line in lines if line.site}
    if not follow and (silent := sorted({*(sites or ())} - written)):
        note(f"there are no lines of {', '.join(silent)}; there are some of {', '.join(sorted(written)) or 'no site'}")
    if follow:
        follow_log(store, record.id, after=lines[-1].id if lines else "0-0", sites=sites or (), as_json=as_json)
    elif not chosen:
        raise typer.Exit(NOT_FOUND)


def follow_log(
    store: JobStore,
    job_id: str,
    *,
    after: str = "0-0",
    sites: Sequence[str] = (),
    quiet: bool = False,
    timeout: float | None = None,
    as_json: bool = False,
) -> None:
    """Print the lines of a job's log as they are written, until the job is over.

    Args:
        after: id of the last line that was printed.
        sites: only theirs; empty: all.
        quiet: print nothing, only wait.
        timeout: seconds after which to give up.
    """
    with store.follow(job_id, after) as lines:
        timer = threading.Timer(timeout, lines.close) if timeout is not None else None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            for line in lines:
                if not quiet and _is_of(line, sites):
                    _print_line(line, as_json=as_json)
        finally:
            if timer:
                timer.cancel()


def _is_of(line: LogLine, sites: Sequence[str]) -> bool:
    """Whether a line is of one of these sites, or a change of the status."""
    return not sites or bool(line.status) or line.site in sites


def _print_line(line: LogLine, *, as_json: bool) -> None:
    if as_json:
        display.print_json(line.to_json(), lines=True)
        return
    # the reason of a failure ends with the last lines of a log, which are printed anyway
    text = (
        display.status(f"{line.status} {summary(line.text)}".rstrip())
        if line.status
        else Text(_without_context(line.text))
    )
    row = Table.grid(padding=(0, 1))
    row.add_column(style="dim", no_wrap=True)
    width = max(_SITE_WIDTHS[0], min(len(line.site), _SITE_WIDTHS[1]))
    row.add_column(style="cyan", width=width, no_wrap=True, overflow="ellipsis")
    row.add_column(width=_LEVEL_WIDTH, style=_LEVEL_STYLES.get(line.level, "dim"), no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(display.clock(line.at)[:8], line.site or "-", _SHORT.get(line.level, line.level), text)
    display.console().print(row)


def _without_context(text: str) -> str:
    """Return what a component has logged, without the names of the context, which are those of the site and the job."""
    head, end, rest = text.partition("]: ")
    return rest if end and head.startswith("[identity=") else text


@connected
def download(
    target: Target,
    job: StoredJob,
    to: Annotated[
        Path | None,
        typer.Option("--to", "-t", help="Folder to create (default: the job's id); with --zip, the file."),
    ] = None,
    archive: Annotated[bool, typer.Option("--archive", help="The job as it was submitted, not its result.")] = False,
    as_zip: Annotated[bool, typer.Option("--zip", help="Keep the zip, do not unpack it.")] = False,
    server: ServerName = "server",
    as_json: display.Json = False,
) -> None:
    """Download the result of a job: what it left at the server, such as models, metrics and its log.

    Prints the path. An existing folder is not touched: exit code 2. Exit code
    1 if the job has no result (yet).

    [bold]Examples[/bold]
    redflare job download job-7 --to results/monday
    redflare job download job-7 --archive --zip --to means.zip
    """
    store = store_of(target, server)
    record = need(store, job)
    path = to or Path(record.id + (".zip" if as_zip else ""))
    if path.exists():
        fail(f"{path} exists already: name another path with --to", USAGE)
    fetch = store.fetch_archive if archive else store.fetch_result
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if as_zip:
            fetch(record.id, path)
        else:
            with tempfile.TemporaryDirectory(prefix=".redflare-", dir=path.parent) as folder:
                safe_extract(fetch(record.id, Path(folder, "job.zip")), path)
    except BlobMissing as error:
        fail(f"{error}; `redflare job show {record.id}` shows what it has", NOT_FOUND)
    except ArchiveError as error:
        fail(f"the zip of job {record.id} is not safe to unpack: {error}; --zip downloads it as it is", USAGE)
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror or error}", USAGE)
    if as_json:
        files = [path] if as_zip else sorted(each for each in path.rglob("*") if each.is_file())
        sizes = {str(each.relative_to(path)) if each != path else each.name: each.stat().st_size for each in files}
        display.print_json({"job_id": record.id, "path": str(path), "files": sizes})
    else:
        display.say(str(path))
