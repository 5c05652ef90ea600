"""What the demo tells the server and the client jobs of its job, and the workspaces it starts them in."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from .data import Samples
from .site_settings import SAMPLES_FILE

SETTINGS_FILE = "job.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """The job; it stands in a file, because a URL may hold a password."""

    url: str
    job_id: str  #: also the name of the agents
    sites: list[str]
    rounds: int
    seed: int
    scratch: str  #: the demo's directory, removed by whoever ends last

    @property
    def server_workspace(self) -> Path:
        """Where the server has the held-out images, and puts the model."""
        return Path(self.scratch) / "server"

    @property
    def client_jobs_workspace(self) -> Path:
        """Where the client jobs find these settings."""
        return Path(self.scratch) / "client-jobs"

    def prepare_server(self, held_out: Samples) -> list[str]:
        """Fill the server's workspace; answers with the command that starts it."""
        command = self._prepare(self.server_workspace, "redflare_workers.demo.server")
        held_out.save(self.server_workspace / SAMPLES_FILE)
        return command

    def prepare_client_jobs(self) -> list[str]:
        """The same for the client jobs."""
        return self._prepare(self.client_jobs_workspace, "redflare_workers.demo.client_jobs")

    def _prepare(self, workspace: Path, program: str) -> list[str]:
        workspace.mkdir()
        (workspace / SETTINGS_FILE).write_text(json.dumps(asdict(self)))
        return [sys.executable, "-m", program, str(workspace)]

    @classmethod
    def load(cls, workspace: Path) -> JobSettings:
        """Read what ``prepare_server`` or ``prepare_client_jobs`` wrote."""
        return cls(**json.loads((workspace / SETTINGS_FILE).read_text()))
