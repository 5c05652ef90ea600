"""``redflare job download``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from redflare_broker.errors import BlobMissing

from redflare_workers.jobs import ArchiveError, safe_extract

from . import display
from .connection import Target, connected
from .exit_codes import NOT_FOUND, USAGE, fail
from .job_lookup import ServerName, StoredJob, need, store_of


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
        typer.echo(path)
