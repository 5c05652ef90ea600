"""A job's files at the server: fetched from the store, unpacked in the folder of its run, packed again at the end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from redflare_broker.errors import ConfigError
from redflare_broker.job_store.record import JobRecord
from redflare_broker.job_store.store import JobStore

from redflare_workers.jobs.archive import pack_folder, safe_extract
from redflare_workers.jobs.job_folder import JobDefinition, read_job
from redflare_workers.jobs.job_meta import SERVER
from redflare_workers.jobs.problems import JobProblems
from redflare_workers.util.atomic_file import private_folder, replacing
from redflare_workers.workspace.job_args import SERVER_APP
from redflare_workers.workspace.run_folder import APP_FILE, ARGS_FILE, META_FILE, RunFolder
from redflare_workers.workspace.site_settings import SiteSettings

from .run_state import RunState

#: Prefix of the names of folders that hold archives for a moment.
_FETCHING: Final = ".redflare-fetch-"


def fetch_job(store: JobStore, job_id: str, workspace: Path, settings: SiteSettings) -> JobDefinition:
    """Fetch a job's archive from the store, and read it.

    Raises:
        JobUnknown, BlobMissing, DecodeError: the job, or its archive, is not there.
        JobProblems: the job has errors; all are listed.
        ArchiveError: the archive is rejected.
        OSError: there is no room for it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_FETCHING, dir=workspace) as folder:
            archive = store.fetch_archive(job_id, Path(folder) / "job.zip")
            return read_job(archive, max_bytes=settings.max_bytes, max_files=settings.max_files)
    except JobProblems as error:
        # without the path of the temporary folder
        raise JobProblems("the job cannot be used", error.problems) from error


def run_meta(record: JobRecord) -> dict[str, Any]:
    """Return the meta of a job with what tells it from all others, for the folders of its runs."""
    return {**record.meta, "job_id": record.id, "submission": record.submission}


def prepare(folder: RunFolder, app: str, sites: tuple[str, ...], meta: Mapping[str, Any]) -> None:
    """Make the folder of a run, in place of an earlier one, and record to which sites the job goes.

    Args:
        meta: as ``run_meta``.

    Raises:
        ConfigError: something else is there.
        OSError: it cannot be made.
    """
    if folder.is_foreign:
        raise ConfigError(f"{folder.path} exists and is not the run of a job")
    if folder.is_run:
        shutil.rmtree(folder.path)
    private_folder(folder.path)
    with replacing(folder.path / APP_FILE) as file:
        file.write(app.encode())
    folder.write(META_FILE, dict(meta))
    RunState(job=folder.job_id, sites=sites).write(folder)


def deploy_here(folder: RunFolder, definition: JobDefinition, settings: SiteSettings) -> None:
    """Unpack the server's app of a job into a folder that was prepared.

    Raises:
        ConfigError: the app is rejected.
        OSError: it cannot be written.
    """
    safe_extract(
        definition.app_archive(definition.meta.app_for(SERVER) or ""),
        folder.app_folder(SERVER_APP),
        max_bytes=settings.max_bytes,
        max_files=settings.max_files,
    )


def keep_result(store: JobStore, folder: RunFolder, submission: str = "") -> None:
    """Store the content of a run's folder as the job's result.

    Raises:
        ConfigError: it is too large.
        JobUnknown: the job of this submission is gone.
        OSError: it cannot be packed.
    """
    # it may hold a password, and is left by a process that ended before it read it
    (folder.path / ARGS_FILE).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=_FETCHING, dir=folder.path.parent) as temporary:
        target = Path(temporary) / "result.zip"
        pack_folder(folder.path, target, max_bytes=store.policy.file_bytes)
        store.put_result(folder.job_id, target, submission=submission)


def sweep(workspace: Path) -> None:
    """Remove the temporary folders of a server that was killed."""
    for path in workspace.glob(f"{_FETCHING}*"):
        shutil.rmtree(path, ignore_errors=True)
