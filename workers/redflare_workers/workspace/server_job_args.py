"""What a job's process at the server (SJ) is told, and what it says of itself: files in the folder of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from redflare_workers.workspace.run_folder import OUTCOME_FILE, RunFolder

#: Name of the server in paths and variables, as ``app_server``.
SERVER_APP: Final = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJobArgs:
    """The content of ``args.json``."""

    workspace: str
    job_id: str
    #: names this process
    run: str
    redis_url: str = ""
    server_name: str = "server"
    secure_mode: bool = False
    allow: list[str] = field(default_factory=list)
    allow_custom: bool = False
    #: what the job says of itself
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def take(cls, path: str | Path) -> ServerJobArgs:
        """Read the file, and remove it: it may hold a password, and the folder is what an operator downloads."""
        file = Path(path)
        order = cls(**orjson.loads(file.read_bytes()))
        file.unlink(missing_ok=True)
        return order

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.workspace, self.job_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJobReport:
    """The content of ``outcome.json``: written when the app was built, and once more at the end."""

    run: str
    #: A successor goes on with the job where it was; None: the app was not built, nobody knows.
    resumes: bool | None = None
    #: One of ``job_outcome``; "": it has not come to its end.
    status: str = ""
    reason: str = ""
    #: It ended because its parent was gone, not because the job was over.
    parent_gone: bool = False

    def write(self, folder: RunFolder) -> None:
        """Write it down.

        Raises:
            OSError: it cannot be written.
        """
        folder.write(OUTCOME_FILE, asdict(self))

    @classmethod
    def read(cls, folder: RunFolder, run: str) -> ServerJobReport:
        """What the process of that run has said last."""
        told: Mapping[str, Any] = folder.read(OUTCOME_FILE) or {}
        if told.get("run") != run:
            return cls(run=run)
        return cls(**{name: told[name] for name in cls.__slots__ if name in told})
