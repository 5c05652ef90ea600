"""``SiteRun``: one run of a job at a site, from the launch of its process until all of it is gone.

If this client parent dies, the job's process ends itself within seconds; the next client parent makes sure of that, and
launches another: the task in hand is still the site's. ``RunRecord`` is what it goes by.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any, Protocol

from redflare_broker.job_store.record import LOG_TAIL

from redflare_workers.processes.exit_code import ExitCode, describe_exit
from redflare_workers.processes.how_ended import KILLED, NOT_RUNNING
from redflare_workers.processes.job_process import JobProcess
from redflare_workers.protocol.parent_messages import AbortProof
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.workspace.job_report import ClientJobReport
from redflare_workers.workspace.run_folder import PROCESS_FILE, RunFolder
from redflare_workers.workspace.site_settings import SiteSettings

from .run_record import RunRecord

logger = logging.getLogger(__name__)


class RunContext(Protocol):
    """What a run needs of its surroundings."""

    settings: SiteSettings

    def command(self, record: RunRecord) -> list[str]:
        """Write what the process needs to the run's folder, and return the command that starts it."""

    def request_end(self, job_id: str, run: str, reason: str, /) -> object:
        """Ask the process to end in order; does not wait."""

    def on_lines(self, record: RunRecord, lines: Sequence[str]) -> None:
        """Forward lines that the process has written."""

    def notify_agents(self, record: RunRecord, reason: str) -> dict[str, str]:
        """Tell the agents of a process that is gone that their job was aborted; what became of them, by FQCN."""

    def note(self, record: RunRecord) -> None:
        """Keep that the run is to end, or has, before anybody is told."""

    def on_change(self, record: RunRecord) -> None:
        """Report a new status."""

    def on_end(self, record: RunRecord) -> None:
        """Report the end; the last call."""


class SiteRun:
    """One run, in the folder of a deployed job; ``record``: of one that a predecessor has begun. Thread-safe."""

    def __init__(self, folder: RunFolder, context: RunContext, record: RunRecord | None = None) -> None:
        self.folder = folder
        self._context = context
        self._guard = threading.RLock()
        self._record = record or RunRecord(job=folder.job_id, run=uuid.uuid4().hex, submission=folder.submission or "")
        self._process: JobProcess | None = None
        self._abort_proof: Future[AbortProof] | None = None
        self._aborted_at = 0.0
        #: how far the abort has gone
        self._step = NOT_RUNNING
        self._released = self._ending = False
        #: the process is gone
        self._gone = threading.Event()
        #: and its end is recorded
        self._over = threading.Event()
        if not self._record.status.live:
            self._over.set()

    @property
    def record(self) -> RunRecord:
        return self._record

    @property
    def status(self) -> ClientStatus:
        return self._record.status

    @property
    def live(self) -> bool:
        """Whether its process runs, or is about to."""
        return not self._over.is_set()

    # -- its life ------------------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the process, unless an abort came first.

        Raises:
            OSError: it cannot be started.
        """
        try:
            with self._guard:
                aborted = bool(self._record.abort)
                if not aborted and not self._released:
                    self._start_process()
        except OSError as error:
            self._end(ExitCode.INFRASTRUCTURE, f"its process cannot be started: {error}")
            raise
        if aborted:
            self._end(None, None)
        elif self._process is not None:
            logger.info("job %s: launched process %d", self._record.job, self._record.pid)
            self._context.on_change(self._record)

    def _start_process(self) -> None:
        record = self._record
        process = JobProcess(
            f"job {record.job}",
            self._context.command(record),
            mark=record.run,
            log=self.folder.log,
            on_lines=lambda lines: self._context.on_lines(record, lines),
            on_exit=self._on_exit,
            # files that it writes by a relative path are in its folder too
            cwd=self.folder.path,
        )
        mark = process.start()
        self._process = process
        self._change(pid=mark.pid, pid_started=mark.started, launched=time.time())

    def relaunch(self) -> None:
        """End what is left of a predecessor's process, and launch the run again, in a thread."""
        threading.Thread(target=self._relaunch, name=f"redflare-relaunch-{self.folder.job_id}", daemon=True).start()

    def _relaunch(self) -> None:
        try:
            mark = self._record.mark
            killed = mark.reap(self._context.settings.stop_grace) if mark.pid else []
            report = self._report()
            with self._guard:
                self._step = KILLED if killed else self._step
                if report is not None and not report.parent_gone and not self._record.abort:
                    self._end(report.exit_code, report.reason)
                    return
                if not self._record.abort:
                    self._change(run=uuid.uuid4().hex, status=ClientStatus.STARTING, pid=0, pid_started="")
            logger.warning(
                "job %s was running when this site's client parent ended; %s",
                self.folder.job_id,
                "it was being aborted" if self._record.abort else "it resumes",
            )
            self.launch()
        except Exception as error:
            logger.exception("job %s cannot resume", self.folder.job_id)
            if self.live:
                self._end(ExitCode.INFRASTRUCTURE, f"it cannot resume after the restart of the client parent: {error}")

    def on_status(self, status: ClientStatus) -> None:
        """Record and report a status of the process; ignored once it is over."""
        with self._guard:
            if not self._record.status.live or self._over.is_set() or status is self._record.status:
                return
            self._change(status=status)
        self._context.on_change(self._record)

    def abort(self, reason: str) -> Future[AbortProof]:
        """End the process: in order, by SIGTERM after ``abort_grace``, by SIGKILL after ``stop_grace``.

        The result comes when it is gone.
        """
        with self._guard:
            if self._abort_proof is None:
                self._abort_proof = Future()
                self._aborted_at = time.time()
                if self._over.is_set():
                    name = f"redflare-abort-{self.folder.job_id}"
                    threading.Thread(target=self._abort_late, args=(reason, self._abort_proof), name=name).start()
                    return self._abort_proof
                if not self._record.abort:
                    self._change(abort=reason or "abort")
                    self._context.note(self._record)
                # without a process, launch finds the abort
                if self._process is not None:
                    name = f"redflare-abort-{self.folder.job_id}"
                    threading.Thread(target=self._escalate, name=name, daemon=True).start()
            return self._abort_proof

    def release(self) -> None:
        """Let the process end itself because the client parent stops; the next client parent resumes the run."""
        with self._guard:
            self._released = True
            process = self._process
        if process is not None:
            process.release()

    def wait(self, timeout: float) -> bool:
        """Wait until the process is gone; False: it still runs."""
        return self._process is None or self._over.wait(timeout)

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        if self._process is not None:
            self._process.kill()

    def note_reported(self) -> None:
        """Record that the server knows how the run ended."""
        with self._guard:
            if self._over.is_set() and self.folder.is_run:
                self._change(reported=True)

    # -- its end -------------------------------------------------------------------------------------------------------

    def _abort_late(self, reason: str, proof: Future[AbortProof]) -> None:
        """Answer an abort that comes after the end: the agents of a process that has failed may still work."""
        agents = self._record.agents
        if self._record.status is ClientStatus.EXCEPTION:
            agents = self._notify_agents(reason)
        at = self._record.ended or time.time()
        proof.set_result(AbortProof(how=NOT_RUNNING, at=at, exit_code=self._record.exit_code, agents=agents))

    def _notify_agents(self, reason: str) -> Mapping[str, str]:
        try:
            return self._context.notify_agents(self._record, reason)
        except Exception:
            logger.exception("job %s: cannot notify its agents of the abort", self._record.job)
            return {}

    def _escalate(self) -> None:
        settings, process, record = self._context.settings, self._process, self._record
        assert process is not None
        # one that is still starting reads no messages yet, and has nothing to clean up
        starting = record.status is ClientStatus.STARTING
        process.end(
            self._gone,
            None if starting else lambda: self._context.request_end(record.job, record.run, record.abort),
            record.abort,
            abort_grace=settings.abort_grace,
            stop_grace=settings.stop_grace,
            on_step=self._on_step,
        )

    def _on_step(self, how: str) -> None:
        self._step = how

    def _on_exit(self, code: int) -> None:
        report = self._report()
        with self._guard:
            if again := report is None and self._may_restart(code):
                self._process = None
                fresh = {"run": uuid.uuid4().hex, "status": ClientStatus.STARTING, "pid": 0, "pid_started": ""}
                self._change(**fresh, restarts=self._record.restarts + 1)
            else:
                self._gone.set()
            if self._released and not self._record.abort and (report is None or report.parent_gone):
                # the next client parent resumes it
                self._over.set()
                return
        if again:
            most = self._context.settings.restarts
            text = f"the job's process died ({describe_exit(code)}); restart {self._record.restarts} of {most}"
            logger.warning("job %s: %s", self.folder.job_id, text)
            self._context.on_lines(self._record, [text])
            self.launch()
            return
        # without the lock: to notify agents takes a while
        if report is None and code == ExitCode.SUCCESS:
            self._end(code, "its process ended without reporting how: its code may have called exit", failed=True)
        else:
            self._end(code, report.reason if report else "")

    def _may_restart(self, code: int) -> bool:
        """Whether to start the process again: a signal, of the kernel or an operator, has killed it."""
        record = self._record
        return (
            code < 0 and not record.abort and not self._released and record.restarts < self._context.settings.restarts
        )

    def _report(self) -> ClientJobReport | None:
        """Return the process's own report of its end."""
        return ClientJobReport.find(self.folder, self._record.run)

    def _end(self, code: int | None, reported: str | None, *, failed: bool = False) -> None:
        """Record how the run ended; later calls have no effect.

        Args:
            code: of the process; None: there was none.
            reported: the reason that the process gives.
            failed: it has, whatever the exit code is.
        """
        with self._guard:
            if self._over.is_set() or self._ending:
                return
            self._ending = True
            aborted = self._record.abort
        agents = self._notify_agents(aborted) if aborted else {}
        with self._guard:
            well = bool(aborted) or (code in (ExitCode.SUCCESS, ExitCode.ABORTED) and not failed)
            reason = reported or ("" if code in (None, ExitCode.SUCCESS) else describe_exit(code or 0))
            if aborted:
                reason = f"aborted: {aborted}"
            elif not well and self._process is not None and (tail := self._process.tail()):
                reason = "\n".join([reason, LOG_TAIL, *tail])
            self._change(
                status=ClientStatus.STOPPED if well else ClientStatus.EXCEPTION,
                exit_code=int(ExitCode.ABORTED if code is None else code),
                reason=reason,
                how=self._step if aborted else "",
                ended=time.time(),
                agents=agents,
            )
            self._over.set()
            record, proof = self._record, self._abort_proof
        self._context.note(record)
        if proof is not None and not proof.done():
            proof.set_result(
                AbortProof(
                    how=record.how or NOT_RUNNING,
                    at=record.ended,
                    seconds=record.ended - self._aborted_at,
                    exit_code=record.exit_code,
                    agents=record.agents,
                )
            )
        self._context.on_end(record)

    def _change(self, **changes: Any) -> None:
        self._record = replace(self._record, **changes)
        try:
            self.folder.write(PROCESS_FILE, asdict(self._record))
        except OSError as error:
            logger.error("cannot write %s of %s: %s", PROCESS_FILE, self.folder, error)

    def __repr__(self) -> str:
        return f"<SiteRun of {self.folder.job_id}, {self.status.label}>"
