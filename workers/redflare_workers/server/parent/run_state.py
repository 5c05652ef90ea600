"""``RunState``: what a successor of the server must know of a job that runs, in ``process.json`` of its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from redflare_workers.processes import ProcessMark
from redflare_workers.workspace.job_report import ServerJobReport
from redflare_workers.workspace.run_folder import PROCESS_FILE, RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The state of one job; the content of ``process.json``."""

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
    #: Whether a successor resumes the workflow, as a process of it has reported; None: none has reported yet.
    resumes: bool | None = None

    @property
    def mark(self) -> ProcessMark:
        return ProcessMark(pid=self.pid, started=self.pid_started, mark=self.run)

    def with_report(self, report: ServerJobReport) -> RunState:
        """Return the state after a report of its process."""
        return self if report.resumes is None else replace(self, resumes=report.resumes)

    def write(self, folder: RunFolder) -> None:
        """Write the file.

        Raises:
            OSError: it cannot be written.
        """
        folder.write(PROCESS_FILE, asdict(self))

    @classmethod
    def read(cls, folder: RunFolder) -> RunState | None:
        """Read the file; None: there is none, or it is not that of a server."""
        data = folder.read(PROCESS_FILE) or {}
        try:
            state = cls(**{**data, "sites": tuple(data.get("sites", ()))})
        except TypeError:
            return None
        return state if state.job == folder.job_id else None
