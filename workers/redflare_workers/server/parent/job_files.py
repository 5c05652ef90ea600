"""A job's files at the server: read from the store, unpacked in the folder of its run, and packed again in the end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from redflare_broker.errors import ConfigError
from redflare_broker.job_store.store import JobStore

from redflare_workers.jobs.archive import pack_folder, safe_extract
from redflare_workers.jobs.job_folder import JobDefinition, read_job
from redflare_workers.jobs.job_meta import SERVER
from redflare_workers.jobs.problems import JobProblems
from redflare_workers.workspace.run_folder import APP_FILE, ARGS_FILE, META_FILE, RunFolder
from redflare_workers.workspace.server_job_args import SERVER_APP
from redflare_workers.workspace.site_settings import SiteSettings

from .run_state import RunState

#: What folders are called that hold archives for a moment.
_FETCHING: Final = ".redflare-fetch-"


def fetch_job(store: JobStore, job_id: str, workspace: Path, settings: SiteSettings) -> JobDefinition:
    """A job from the store.

    Raises:
        JobUnknown, BlobMissing, DecodeError: it, or its archive, is not there.
        JobProblems: its mistakes.
        ArchiveError: its archive is refused.
        OSError: there is no room for it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_FETCHING, dir=workspace) as folder:
            archive = store.fetch_archive(job_id, Path(folder) / "job.zip")
            return read_job(archive, max_bytes=settings.max_bytes, max_files=settings.max_files)
    except JobProblems as error:
        # where it was looked at is nobody's business
        raise JobProblems("the job cannot be used", error.problems) from error


def prepare(folder: RunFolder, app: str, sites: tuple[str, ...]) -> None:
    """Make the folder of a run, an earlier one is replaced, and note where the job goes.

    Raises:
        ConfigError: there is something else.
        OSError: it cannot be made.
    """
    if folder.is_foreign:
        raise ConfigError(f"{folder.path} is there and is no run of a job")
    if folder.is_run:
        shutil.rmtree(folder.path)
    folder.path.mkdir(parents=True)
    (folder.path / APP_FILE).write_text(app)
    RunState(job=folder.job_id, sites=sites).write(folder)


def deploy_here(folder: RunFolder, definition: JobDefinition, meta: Mapping[str, Any], settings: SiteSettings) -> None:
    """Unpack the server's app of a job into a folder that was prepared.

    Raises:
        ConfigError: the app is refused.
        OSError: it cannot be written.
    """
    folder.write(META_FILE, dict(meta))
    safe_extract(
        definition.app_archive(definition.meta.app_for(SERVER) or ""),
        folder.app_folder(SERVER_APP),
        max_bytes=settings.max_bytes,
        max_files=settings.max_files,
    )


def keep_result(store: JobStore, folder: RunFolder) -> None:
    """Store what a run's folder holds.

    Raises:
        ConfigError: it is too large.
        JobUnknown: the job is gone.
        OSError: it cannot be packed.
    """
    # it may hold a password; a process takes it away that has come so far as to read it
    (folder.path / ARGS_FILE).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=_FETCHING, dir=folder.path.parent) as temporary:
        target = Path(temporary) / "result.zip"
        pack_folder(folder.path, target, max_bytes=store.policy.file_bytes)
        store.put_result(folder.job_id, target)


def sweep(workspace: Path) -> None:
    """Remove what a server that was killed has left of fetching and packing."""
    for path in workspace.glob(f"{_FETCHING}*"):
        shutil.rmtree(path, ignore_errors=True)
