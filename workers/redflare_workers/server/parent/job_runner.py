"""``JobRunner``: one job from its dispatch to its end, in a thread of its own.

It deploys the job, has its processes started at the server and at the sites, and waits for what becomes of them.
Whatever happens meanwhile, a report of a site, the exit of the job's server, an abort, changes a field and wakes it.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from redflare_broker.errors import BlobMissing, ConfigError, DecodeError, JobUnknown, RedflareError
from redflare_broker.job_store.record import (
    ABNORMAL,
    ABORTED,
    COMPLETED,
    DISPATCHED,
    EXECUTION_EXCEPTION,
    FAILED_TO_RUN,
    RUNNING,
    JobRecord,
)

from redflare_workers.jobs.job_folder import JobDefinition
from redflare_workers.jobs.job_meta import SERVER, JobMeta
from redflare_workers.processes.exit_code import describe_exit
from redflare_workers.processes.how_ended import NOT_RUNNING
from redflare_workers.protocol.site_report import SiteReport
from redflare_workers.workspace.run_folder import RunFolder
from redflare_workers.workspace.server_job_args import ServerJobArgs, ServerJobReport

from .job_files import deploy_here, fetch_job, keep_result, prepare
from .job_sites import JobSites
from .job_verdict import JobVerdict, confirmations, verdict_of
from .run_state import RunState
from .runner_context import RunnerContext
from .server_process import ServerProcess

logger = logging.getLogger(__name__)

#: Seconds for what is still on its way into the store.
_FLUSH_WITHIN: Final = 5.0
#: Seconds that what is left of an earlier server's process has to end itself.
_REAP_WITHIN: Final = 5.0


class JobRunner:
    """One job; ``start`` it once.

    Args:
        record: of the job; DISPATCHED or RUNNING.
        meta: that was checked.
        sites: it is given to.
        setting: what is around it.
        found: it was dispatched by a server that has ended since.
    """

    def __init__(
        self, record: JobRecord, meta: JobMeta, sites: tuple[str, ...], setting: RunnerContext, *, found: bool = False
    ) -> None:
        self.id = record.id
        self.meta = meta
        self.sites = sites
        self._record = record
        self._found = found
        self._setting = setting
        self._folder = RunFolder(setting.workspace, record.id)
        self._changed = threading.Condition()
        self._told = {**record.meta, "job_id": record.id}
        self._team = JobSites(record.id, meta, sites, self._told, setting, self._changed, self._interrupted)
        self._state = RunState(job=record.id, sites=sites)
        self._process: ServerProcess | None = None
        self._exit: int | None = None
        #: by whom, and why
        self._abort: tuple[str, str] | None = None
        #: the parent is being stopped; True: another one has taken over
        self._left: bool | None = None
        #: an abort has ended the processes at the sites
        self._sites_ended = False
        self._thread = threading.Thread(target=self._run, name=f"redflare-job-{record.id}", daemon=True)

    # -- for others ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the end; False: it is not there yet."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def on_report(self, report: SiteReport) -> None:
        """A site tells how the job stands there."""
        self._team.hear(report)

    def abort(self, by: str, reason: str) -> None:
        """Somebody wants the job to end; the first who asks counts."""
        with self._changed:
            self._abort = self._abort or (by, reason)
            self._changed.notify_all()

    def leave(self, *, fenced: bool = False) -> None:
        """The parent is being stopped: leave the job to the next one, if it can go on.

        Args:
            fenced: that one is there already.
        """
        with self._changed:
            self._left = fenced
            self._changed.notify_all()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        ended = False
        try:
            self._end(self._live())
            ended = True
        except _Left:
            logger.info("job %s is left to the next server", self.id)
        except RedflareError as error:
            # the connection is closed when this server ends
            logger.log(logging.INFO if self._left is not None else logging.ERROR, "job %s: %s", self.id, error)
        except Exception:
            logger.exception("job %s: its end could not be recorded", self.id)
        finally:
            if self._process is not None:
                self._process.release()
            self._setting.on_done(self.id, ended)

    def _live(self) -> JobVerdict:
        try:
            if self._record.abort_requested:
                self.abort(self._record.abort_by, self._record.abort_reason)
            if self._found:
                self._find()
            if self._record.status == RUNNING:
                self._launch()
            else:
                self._dispatch()
            return self._watch()
        except _Over as over:
            return over.verdict
        except (_Left, RedflareError):
            raise
        except Exception as error:
            logger.exception("job %s failed", self.id)
            return JobVerdict(status=ABNORMAL, reason=f"the server could not run it: {type(error).__name__}: {error}")

    def _wait(self, until: Callable[[], object], timeout: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(until, timeout)

    def _interrupted(self) -> bool:
        return self._abort is not None or self._left is not None

    def _look(self) -> None:
        """Go no further when the job is to end, or to be left.

        Raises:
            _Left, _Over
        """
        if self._left is not None:
            self._leave()
        if self._abort is not None:
            raise _Over(self._end_by_abort(*self._abort))

    # -- dispatch ------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._look()
        definition = self._deploy()
        self._look()
        self._team.deploy(definition)
        self._look()
        self._check_sites()
        self._launch()
        self._team.start()
        self._look()
        self._check_sites()
        reason = f"at {self._team.size} of {len(self.sites)} sites"
        record = self._setting.store.advance(self.id, DISPATCHED, RUNNING, reason)
        if record is None:
            self._learn()
        else:
            self._record = record

    def _deploy(self) -> JobDefinition:
        """Unpack what is for the server."""
        setting = self._setting
        try:
            if not self._folder.is_run:
                prepare(self._folder, self.meta.app_for(SERVER) or "", self.sites)
            definition = fetch_job(setting.store, self.id, setting.workspace, setting.settings)
            deploy_here(self._folder, definition, self._told, setting.settings)
        except (ConfigError, BlobMissing, DecodeError, JobUnknown, OSError) as error:
            raise _Over(JobVerdict(status=FAILED_TO_RUN, reason=f"the server cannot deploy it: {error}")) from error
        return definition

    def _check_sites(self) -> None:
        if lack := self._team.lack:
            raise _Over(JobVerdict(status=FAILED_TO_RUN, reason=lack))

    def _learn(self) -> None:
        """The store refuses to move the job: its abort was asked for, or somebody has meddled."""
        record = self._setting.store.get(self.id)
        if record is None:
            logger.error("job %s is gone from the store; it runs on, and nobody will learn how it ends", self.id)
        elif record.finished:
            self.abort("server", f"the store says that it is {record.status}")
        elif record.abort_requested:
            self.abort(record.abort_by, record.abort_reason)

    # -- what a server that has ended left -----------------------------------------------------------------------------

    def _find(self) -> None:
        """End what is left of the last server's process, and learn how far the job is."""
        state = RunState.read(self._folder)
        if state is not None:
            if state.run:
                state.mark.reap(_REAP_WITHIN if state.pid else 0.0)
            self._state = replace(state, sites=self.sites)
        self._team.recall(self._record.sites)
        if self._abort is not None:
            return
        if self._record.status == DISPATCHED:
            logger.warning("job %s was being dispatched when the server ended; it is dispatched anew", self.id)
            self._team.begin_anew()
            return
        if not self._folder.is_run:
            logger.warning("job %s was running in another workspace; its server begins in this one", self.id)
            self._deploy()
            return
        said = ServerJobReport.read(self._folder, self._state.run)
        self._state = self._state.heard(said)
        verdict = verdict_of(said, self._state, parent_restarted=True)
        if verdict is not None:
            raise _Over(verdict)
        logger.warning("job %s was running when the server ended; it goes on", self.id)

    # -- the job's server ----------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Start the job's process at the server."""
        self._look()
        setting = self._setting
        order = ServerJobArgs(
            workspace=str(setting.workspace),
            job_id=self.id,
            run=uuid.uuid4().hex,
            redis_url=setting.redis_url,
            server_name=setting.server_name,
            secure_mode=setting.secure_mode,
            allow=list(setting.settings.allow),
            allow_custom=setting.settings.allow_custom,
            meta=dict(self._record.meta),
        )
        self._exit = None
        process = ServerProcess(
            order,
            setting.cell,
            setting.settings,
            lambda lines: setting.logs.keep(self.id, setting.server_name, lines),
            self._on_exit,
        )
        try:
            # before it can be there: what carries this mark is found again
            self._state = replace(self._state, run=order.run, pid=0, pid_started="")
            self._state.write(self._folder)
            mark = process.start()
            self._process = process
            self._state = replace(self._state, pid=mark.pid, pid_started=mark.started)
            self._state.write(self._folder)
        except OSError as error:
            raise _Over(JobVerdict(status=FAILED_TO_RUN, reason=f"its server cannot be started: {error}")) from error

    def _on_exit(self, code: int) -> None:
        with self._changed:
            self._exit = code
            self._changed.notify_all()

    # -- watching ------------------------------------------------------------------------------------------------------

    def _watch(self) -> JobVerdict:
        while True:
            self._wait(lambda: self._interrupted() or self._exit is not None or self._team.lack)
            # a server that has come to its end is the last word, whatever else there is
            if self._exit is not None and (verdict := self._server_ended(self._exit)):
                return verdict
            self._look()
            if self._exit is None and (lack := self._team.lack):
                return self._give_up(lack)

    def _server_ended(self, code: int) -> JobVerdict | None:
        """How the job ends; None: its server is started again, or what wants the job to end is to be looked at."""
        process = self._process
        assert process is not None
        said = process.said()
        self._state = self._state.heard(said)
        verdict = verdict_of(said, self._state, code, process.tail())
        if verdict is not None or self._interrupted():
            return verdict
        self._state = replace(self._state, restarts=self._state.restarts + 1)
        text = f"the job's server has died, {describe_exit(code)}; it is started again, {self._state.restarts}"
        logger.warning("job %s: %s", self.id, text)
        self._setting.logs.keep(self.id, self._setting.server_name, [text])
        self._launch()
        return None

    def _give_up(self, lack: str) -> JobVerdict:
        logger.error("job %s: %s", self.id, lack)
        process = self._process
        assert process is not None
        process.end(lack)
        verdict = verdict_of(process.said(), self._state)
        # it may have come to its end just then
        if verdict is not None and verdict.status == COMPLETED:
            return verdict
        return JobVerdict(status=EXECUTION_EXCEPTION, reason=lack)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end_by_abort(self, by: str, reason: str) -> JobVerdict:
        """End all processes, and say who has confirmed it."""
        text = f"aborted by {by}" + (f": {reason}" if reason else "")
        logger.info("job %s is %s", self.id, text)
        answers: dict[str, str] = {}
        asking = threading.Thread(
            target=lambda: answers.update(self._team.abort(text, self.sites)),
            name=f"redflare-abort-{self.id}",
            daemon=True,
        )
        asking.start()
        how = self._process.end(text) if self._process is not None else NOT_RUNNING
        asking.join()
        self._sites_ended = True
        silent = set(self.sites) - set(answers)
        return JobVerdict(status=ABORTED, reason=f"{text}; {confirmations(how, answers, silent)}", by=by)

    def _end(self, verdict: JobVerdict) -> None:
        """See that nothing runs any more, and record how it has ended."""
        setting = self._setting
        if self._process is not None:
            self._process.end(verdict.reason or verdict.status)
        if not self._sites_ended:
            said = self._process.said() if self._process is not None else None
            if said is not None and said.status and said.resumes is not None:
                # sites hear from the job's server that it is over, if that has got so far
                self._wait(lambda: not self._team.expected, setting.settings.abort_grace)
            if left := self._team.unfinished:
                self._team.abort(f"the job is {verdict.status}", left)
        setting.logs.flush(_FLUSH_WITHIN)
        reason = "\n".join(filter(None, [verdict.reason, self._keep_result()]))
        if setting.store.advance(self.id, (DISPATCHED, RUNNING), verdict.status, reason, verdict.by) is None:
            logger.error("job %s: the store does not take in that it is %s", self.id, verdict.status)
        logger.info("job %s is %s %s", self.id, verdict.status, reason)

    def _keep_result(self) -> str:
        """Store what the run's folder holds; "" or why not."""
        if not self._folder.is_run:
            return ""
        try:
            keep_result(self._setting.store, self._folder)
        # ValueError: what the job has left cannot be packed; it is over all the same
        except (RedflareError, OSError, ValueError) as error:
            if self._left is not None:
                raise
            logger.error("job %s: its result is not stored: %s", self.id, error)
            return f"its result is not in the store, only in {self._folder.path}: {error}"
        return ""

    def _leave(self) -> None:
        """End the job's server; if it cannot go on later, the job is over.

        Raises:
            _Left, _Over
        """
        process = self._process
        if process is None:
            raise _Left
        process.release()
        # one that was being dispatched is dispatched anew
        if not self._left and self._record.status == RUNNING:
            said = process.said()
            verdict = verdict_of(said, self._state.heard(said), parent_restarted=True)
            if verdict is not None:
                raise _Over(verdict)
        raise _Left

    def __repr__(self) -> str:
        return f"<JobRunner {self.id} of {len(self.sites)} sites>"


class _Left(Exception):
    """The job is left to the next server."""


class _Over(Exception):
    """The job is over."""

    def __init__(self, verdict: JobVerdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict
