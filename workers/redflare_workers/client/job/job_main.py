"""The process of a job at a site (CJ): ``python -m redflare_workers.client.job.job_main <args.json>``.

The client parent writes the file, watches the process, and reads ``outcome.json`` when it is gone.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

from redflare_broker.cell.cell import Cell, HandlerResult
from redflare_broker.config.settings import load_settings
from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.util.inherited_signals import reset_inherited_signals

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.engine.panic_listener import PanicListener
from redflare_workers.jobs.app import ClientApp, build_client_app
from redflare_workers.jobs.problems import exit_code_of
from redflare_workers.messaging.switchboard import Switchboard
from redflare_workers.processes.ending import ProcessEnding
from redflare_workers.processes.exit_code import ExitCode, describe_exit
from redflare_workers.protocol.job_control import NO_REASON, AbortRun, AbortRunTask, JobStatus, PingRun, obey, pong
from redflare_workers.protocol.job_outcome import FENCED, STOPPED, JobOutcome
from redflare_workers.protocol.parent_messages import TaskAbortProof
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.util.log_format import log_to_stderr
from redflare_workers.workspace.job_args import ClientJobArgs
from redflare_workers.workspace.job_report import ClientJobReport
from redflare_workers.workspace.run_folder import AGENTS_FILE

from .client_job import ClientJob

logger = logging.getLogger(__name__)

#: Seconds after the end of the job in which threads that it has left may end; then the process exits without them.
_EXIT_WITHIN: Final = 5.0
_NO_RUN: Final = JobOutcome(status=STOPPED, reason="it was told to end before it began")


class JobProgram:
    """One run of a CJ."""

    def __init__(self, args: ClientJobArgs) -> None:
        self.args = args
        self.ending = ProcessEnding(self._end_early)
        self._panic = ""
        self._job: ClientJob | None = None
        self._cell: Cell | None = None

    def run(self) -> tuple[ExitCode, str]:
        """Build the app, and take part to the end; return how the process ends, and why."""
        args = self.args
        try:
            app = self._build()
            settings = load_settings(args.workspace, args.secure_mode)
            host = CellHost(
                args.site,
                args.job_id,
                redis_url=args.redis_url,
                server_name=args.server_name,
                settings=settings,
                prepare=self._control,
            )
            outcome = self._take_part(app, host)
        except RedflareError as error:
            return exit_code_of(error), str(error)
        if self.ending.reason:
            return ExitCode.ABORTED, self.ending.reason
        if self._panic:
            return ExitCode.EXECUTION_ERROR, self._panic
        # how the job ended at the server is not this site's doing
        return ExitCode.INFRASTRUCTURE if outcome.status == FENCED else ExitCode.SUCCESS, str(outcome)

    def _build(self) -> ClientApp:
        args = self.args
        return build_client_app(args.folder.app_folder(args.site), args.component_builder(), variables=args.variables)

    def _take_part(self, app: ClientApp, host: CellHost) -> JobOutcome:
        args = self.args
        agents = [executor for executor in app.executors.values() if getattr(executor, "fqcn", None) is not None]
        ours = {"__panic__": PanicListener(self._on_panic), "__status__": StatusReporter(args, host, agents)}
        job = self._job = ClientJob(
            args.site,
            app.executors,
            job_id=args.job_id,
            server_name=args.server_name,
            task_filters=app.task_filters,
            result_filters=app.result_filters,
            # the last to hear that the run starts: all others are ready then
            components={**app.inner, **app.components, **ours},
            job_meta={**args.meta, "job_id": args.job_id},
            host=host,
            workspace_dir=args.workspace,
        )

        def stop(reason: str) -> None:
            if self.ending.parent_gone.is_set():
                # the next client parent goes on with the task in hand: a goodbye would take it from the agent
                self._end_early(reason)
            job.stop(reason)
            host.give_up()

        self.ending.attach(stop)
        if self.ending.reason:
            return _NO_RUN
        try:
            host.start()
        except Unavailable:
            if self.ending.reason:
                return _NO_RUN
            raise
        try:
            return job.run()
        finally:
            host.stop()

    def _control(self, cell: Cell, switchboard: Switchboard) -> None:
        """Let the client parent control this process."""
        self._cell = cell
        parent = self.args.site
        obey(cell, parent, self.args.run, AbortRun, self._on_abort)
        obey(cell, parent, self.args.run, AbortRunTask, self._on_abort_task)
        obey(cell, parent, self.args.run, PingRun, self._on_ping)

    def _on_abort(self, message: AbortRun) -> HandlerResult:
        self.ending.ask(message.reason or NO_REASON)
        return self._on_ping(message)

    def _on_abort_task(self, message: AbortRunTask) -> HandlerResult:
        task, over = (
            self._job.abort_task(message.reason or NO_REASON, float(message.grace)) if self._job else ("", True)
        )
        how = "no task" if not task else "cooperative" if over else "pending"
        return ReturnCode.OK, TaskAbortProof(task=task, how=how).to_meta(), None

    def _on_ping(self, message: AbortRun | PingRun) -> HandlerResult:
        return pong(message.run, self._job.current_task if self._job else "")

    def _on_panic(self, reason: str) -> None:
        self._panic = self._panic or reason

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end_early(self, reason: str) -> None:
        """From the ending's thread: there is no job that could be stopped, or it must stay as it is."""
        self.note(ExitCode.ABORTED, reason)
        self.ending.finish()
        os._exit(ExitCode.ABORTED)

    def note(self, code: ExitCode, reason: str) -> None:
        """Write ``outcome.json``, for the client parent."""
        gone = self.ending.parent_gone.is_set()
        faults = dict(self._cell.faults.totals) if self._cell else {}
        report = ClientJobReport(run=self.args.run, exit_code=int(code), reason=reason, parent_gone=gone, faults=faults)
        try:
            report.write(self.args.folder)
        except OSError as error:
            logger.error("cannot write outcome.json: %s", error)


class StatusReporter(FLComponent):
    """Tells the client parent that the job has started here.

    Args:
        agents: executors with agents, listed in ``agents.json``: the parent tells them if this process is killed.
    """

    def __init__(self, args: ClientJobArgs, host: CellHost, agents: Sequence[Any]) -> None:
        super().__init__()
        self._args = args
        self._host = host
        self._agents = agents

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.START_RUN:
            self._note_agents()
            self._tell()

    def _note_agents(self) -> None:
        names = sorted({str(agent.fqcn) for agent in self._agents if agent.fqcn})
        try:
            self._args.folder.write(AGENTS_FILE, {"run": self._args.run, "agents": names})
        except OSError as error:
            logger.error("cannot write the list of agents; %s are not told if this process is killed: %s", names, error)

    def _tell(self) -> None:
        args = self._args
        message = JobStatus(job=args.job_id, run=args.run, status=int(ClientStatus.STARTED))
        try:
            self._host.cell.fire_and_forget(message.CHANNEL, message.TOPIC, args.site, message.to_meta())
        except RedflareError as error:
            logger.warning("cannot tell the parent of %s that job %s has started: %s", args.site, args.job_id, error)


def ended(job_id: str, code: ExitCode, reason: str) -> str:
    """Say how this process ends; that it ends in order does not say that the job has come to its end."""
    if code == ExitCode.SUCCESS:
        return f"job {job_id} is over: {reason}; this site's process ends in order"
    return f"job {job_id} ends here with {describe_exit(code)}: {reason}"


def main() -> int:
    """Run the job of ``args.json`` to its end; the exit code."""
    reset_inherited_signals()
    log_to_stderr()
    program = JobProgram(ClientJobArgs.take(sys.argv[1]))
    program.ending.watch()
    try:
        code, reason = program.run()
    except (Exception, SystemExit) as error:
        logger.exception("job %s failed", program.args.job_id)
        code, reason = ExitCode.EXCEPTION, f"{type(error).__name__}: {error}"
    level = logging.INFO if code in (ExitCode.SUCCESS, ExitCode.ABORTED) else logging.ERROR
    logger.log(level, "%s", ended(program.args.job_id, code, reason))
    program.note(code, reason)
    program.ending.finish()
    # a thread that custom code has left would keep the process alive
    threading.Thread(target=_exit_soon, args=(code,), name="redflare-exit", daemon=True).start()
    return int(code)


def _exit_soon(code: int) -> None:
    threading.Event().wait(_EXIT_WITHIN)
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
