"""The two processes of the demo's job beside its agents: the server, and the client jobs of all sites."""

from __future__ import annotations

from typing import Any

from .data import Samples
from .errors import DemoError
from .events import Emit, Failed, JobProcessEnded, RoundEnded, SiteAnswered, Trained
from .job_settings import JobSettings
from .processes import WatchedProcess

LOG_FILE = "process.log"


class DemoJobProcess(WatchedProcess):
    """One of the two."""

    def _began(self, pid: int) -> None:
        """Nothing to show: the sites' states say when the job goes on."""

    def _ended(self, pid: int, *, killed: bool) -> None:
        self._emit(JobProcessEnded(name=self.name, pid=pid, round_number=self._round, killed=killed))

    def _heard(self, pid: int, told: dict[str, Any]) -> None:
        """It has nothing to tell."""


class ClientJobsProcess(DemoJobProcess):
    """The client jobs."""

    def __init__(self, settings: JobSettings, emit: Emit) -> None:
        command = settings.prepare_client_jobs()
        super().__init__("the client jobs", command, settings.client_jobs_workspace / LOG_FILE, emit)


class DemoServerProcess(DemoJobProcess):
    """The server, which tells of each result and of each round."""

    def __init__(self, settings: JobSettings, held_out: Samples, emit: Emit) -> None:
        command = settings.prepare_server(held_out)
        super().__init__("the server", command, settings.server_workspace / LOG_FILE, emit)

    def _heard(self, pid: int, told: dict[str, Any]) -> None:
        figures = {name: told[name] for name in ("loss", "accuracy", "seconds") if name in told}
        match told["state"]:
            case "answered":
                self._emit(SiteAnswered(site=told["site"], round_number=told["round"], **figures))
            case "round":
                self._emit(RoundEnded(round_number=told["round"], **figures))
            case "done":
                self._emit(Trained())
            case "failed":
                self._emit(Failed(error=DemoError(f"the federation failed: {told['reason']}")))
