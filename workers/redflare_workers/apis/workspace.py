"""``Workspace``: folders for the files of a process and of its jobs. After NVFlare's ``Workspace``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from redflare_workers.util.atomic_file import private_folder

_APP_PREFIX: Final = "app_"
_CUSTOM: Final = "custom"


class Workspace:
    """Folders below one root: ``<job>/app_<site>/{config,custom}``; used as a path, it is its root.

    Args:
        root_dir: the root; need not exist yet.
        site_name: name of the site, or the server, for the folders of apps.
        config_folder: name of the folder with an app's configuration.
    """

    def __init__(self, root_dir: str | os.PathLike[str], site_name: str = "", config_folder: str = "config") -> None:
        self.root_dir = os.fspath(root_dir)
        self.site_name = site_name
        self.config_folder = config_folder

    def __fspath__(self) -> str:
        return self.root_dir

    def __str__(self) -> str:
        return self.root_dir

    def __repr__(self) -> str:
        return f"Workspace({self.root_dir!r}, {self.site_name!r})"

    def get_root_dir(self) -> str:
        """Return the root."""
        return self.root_dir

    def get_file_path_in_root(self, file_basename: str) -> str:
        """Path of a file right below the root."""
        return os.path.join(self.root_dir, file_basename)

    def get_run_dir(self, job_id: str) -> str:
        """Return the folder of a job; create it if necessary.

        Raises:
            ValueError: the id is not the name of a folder and would lead elsewhere.
        """
        if not isinstance(job_id, str) or not job_id or job_id in (".", "..") or Path(job_id).name != job_id:
            raise ValueError(f"the id of a job must be the name of a folder, but is {job_id!r}")
        return _made(os.path.join(os.path.abspath(self.root_dir), job_id))

    def get_app_dir(self, job_id: str) -> str:
        """Return the folder of this site's app of a job; create it if necessary."""
        return _made(os.path.join(self.get_run_dir(job_id), _APP_PREFIX + self.site_name))

    def get_app_config_dir(self, job_id: str) -> str:
        """Folder of an app's configuration."""
        return os.path.join(self.get_app_dir(job_id), self.config_folder)

    def get_app_custom_dir(self, job_id: str) -> str:
        """Folder of an app's custom code."""
        return os.path.join(self.get_app_dir(job_id), _CUSTOM)

    def get_result_root(self, job_id: str) -> str:
        """Folder of a job's results: that of the job."""
        return self.get_run_dir(job_id)

    def get_log_root(self, job_id: str | None = None) -> str:
        """Folder of logs: that of the job, or the root."""
        return self.get_run_dir(job_id) if job_id else self.root_dir


def _made(folder: str) -> str:
    return str(private_folder(folder))
