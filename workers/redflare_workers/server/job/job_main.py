"""The process of a job at the server (SJ): ``python -m redflare_workers.server.job.job_main <args.json>``.

The server's parent writes the file, watches the process, and reads ``outcome.json`` when it is gone. When the parent
is gone, a workflow that can resume is left to the next SJ; any other is ended, and its sites are told.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from typing import Final

from redflare_broker.cell.cell import Cell, HandlerResult
from redflare_broker.config.settings import load_settings
from redflare_broker.errors import ConfigError, RedflareError
from redflare_broker.util.inherited_signals import reset_inherited_signals

from redflare_workers.jobs.app import ServerApp, build_server_app
from redflare_workers.jobs.problems import exit_code_of
from redflare_workers.processes.ending import ProcessEnding
from redflare_workers.processes.exit_code import ExitCode
from redflare_workers.protocol.job_control import NO_REASON, AbortRun, ExpectSites, PingRun, obey, pong
from redflare_workers.protocol.job_outcome import ABORTED, COMPLETED, FAILED, FENCED, STOPPED, JobOutcome
from redflare_workers.util.log_format import log_to_stderr
from redflare_workers.workflow.controller import Controller
from redflare_workers.workflow.workflows import Workflows
from redflare_workers.workspace.job_args import SERVER_APP, ServerJobArgs
from redflare_workers.workspace.job_report import ServerJobReport

from .server_job import ServerJob

logger = logging.getLogger(__name__)

_CODES: Final = {
    COMPLETED: ExitCode.SUCCESS,
    ABORTED: ExitCode.ABORTED,
    STOPPED: ExitCode.ABORTED,
    FAILED: ExitCode.EXECUTION_ERROR,
    FENCED: ExitCode.INFRASTRUCTURE,
}


class ServerProgram:
    """One run of an SJ."""

    def __init__(self, args: ServerJobArgs) -> None:
        self.args = args
        self.report = ServerJobReport(run=args.run)
        self.ending = ProcessEnding(self._end_early)
        self._job: ServerJob | None = None
        self._cell: Cell | None = None

    def run(self) -> ExitCode:
        """Build the app, and run its workflows to the end."""
        try:
            job = self._build()
            self._write_report(self.report)
            self.ending.attach(self._stop)
            outcome = job.run()
        except RedflareError as error:
            return self._failed(exit_code_of(error), str(error))
        self._note(outcome)
        return _CODES[outcome.status]

    def _build(self) -> ServerJob:
        args = self.args
        app = build_server_app(args.folder.app_folder(SERVER_APP), args.component_builder(), variables=args.variables)
        controller = _controller(app)
        self.report = replace(self.report, resumes=controller.resume)
        job = self._job = ServerJob(
            controller,
            redis_url=args.redis_url,
            job_id=args.job_id,
            server_name=args.server_name,
            job_meta={**args.meta, "job_id": args.job_id},
            components={**app.inner, **app.components, **app.controllers},
            workspace_dir=args.workspace,
            settings=load_settings(args.workspace, args.secure_mode),
            prepare=self._control,
            participants=args.participants,
            join_wait=args.join_wait,
        )
        return job

    # -- what it is told -----------------------------------------------------------------------------------------------

    def _control(self, cell: Cell) -> None:
        """Let the server's parent control this process."""
        self._cell = cell
        parent = self.args.server_name
        obey(cell, parent, self.args.run, AbortRun, self._on_abort)
        obey(cell, parent, self.args.run, ExpectSites, self._on_expect)
        obey(cell, parent, self.args.run, PingRun, lambda message: pong(message.run))

    def _on_expect(self, message: ExpectSites) -> HandlerResult:
        if self._job is not None:
            self._job.expect(message.sites)
        return pong(message.run)

    def _on_abort(self, message: AbortRun) -> HandlerResult:
        if self._job is not None:
            self._job.abort(message.reason or NO_REASON)
        return pong(message.run)

    def _stop(self, reason: str) -> None:
        """From the ending's thread."""
        assert self._job is not None
        if self.ending.parent_gone.is_set() and self._job.controller.resume:
            self._job.leave(reason)
        else:
            self._job.abort(reason)

    def _end_early(self, reason: str) -> None:
        """From the ending's thread: there is no job yet that could be ended; whatever builds it is not waited for."""
        self._note(JobOutcome(status=ABORTED, reason=reason))
        self.ending.finish()
        os._exit(ExitCode.ABORTED)

    # -- what it says --------------------------------------------------------------------------------------------------

    def _failed(self, code: ExitCode, reason: str) -> ExitCode:
        logger.error("job %s: %s", self.args.job_id, reason, exc_info=code is ExitCode.EXCEPTION)
        self._note(JobOutcome(status=FAILED, reason=reason))
        return code

    def fail(self, error: BaseException) -> ExitCode:
        """Something that nobody has thought of."""
        return self._failed(ExitCode.EXCEPTION, f"{type(error).__name__}: {error}")

    def _note(self, outcome: JobOutcome) -> None:
        gone = self.ending.parent_gone.is_set() and outcome.status in (ABORTED, STOPPED)
        self._write_report(replace(self.report, status=outcome.status, reason=outcome.reason, parent_gone=gone))

    def _write_report(self, report: ServerJobReport) -> None:
        faults = dict(self._cell.faults.totals) if self._cell else {}
        try:
            replace(report, faults=faults).write(self.args.folder)
        except OSError as error:
            logger.error("cannot write outcome.json: %s", error)


def _controller(app: ServerApp) -> Controller:
    if app.task_filters or app.result_filters:
        raise ConfigError(
            "config_fed_server has filters of tasks or results, which run at sites only; move them to config_fed_client"
        )
    controllers = list(app.controllers.values())
    return controllers[0] if len(controllers) == 1 else Workflows(app.controllers)


def main() -> None:
    """Run the job of ``args.json`` to its end, and exit with how it ended."""
    reset_inherited_signals()
    log_to_stderr()
    program = ServerProgram(ServerJobArgs.take(sys.argv[1]))
    program.ending.watch()
    try:
        code = program.run()
    except (Exception, SystemExit) as error:
        code = program.fail(error)
    program.ending.finish()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # a thread that custom code has left would keep the process alive
    os._exit(code)


if __name__ == "__main__":
    main()
