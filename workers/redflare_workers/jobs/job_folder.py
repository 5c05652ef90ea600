"""Jobs as users write them: a folder, or a zip of it, with ``meta.json`` and a folder for each app."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from .app_config import AppConfig
from .archive import MAX_BYTES, MAX_FILES, pack_files
from .job_meta import JobMeta
from .problems import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDefinition:
    """A job without mistakes, as far as its files can tell."""

    meta: JobMeta
    #: by name of the folder
    apps: Mapping[str, AppConfig]
    #: all files by path
    files: Mapping[str, bytes]
    #: what is no mistake and has no effect
    warnings: tuple[Problem, ...] = ()

    def archive(self) -> bytes:
        """The whole job as a zip; the same files give the same bytes."""
        return pack_files(self.files)

    def app_archive(self, app: str) -> bytes:
        """One app as a zip, with ``config`` and ``custom`` at its top: what ``deploy_app`` takes."""
        prefix = f"{app}/"
        return pack_files(
            {path.removeprefix(prefix): data for path, data in self.files.items() if path.startswith(prefix)}
        )


def read_job(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
    *,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
) -> JobDefinition:
    """Read a job and check it as a whole.

    Args:
        source: a folder, a zip file, or the bytes of one.

    Raises:
        JobProblems: all its mistakes, each with file and key.
        ArchiveError: the archive itself is refused.
        OSError: it cannot be read.
    """
    raise NotImplementedError
