"""``redflare job download``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from redflare_broker.errors import BlobMissing

from redflare_workers.jobs import ArchiveError, safe_extract

from . import showing
from .connecting import NOT_FOUND, USAGE, Target, connected, fail
from .stored_jobs import ServerName, StoredJob, need, store_of


@connected
def download(
    target: Target,
    job: StoredJob,
    to: Annotated[
        Path | None, typer.Option("--to", "-t", help="Folder to make; without it, the job's id. With --zip, a file.")
    ] = None,
    archive: Annotated[bool, typer.Option("--archive", help="The job as it was submitted, not its result.")] = False,
    as_zip: Annotated[bool, typer.Option("--zip", help="Do not unpack it.")] = False,
    server: ServerName = "server",
    as_json: showing.Json = False,
) -> None:
    """Fetch what a job has left at the server: models, metrics, its log; or the job itself.

    Prints where it is. A folder that is there already is left alone: exit code
    2. Exit code 1 when the job has no result (yet).

    [bold]Examples[/bold]
    redflare job download job-7 --to results/monday
    redflare job download job-7 --archive --zip --to means.zip
    """
    store = store_of(target, server)
    record = need(store, job)
    place = to or Path(record.id + (".zip" if as_zip else ""))
    if place.exists():
        fail(f"{place} is there already: name another place with --to", USAGE)
    fetch = store.fetch_archive if archive else store.fetch_result
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if as_zip:
            fetch(record.id, place)
        else:
            with tempfile.TemporaryDirectory(prefix=".redflare-", dir=place.parent) as folder:
                safe_extract(fetch(record.id, Path(folder, "job.zip")), place)
    except BlobMissing as error:
        fail(f"{error}; what there is, it says: redflare job show {record.id}", NOT_FOUND)
    except ArchiveError as error:
        fail(f"what job {record.id} has left is refused: {error}; --zip fetches it as it is", USAGE)
    except OSError as error:
        fail(f"{place} cannot be written: {error.strerror or error}", USAGE)
    if as_json:
        files = [place] if as_zip else sorted(path for path in place.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(place)) if path != place else path.name: path.stat().st_size for path in files}
        showing.print_json({"job_id": record.id, "path": str(place), "files": sizes})
    else:
        typer.echo(place)
