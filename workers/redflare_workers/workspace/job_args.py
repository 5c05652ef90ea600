"""The arguments of a job's process, ``args.json`` in the folder of its run: written by its parent, read once by it."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import orjson

from redflare_workers.jobs.component_builder import ComponentBuilder

from .run_folder import ARGS_FILE, RunFolder
from .site_settings import JOIN_WAIT

#: Name of the server in paths and variables, as ``app_server``.
SERVER_APP: Final = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobArgs:
    """What the process of a job needs to know; the same at the server and at a site."""

    #: the module that the process runs
    PROGRAM: ClassVar[str]

    workspace: str
    job_id: str
    #: names this process
    run: str
    redis_url: str = field(default="", repr=False)
    server_name: str = "server"
    secure_mode: bool = False
    #: class paths that the job may name, and whether it may bring code
    allow: list[str] = field(default_factory=list)
    allow_custom: bool = False
    #: the job's
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.workspace, self.job_id)

    @property
    def command(self) -> list[str]:
        """The command that starts the process, once the file is written."""
        # -P: no module is taken from the folder of the run
        return [sys.executable, "-P", "-m", self.PROGRAM, str(self.folder.path / ARGS_FILE)]

    @property
    def own_name(self) -> str:
        """Name of the server, or of the site."""
        return self.server_name

    @property
    def variables(self) -> dict[str, str]:
        """The variables that the app of the job may use."""
        return {"JOB_ID": self.job_id, "SITE_NAME": self.own_name, "WORKSPACE": self.workspace}

    def component_builder(self) -> ComponentBuilder:
        """Make the builder of the app's components, which also gives them what this process knows."""
        given = {
            "redis_url": self.redis_url,
            "site_name": self.own_name,
            "workspace_dir": self.workspace,
            "secure_mode": self.secure_mode,
        }
        return ComponentBuilder(self.allow, allow_custom=self.allow_custom, given=given, folder=self.folder.path)

    def write(self) -> None:
        """Write the file, which only its owner may read.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.write(ARGS_FILE, asdict(self))

    @classmethod
    def take(cls, path: str | Path) -> Self:
        """Read the file, and remove it: it may hold a password, and the folder is what an operator downloads."""
        file = Path(path)
        args = cls(**orjson.loads(file.read_bytes()))
        file.unlink(missing_ok=True)
        return args


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJobArgs(JobArgs):
    """The arguments of a job's process at the server (SJ)."""

    PROGRAM: ClassVar[str] = "redflare_workers.server.job.job_main"

    #: the sites that the job was deployed to
    participants: list[str] = field(default_factory=list)
    #: see ``SiteSettings``
    join_wait: float = JOIN_WAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientJobArgs(JobArgs):
    """The arguments of a job's process at a site (CJ)."""

    PROGRAM: ClassVar[str] = "redflare_workers.client.job.job_main"

    site: str

    @property
    def own_name(self) -> str:
        return self.site
