"""``RunState``: what the server's parent must find again of a job that runs, in ``process.json`` of its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from redflare_workers.processes import ProcessMark
from redflare_workers.workspace.run_folder import PROCESS_FILE, RunFolder
from redflare_workers.workspace.server_job_args import ServerJobReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """One job."""

    job: str
    #: names its process (SJ); "": none was started
    run: str = ""
    pid: int = 0
    #: as ``ProcessMark.started``
    pid_started: str = ""
    #: sites that the job was given to
    sites: tuple[str, ...] = ()
    #: how often its process was started again because it had died
    restarts: int = 0
    #: A process of it has said whether a successor goes on where it was; None: none has got so far.
    resumes: bool | None = None

    @property
    def mark(self) -> ProcessMark:
        return ProcessMark(pid=self.pid, started=self.pid_started, mark=self.run)

    def heard(self, said: ServerJobReport) -> RunState:
        """With what its last process has said."""
        return self if said.resumes is None else replace(self, resumes=said.resumes)

    def write(self, folder: RunFolder) -> None:
        """Write it down.

        Raises:
            OSError: it cannot be written.
        """
        folder.write(PROCESS_FILE, asdict(self))

    @classmethod
    def read(cls, folder: RunFolder) -> RunState | None:
        """None: there is none, or it is not one of ours."""
        told = folder.read(PROCESS_FILE)
        try:
            state = cls(**{**(told or {}), "sites": tuple((told or {}).get("sites", ()))})
        except TypeError:
            return None
        return state if state.job == folder.job_id else None
