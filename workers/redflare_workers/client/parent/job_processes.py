"""``JobProcesses``: the runs of all jobs at a site, live and over."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redflare_workers.audit.audit import Audit, about
from redflare_workers.audit.entry import Action
from redflare_workers.processes.how_ended import NOT_RUNNING
from redflare_workers.protocol.parent_messages import AbortProof, SiteReport
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.workspace.job_args import ClientJobArgs
from redflare_workers.workspace.job_report import ClientJobReport
from redflare_workers.workspace.run_folder import AGENTS_FILE, META_FILE, OUTCOME_FILE, RunFolder, begun_runs
from redflare_workers.workspace.site_settings import SiteSettings

from .app_deployer import AppDeployer, sweep
from .reporter import Reporter
from .run_record import RunRecord
from .site_run import SiteRun

logger = logging.getLogger(__name__)


class RunsAlready(Exception):
    """The job's process runs, or is about to."""


@dataclass(slots=True, eq=False)
class JobProcesses:
    """Thread-safe; operations on one job run one after the other."""

    #: the site's name
    site: str
    #: in which each job has its folder; an absolute path
    workspace: Path
    #: what the site allows, and how long an abort waits
    settings: SiteSettings
    #: where Redis is: fields of every ``ClientJobArgs``
    connection: dict[str, Any]
    #: called with job, run and reason: asks a process to end in order; does not wait
    request_end: Callable[[str, str, str], object]
    #: called when a run is over
    when_over: Callable[[RunRecord], object]
    #: called with FQCNs of agents, the number of the process that is gone, and the reason; returns what became of them,
    #: see ``agent_abort``
    tell_agents: Callable[[list[str], int, str], dict[str, str]]
    #: Takes reports of the jobs; None: nobody does yet.
    reporter: Reporter | None = field(default=None, init=False)
    #: Takes what becomes of the jobs; one that keeps nothing until ``ClientEngine.run`` has the workspace for itself.
    audit: Audit = field(default_factory=Audit, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _runs: dict[str, SiteRun] = field(default_factory=dict, init=False)
    #: by job: held during an operation on it
    _job_locks: defaultdict[str, threading.RLock] = field(
        default_factory=lambda: defaultdict(threading.RLock), init=False
    )
    #: runs that a predecessor has begun
    _found: list[SiteRun] = field(default_factory=list, init=False)
    #: by job that was aborted before it was started: why
    _barred: dict[str, str] = field(default_factory=dict, init=False)
    _stopped: bool = field(default=False, init=False)

    @property
    def server(self) -> str:
        """Name of the server, which asks for all that is done here."""
        return str(self.connection.get("server_name", "server"))

    # -- operations ----------------------------------------------------------------------------------------------------

    def deploy(
        self,
        deployer: AppDeployer,
        job_id: str,
        job_meta: Mapping[str, Any],
        app: str,
        data: Any,
        *,
        server_head: str = "",
    ) -> str:
        """Deploy an app, unless the job runs; as ``AppDeployer.deploy``.

        Args:
            server_head: of the server's audit log.
        """
        with self._job_lock(job_id):
            run = self._runs.get(job_id)
            if run is not None and run.live:
                return f"job {job_id!r} is {run.status.label}; abort it before it is deployed again"
            obstacle = self.audit.obstacle()
            error = f"job {job_id!r:.100} cannot be deployed: {obstacle}" if obstacle else ""
            error = error or deployer.deploy(self.workspace, job_id, job_meta, app, data, self.site)
            submission = job_meta.get("submission", "") if isinstance(job_meta, Mapping) else ""
            subject = about(str(job_id), str(submission))
            if error:
                self.audit.record(Action.REFUSE, subject, by=self.server, reason=error, app=app)
            else:
                heads = {self.server: server_head} if server_head else {}
                self.audit.record(Action.DEPLOY, subject, by=self.server, app=app, heads=heads)
                with self._guard:
                    self._runs.pop(job_id, None)
                    self._barred.pop(job_id, None)
            return error

    def start(self, job_id: str) -> SiteRun:
        """Launch the process of a job that is deployed.

        Raises:
            RunsAlready: there is one.
            LookupError: it is not deployed.
            RuntimeError: it was aborted before it was started.
            OSError: the process cannot be started.
        """
        with self._job_lock(job_id):
            folder = self.folder(job_id)
            if (there := self._runs.get(job_id)) is not None and there.live:
                raise RunsAlready(f"job {job_id!r} is {there.status.label}")
            if not folder.is_run or not folder.app_folder(self.site).is_dir():
                raise LookupError(f"job {job_id!r} is not deployed")
            if reason := self._barred.get(job_id):
                raise RuntimeError(f"job {job_id!r} was aborted before it was started: {reason}")
            (folder.path / OUTCOME_FILE).unlink(missing_ok=True)
            run = SiteRun(folder, self)
            with self._guard:
                if self._stopped:
                    raise RuntimeError("the client parent is being stopped")
                self._runs[job_id] = run
            run.launch()
            return run

    def abort(self, job_id: str, reason: str, *, bar: bool) -> Future[AbortProof]:
        """End a job's process, as ``ClientEngine.begin_abort``; the result comes when the process is gone."""
        run = self._runs.get(job_id)
        if run is None or not run.live:
            # it may be starting just now
            with self._job_lock(job_id):
                run = self._runs.get(job_id)
                if run is None and bar:
                    text = f"{reason}; it had not begun here"
                    self.audit.record(Action.ABORT, self._about(job_id), by=self.server, reason=text)
                    with self._guard:
                        self._barred[job_id] = reason or "abort"
        if run is not None:
            return run.abort(reason)
        proof: Future[AbortProof] = Future()
        proof.set_result(AbortProof(how=NOT_RUNNING, at=time.time()))
        return proof

    def delete(self, job_id: str, submissions: Collection[str] = ()) -> str:
        """Remove the folder of a job's run; return "" or why not. May be called again.

        Args:
            submissions: only that of a job that was submitted as one of these; none: whichever it is.
        """
        with self._job_lock(job_id):
            folder = self.folder(job_id)
            if submissions and folder.submission not in submissions:
                return f"{folder.path} is not the run of the job that was deleted, and is left alone"
            run = self._runs.get(job_id)
            if run is not None and run.live:
                return f"job {job_id!r} is {run.status.label}; abort it before its run folder is deleted"
            if folder.is_foreign:
                return f"{folder.path} is not the run of a job, and is left alone"
            if folder.is_run:
                self.audit.record(Action.DELETE, self._about(job_id), by=self.server)
                shutil.rmtree(folder.path)
            with self._guard:
                self._runs.pop(job_id, None)
                self._barred.pop(job_id, None)
            return ""

    def note_status(self, job_id: str, status: int, run: str | None = None) -> None:
        """Record a status that a job's process reports; ignored unless its run is ``run`` (None: any)."""
        found = self._runs.get(job_id)
        if found is not None and run in (None, found.record.run) and status in ClientStatus._value2member_map_:
            found.on_status(ClientStatus(status))

    def folder(self, job_id: str) -> RunFolder:
        """Return the folder of a job, which need not be there.

        Raises:
            TypeError, ConfigError: the id is not legal.
        """
        return RunFolder(self.workspace, job_id)

    def status(self, job_id: str) -> ClientStatus:
        run = self._runs.get(job_id)
        return run.status if run else ClientStatus.NOT_STARTED

    def find(self, job_id: str) -> SiteRun | None:
        return self._runs.get(job_id)

    def records(self) -> dict[str, RunRecord]:
        """Return the records of all runs, by job."""
        with self._guard:
            return {job_id: run.record for job_id, run in self._runs.items()}

    # -- the client parent's life --------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Read which runs the last client parent left; call it once, before any operation."""
        self.workspace.mkdir(parents=True, exist_ok=True)
        sweep(self.workspace)
        for folder in begun_runs(self.workspace):
            if (record := RunRecord.read(folder)) is not None:
                run = SiteRun(folder, self, record)
                with self._guard:
                    self._runs[record.job] = run
                self._found.append(run)

    def resume(self) -> None:
        """Launch again what ran then, and report what was not reported; call it once, when there is a reporter."""
        for run in self._found:
            if run.live:
                run.relaunch()
            elif not run.record.reported and self._runs.get(run.record.job) is run:
                self.on_change(run.record)

    def stop(self, timeout: float) -> None:
        """Let all processes end themselves, and kill those that do not. The next client parent resumes them."""
        with self._guard:
            self._stopped = True
            runs = list(self._runs.values())
        for run in runs:
            run.release()
        deadline = time.monotonic() + timeout
        for run in runs:
            if not run.wait(max(deadline - time.monotonic(), 0.0)):
                run.kill()
                run.wait(timeout)

    # -- for the runs --------------------------------------------------------------------------------------------------

    def command(self, record: RunRecord) -> list[str]:
        """Write the arguments of a job's process, and return the command that starts it."""
        subject = about(record.job, record.submission)
        self.audit.record(Action.START, subject, by=self.server, run=record.run, restarts=record.restarts)
        args = ClientJobArgs(
            **self.connection,
            workspace=str(self.workspace),
            site=self.site,
            job_id=record.job,
            run=record.run,
            allow=list(self.settings.allow),
            allow_custom=self.settings.allow_custom,
            meta=self.folder(record.job).read(META_FILE) or {},
        )
        args.write()
        return args.command

    def notify_agents(self, record: RunRecord, reason: str) -> dict[str, str]:
        agents = (self.folder(record.job).read(AGENTS_FILE) or {}).get("agents")
        return self.tell_agents(list(map(str, agents)), record.pid, reason) if isinstance(agents, list) else {}

    def on_lines(self, record: RunRecord, lines: Sequence[str]) -> None:
        if self.reporter is not None:
            self.reporter.log(record.job, lines, record.submission)

    def note(self, record: RunRecord) -> None:
        subject = about(record.job, record.submission)
        if record.exit_code is None:
            self.audit.record(Action.ABORT, subject, by=self.server, reason=record.abort, run=record.run)
            return
        facts: dict[str, Any] = {"run": record.run, "status": record.status.label, "exit_code": record.exit_code}
        facts |= {"how": record.how, "agents": dict(record.agents)} if record.how else {}
        report = ClientJobReport.find(self.folder(record.job), record.run)
        facts |= {"faults": dict(report.faults)} if report is not None and report.faults else {}
        self.audit.record(Action.END, subject, reason=record.reason, **facts)

    def on_end(self, record: RunRecord) -> None:
        self.on_change(record)
        self.when_over(record)

    def on_change(self, record: RunRecord) -> None:
        reporter, run = self.reporter, self._runs.get(record.job)
        if reporter is None:
            return
        final = record.exit_code is not None
        report = SiteReport(
            site=self.site,
            job=record.job,
            run=record.run,
            submission=record.submission,
            status=record.status.label,
            exit_code=record.exit_code,
            reason=record.reason,
            how=record.how,
            agents=dict(record.agents),
            at=record.ended or time.time(),
            audit=str(self.audit.head or ""),
        )

        def taken(abort: str) -> None:
            if run is None or run.record.run != record.run:
                return
            if final:
                run.note_reported()
            elif abort:
                run.abort(abort)

        reporter.report(report, taken)

    def _about(self, job_id: str) -> dict[str, str]:
        return about(job_id, self.folder(job_id).submission or "")

    @contextmanager
    def _job_lock(self, job_id: str) -> Iterator[None]:
        with self._guard:
            lock = self._job_locks[job_id]
        with lock:
            yield

    def __repr__(self) -> str:
        return f"<JobProcesses of {self.site}: { {job: run.status.label for job, run in self._runs.items()} }>"
