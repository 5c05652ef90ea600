"""``ServerProcess``: the process of a job at the server (SJ), started, watched and ended by its parent."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from redflare_broker.cell.cell import Cell
from redflare_broker.errors import RedflareError
from redflare_broker.fqcn import FQCN

from redflare_workers.processes import JobProcess, ProcessMark
from redflare_workers.processes.how_ended import COOPERATIVE, KILLED, NOT_RUNNING, TERMINATED
from redflare_workers.protocol.parent_messages import ABORT, JOB_CONTROL
from redflare_workers.workspace.run_folder import ARGS_FILE, OUTCOME_FILE
from redflare_workers.workspace.server_job_args import ServerJobArgs, ServerJobReport
from redflare_workers.workspace.site_settings import SiteSettings

logger = logging.getLogger(__name__)

#: Seconds that a process has to go when its lifeline was closed, before it is killed.
_RELEASED_WITHIN: Final = 8.0


class ServerProcess:
    """One run; ``start`` it once.

    Args:
        order: for it; its folder is there.
        cell: the parent's, which asks it to end.
        settings: how long an abort waits.
        on_lines: called with lines of its output.
        on_exit: called with the exit code when it is gone, with all that it has started.
    """

    def __init__(
        self,
        order: ServerJobArgs,
        cell: Cell,
        settings: SiteSettings,
        on_lines: Callable[[list[str]], object],
        on_exit: Callable[[int], object],
    ) -> None:
        self.order = order
        self._cell = cell
        self._settings = settings
        self._on_exit = on_exit
        self._gone = threading.Event()
        self._code: int | None = None
        self._process = JobProcess(
            f"server of job {order.job_id}",
            [sys.executable, "-P", "-m", "redflare_workers.server.job.job_main", str(order.folder.path / ARGS_FILE)],
            mark=order.run,
            log=order.folder.log,
            on_lines=on_lines,
            on_exit=self._exited,
            cwd=order.folder.path,
        )

    def start(self) -> ProcessMark:
        """Launch it.

        Raises:
            OSError: it cannot be launched.
        """
        folder = self.order.folder
        (folder.path / OUTCOME_FILE).unlink(missing_ok=True)
        folder.write(ARGS_FILE, asdict(self.order))
        try:
            return self._process.start()
        except BaseException:
            self._gone.set()
            raise

    @property
    def exit_code(self) -> int | None:
        """None: it runs."""
        return self._code

    def said(self) -> ServerJobReport:
        """What it has said of itself."""
        return ServerJobReport.read(self.order.folder, self.order.run)

    def tail(self) -> list[str]:
        """The last lines of its output."""
        return self._process.tail()

    def end(self, reason: str) -> str:
        """End it: in order, by SIGTERM after a while, by SIGKILL after another; waits, and says which it was."""
        if self._gone.is_set():
            return NOT_RUNNING
        try:
            target = FQCN.join([self.order.server_name, self.order.job_id])
            self._cell.fire_and_forget(JOB_CONTROL, ABORT, target, {"run": self.order.run, "reason": reason})
        except RedflareError as error:
            logger.warning("job %s: its server cannot be told to end: %s", self.order.job_id, error)
        if self._gone.wait(self._settings.abort_grace):
            return COOPERATIVE
        logger.warning("job %s: SIGTERM to its server: %s", self.order.job_id, reason)
        self._process.terminate()
        if self._gone.wait(self._settings.stop_grace):
            return TERMINATED
        logger.warning("job %s: SIGKILL to its server: %s", self.order.job_id, reason)
        self._process.kill()
        self._gone.wait()
        return KILLED

    def release(self) -> None:
        """Let it end itself, leaving the job to a successor if it can; waits."""
        self._process.release()
        if not self._gone.wait(_RELEASED_WITHIN):
            self._process.kill()
            self._gone.wait()

    def _exited(self, code: int) -> None:
        self._code = code
        self._gone.set()
        self._on_exit(code)

    def __repr__(self) -> str:
        return f"<ServerProcess {self._process!r}>"
