"""``SiteRun``: one run of a job at a site, from the launch of its process until all of it is gone.

What a successor of this client parent must know stands in ``process.json``. If this process dies, the job's process
ends itself within seconds; the next client parent makes sure of that, and launches another: its task is still its own.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from redflare_workers.processes.exit_code import ExitCode, describe_exit
from redflare_workers.processes.how_ended import COOPERATIVE, KILLED, NOT_RUNNING, TERMINATED
from redflare_workers.processes.job_process import JobProcess, ProcessMark
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.workspace.run_folder import OUTCOME_FILE, PROCESS_FILE, RunFolder
from redflare_workers.workspace.site_settings import SiteSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortProof:
    """What became of an abort."""

    #: in NVFlare's words
    message: str
    #: cooperative: the process ended by itself when it was told; terminated: after SIGTERM; killed: after SIGKILL;
    #: not running: there was none
    how: str
    #: when that was sure, in seconds since 1970
    at: float
    #: seconds that it took
    seconds: float = 0.0
    exit_code: int | None = None
    #: what became of the job's agents, by FQCN, see ``say_goodbye``
    agents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What is known of a run; as ``process.json`` holds it."""

    job: str
    #: names the process
    run: str
    status: ClientStatus = ClientStatus.STARTING
    pid: int = 0
    #: of the process, as ``start_time`` tells
    pid_started: str = ""
    #: when it was launched, in seconds since 1970
    launched: float = 0.0
    #: how often it was started again because it had been killed
    restarts: int = 0
    #: why it is to end; "": it is not
    abort: str = ""
    exit_code: int | None = None
    reason: str = ""
    how: str = ""
    #: when the process was gone
    ended: float = 0.0
    #: what became of its agents when it was aborted
    agents: Mapping[str, str] = field(default_factory=dict)
    #: the server knows how it ended
    reported: bool = False

    @property
    def mark(self) -> ProcessMark:
        return ProcessMark(pid=self.pid, started=self.pid_started, mark=self.run)

    @classmethod
    def read(cls, folder: RunFolder) -> RunRecord | None:
        """That of a folder; None: there is none that makes sense."""
        data = folder.read(PROCESS_FILE)
        if data is None:
            return None
        try:
            record = cls(**{name: data[name] for name in cls.__slots__ if name in data})
            return replace(record, job=folder.job_id, status=ClientStatus(record.status))
        except (TypeError, ValueError) as error:
            logger.error("%s: its %s makes no sense: %s", folder, PROCESS_FILE, error)
            return None


class RunContext(Protocol):
    """What a run needs of its surroundings."""

    settings: SiteSettings

    def command(self, record: RunRecord) -> list[str]:
        """The command that starts its process; what that needs is written to the folder first."""

    def ask_to_end(self, job_id: str, run: str, reason: str) -> None:
        """Tell the process to end in order; does not wait."""

    def on_lines(self, job_id: str, lines: Sequence[str]) -> None:
        """The process has written lines."""

    def tell_agents(self, record: RunRecord, reason: str) -> dict[str, str]:
        """Its process is gone, and it is not to go on: what becomes of its agents."""

    def on_change(self, record: RunRecord) -> None:
        """The status has changed."""

    def on_end(self, record: RunRecord) -> None:
        """All is over; the last call."""


class SiteRun:
    """One run. Thread-safe.

    Args:
        folder: of the job; the app is deployed in it.
        setting: what is around it.
        record: of a run that a predecessor has begun.
    """

    def __init__(self, folder: RunFolder, setting: RunContext, record: RunRecord | None = None) -> None:
        self.folder = folder
        self._setting = setting
        self._guard = threading.RLock()
        self._record = record or RunRecord(job=folder.job_id, run=uuid.uuid4().hex)
        self._process: JobProcess | None = None
        self._asked: Future[AbortProof] | None = None
        self._aborted_at = 0.0
        #: how far the abort has gone
        self._step = NOT_RUNNING
        self._released = self._ending = False
        #: the process is gone
        self._gone = threading.Event()
        #: and what that means was told
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
        """Whether its process is there, or about to be."""
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
            logger.info("job %s: process %d was launched", self._record.job, self._record.pid)
            self._setting.on_change(self._record)

    def _start_process(self) -> None:
        record = self._record
        process = JobProcess(
            f"job {record.job}",
            self._setting.command(record),
            mark=record.run,
            log=self.folder.log,
            on_lines=lambda lines: self._setting.on_lines(record.job, lines),
            on_exit=self._on_exit,
            # what it writes without saying where is in its folder too
            cwd=self.folder.path,
        )
        mark = process.start()
        self._process = process
        self._change(pid=mark.pid, pid_started=mark.started, launched=time.time())

    def relaunch(self) -> None:
        """Go on with what a predecessor of this client parent has begun, in a thread: end what is left, and launch."""
        threading.Thread(target=self._relaunch, name=f"redflare-relaunch-{self.folder.job_id}", daemon=True).start()

    def _relaunch(self) -> None:
        try:
            mark = self._record.mark
            killed = mark.reap(self._setting.settings.stop_grace) if mark.pid else []
            outcome = self._outcome()
            with self._guard:
                self._step = KILLED if killed else self._step
                if outcome is not None and not outcome.get("parent_gone") and not self._record.abort:
                    self._end(int(outcome.get("exit_code", 0)), str(outcome.get("reason", "")))
                    return
                if not self._record.abort:
                    self._change(run=uuid.uuid4().hex, status=ClientStatus.STARTING, pid=0, pid_started="")
            logger.warning(
                "job %s was running when this site's client parent ended; %s",
                self.folder.job_id,
                "it was being aborted" if self._record.abort else "it goes on",
            )
            self.launch()
        except Exception as error:
            logger.exception("job %s cannot go on", self.folder.job_id)
            if self.live:
                self._end(ExitCode.INFRASTRUCTURE, f"it cannot go on after the restart of the client parent: {error}")

    def on_status(self, status: ClientStatus) -> None:
        """What the process says of itself, or somebody of it."""
        with self._guard:
            if not self._record.status.live or self._over.is_set() or status is self._record.status:
                return
            self._change(status=status)
        self._setting.on_change(self._record)

    def abort(self, reason: str) -> Future[AbortProof]:
        """End it: in order, by SIGTERM after a while, by SIGKILL after another; the result comes when it is gone."""
        with self._guard:
            if self._asked is None:
                self._asked = Future()
                self._aborted_at = time.time()
                if self._over.is_set():
                    name = f"redflare-abort-{self.folder.job_id}"
                    threading.Thread(target=self._abort_late, args=(reason, self._asked), name=name).start()
                    return self._asked
                if not self._record.abort:
                    self._change(abort=reason or "abort")
                # without a process, launch finds the abort
                if self._process is not None:
                    name = f"redflare-abort-{self.folder.job_id}"
                    threading.Thread(target=self._escalate, name=name, daemon=True).start()
            return self._asked

    def release(self) -> None:
        """The client parent stops: the process ends itself, and the next client parent goes on with it."""
        with self._guard:
            self._released = True
            process = self._process
        if process is not None:
            process.release()

    def wait(self, timeout: float) -> bool:
        """Wait until the process is gone."""
        return self._process is None or self._over.wait(timeout)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def note_reported(self) -> None:
        """The server knows how it ended."""
        with self._guard:
            if self._over.is_set() and self.folder.is_run:
                self._change(reported=True)

    # -- its end -------------------------------------------------------------------------------------------------------

    def _abort_late(self, reason: str, asked: Future[AbortProof]) -> None:
        """There is no process; but if that has failed, its agents may work on."""
        agents = self._record.agents
        if self._record.status is ClientStatus.EXCEPTION:
            agents = self._tell_agents(reason)
        at = self._record.ended or time.time()
        asked.set_result(
            AbortProof(message="", how=NOT_RUNNING, at=at, exit_code=self._record.exit_code, agents=agents)
        )

    def _tell_agents(self, reason: str) -> Mapping[str, str]:
        try:
            return self._setting.tell_agents(self._record, reason)
        except Exception:
            logger.exception("job %s: its agents could not be told of its end", self._record.job)
            return {}

    def _escalate(self) -> None:
        settings, process = self._setting.settings, self._process
        assert process is not None
        with self._guard:
            # one that has not begun hears nothing yet, and has nothing to put in order
            listens = self._record.status is not ClientStatus.STARTING
            self._step = COOPERATIVE if listens else TERMINATED
        if listens:
            self._setting.ask_to_end(self._record.job, self._record.run, self._record.abort)
            if self._gone.wait(settings.abort_grace):
                return
        self._step = TERMINATED
        logger.warning("job %s: SIGTERM to its process group: %s", self._record.job, self._record.abort)
        process.terminate()
        if self._gone.wait(settings.stop_grace):
            return
        self._step = KILLED
        logger.warning("job %s: SIGKILL to its process group: %s", self._record.job, self._record.abort)
        process.kill()

    def _on_exit(self, code: int) -> None:
        outcome = self._outcome()
        with self._guard:
            if again := outcome is None and self._may_go_on(code):
                self._process = None
                fresh = {"run": uuid.uuid4().hex, "status": ClientStatus.STARTING, "pid": 0, "pid_started": ""}
                self._change(**fresh, restarts=self._record.restarts + 1)
            else:
                self._gone.set()
            if self._released and not self._record.abort and (outcome is None or outcome.get("parent_gone")):
                # it goes on with the next client parent
                self._over.set()
                return
        if again:
            text = f"the job's process has died, {describe_exit(code)}; it is started again, {self._record.restarts}"
            logger.warning("job %s: %s", self.folder.job_id, text)
            self._setting.on_lines(self.folder.job_id, [text])
            self.launch()
            return
        # without the lock: to tell agents takes a while
        if outcome is None and code == ExitCode.SUCCESS:
            self._end(code, "its process has ended, and has not said how: its code may have called exit", failed=True)
        else:
            self._end(code, str(outcome.get("reason", "")) if outcome else "")

    def _may_go_on(self, code: int) -> bool:
        """Whether a process that has ended so is started again: somebody, or the kernel, has killed it."""
        record = self._record
        return (
            code < 0 and not record.abort and not self._released and record.restarts < self._setting.settings.restarts
        )

    def _outcome(self) -> dict[str, Any] | None:
        """What the process has written of its end."""
        outcome = self.folder.read(OUTCOME_FILE)
        return outcome if outcome and outcome.get("run") == self._record.run else None

    def _end(self, code: int | None, told: str | None, *, failed: bool = False) -> None:
        """Note how it ended; the first word counts.

        Args:
            failed: whatever the exit code is.
        """
        with self._guard:
            if self._over.is_set() or self._ending:
                return
            self._ending = True
            aborted = self._record.abort
        agents = self._tell_agents(aborted) if aborted else {}
        with self._guard:
            well = bool(aborted) or (code in (ExitCode.SUCCESS, ExitCode.ABORTED) and not failed)
            reason = told or ("" if code in (None, ExitCode.SUCCESS) else describe_exit(code or 0))
            if aborted:
                reason = f"aborted: {aborted}"
            elif not well and self._process is not None and (tail := self._process.tail()):
                reason = "\n".join([reason, "the end of its log:", *tail])
            self._change(
                status=ClientStatus.STOPPED if well else ClientStatus.EXCEPTION,
                exit_code=int(ExitCode.ABORTED if code is None else code),
                reason=reason,
                how=self._step if aborted else "",
                ended=time.time(),
                agents=agents,
            )
            self._over.set()
            record, asked = self._record, self._asked
        if asked is not None and not asked.done():
            asked.set_result(
                AbortProof(
                    message="",
                    how=record.how or NOT_RUNNING,
                    at=record.ended,
                    seconds=record.ended - self._aborted_at,
                    exit_code=record.exit_code,
                    agents=record.agents,
                )
            )
        self._setting.on_end(record)

    def _change(self, **changes: Any) -> None:
        self._record = replace(self._record, **changes)
        try:
            self.folder.write(PROCESS_FILE, asdict(self._record))
        except OSError as error:
            logger.error("%s: %s cannot be written: %s", self.folder, PROCESS_FILE, error)

    def __repr__(self) -> str:
        return f"<SiteRun of {self.folder.job_id}, {self.status.label}>"


def aborted_with(proof: AbortProof, message: str) -> AbortProof:
    """The proof with a message."""
    return replace(proof, message=message)
