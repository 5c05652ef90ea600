"""``ServerProcess``: the process of a job at the server (SJ), started, watched and ended by its parent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from redflare_broker.cell.cell import Cell
from redflare_broker.errors import RedflareError
from redflare_broker.fqcn import FQCN

from redflare_workers.processes import JobProcess, ProcessMark
from redflare_workers.processes.how_ended import NOT_RUNNING
from redflare_workers.protocol.job_control import AbortRun, ExpectSites, JobControl
from redflare_workers.workspace.job_args import ServerJobArgs
from redflare_workers.workspace.job_report import ServerJobReport
from redflare_workers.workspace.run_folder import OUTCOME_FILE
from redflare_workers.workspace.site_settings import SiteSettings

logger = logging.getLogger(__name__)

#: Seconds that a process has to end itself once its lifeline is closed, before it is killed.
_RELEASED_WITHIN: Final = 8.0


@dataclass(slots=True, eq=False)
class ServerProcess:
    """One run; ``start`` it once."""

    #: for the process; its folder exists
    args: ServerJobArgs
    #: the parent's, which asks it to end
    cell: Cell
    #: how long an abort waits
    settings: SiteSettings
    #: called with lines of its output
    on_lines: Callable[[list[str]], object]
    #: called with the exit code when the process, and all that it has started, is gone
    on_exit: Callable[[int], object]
    #: the sites that the process knows to take part
    expected: list[str] = field(init=False)
    _gone: threading.Event = field(default_factory=threading.Event, init=False)
    _process: JobProcess = field(init=False)

    def __post_init__(self) -> None:
        self.expected = self.args.participants
        self._process = JobProcess(
            f"server of job {self.args.job_id}",
            self.args.command,
            mark=self.args.run,
            log=self.args.folder.log,
            on_lines=self.on_lines,
            on_exit=self._exited,
            cwd=self.args.folder.path,
        )

    def start(self) -> ProcessMark:
        """Launch the process.

        Raises:
            OSError: it cannot be launched.
        """
        (self.args.folder.path / OUTCOME_FILE).unlink(missing_ok=True)
        self.args.write()
        try:
            return self._process.start()
        except BaseException:
            self._gone.set()
            raise

    def report(self) -> ServerJobReport:
        """Return the last report of the process."""
        return ServerJobReport.read(self.args.folder, self.args.run)

    def tail(self) -> list[str]:
        """Return the last lines of the process's output."""
        return self._process.tail()

    def end(self, reason: str) -> str:
        """End the process and wait, as ``JobProcess.end``; return how it ended."""
        if self._gone.is_set():
            return NOT_RUNNING
        return self._process.end(
            self._gone,
            lambda: self._request_end(reason),
            reason,
            abort_grace=self.settings.abort_grace,
            stop_grace=self.settings.stop_grace,
        )

    def expect(self, sites: Sequence[str]) -> None:
        """Tell the process that the job is left with these sites."""
        self.expected = list(sites)
        self._tell(ExpectSites(run=self.args.run, sites=list(sites)))

    def _request_end(self, reason: str) -> None:
        self._tell(AbortRun(run=self.args.run, reason=reason))

    def _tell(self, message: JobControl) -> None:
        try:
            target = FQCN.join([self.args.server_name, self.args.job_id])
            self.cell.fire_and_forget(message.CHANNEL, message.TOPIC, target, message.to_meta())
        except RedflareError as error:
            logger.warning("job %s: its server cannot be told %s: %s", self.args.job_id, message, error)

    def release(self) -> None:
        """Let the process end itself, leaving the job to a successor if it can resume, and wait."""
        self._process.release()
        if not self._gone.wait(_RELEASED_WITHIN):
            self._process.kill()
            self._gone.wait()

    def _exited(self, code: int) -> None:
        self._gone.set()
        self.on_exit(code)

    def __repr__(self) -> str:
        return f"<ServerProcess {self._process!r}>"
