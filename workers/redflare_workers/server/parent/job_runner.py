"""``JobRunner``: carries one job from its dispatch to its end, in its own thread.

It deploys the job, starts its processes at the server and at the sites, and waits until they end. Every event, a
report of a site, the exit of the job's server, an abort, sets a field and wakes the thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from redflare_broker.errors import BlobMissing, ConfigError, DecodeError, JobUnknown, RedflareError
from redflare_broker.fqcn import FQCN
from redflare_broker.job_state.members import Members
from redflare_broker.job_store.record import (
    ABNORMAL,
    ABORTED,
    APPROVED,
    COMPLETED,
    DISPATCHED,
    EXECUTION_EXCEPTION,
    FAILED_TO_RUN,
    RUNNING,
    SUBMITTED,
    UNFINISHED,
    JobRecord,
    SiteState,
)

from redflare_workers.jobs.job_folder import JobDefinition
from redflare_workers.jobs.job_meta import SERVER, JobMeta
from redflare_workers.processes.exit_code import describe_exit
from redflare_workers.processes.how_ended import NOT_RUNNING
from redflare_workers.protocol.parent_messages import SiteReport
from redflare_workers.workspace.job_report import ServerJobReport
from redflare_workers.workspace.run_folder import RunFolder

from .held_record import HeldRecord
from .job_files import deploy_here, fetch_job, keep_result, prepare, run_meta
from .job_sites import JobSites
from .job_verdict import MAX_RESTARTS, JobVerdict, confirmations, verdict_of
from .run_state import RunState
from .runner_context import RunnerContext
from .server_process import ServerProcess

logger = logging.getLogger(__name__)

#: Seconds for log lines that are still on their way into the store.
_FLUSH_WITHIN: Final = 5.0
#: Seconds that the process of an earlier server has to end itself.
_REAP_WITHIN: Final = 5.0


class JobRunner:
    """One job; ``start`` it once.

    Args:
        record: of the job; DISPATCHED or RUNNING.
        meta: the job's, checked.
        sites: that the job is given to.
        context: what is around the runner.
        recovered: the job was dispatched by a server that has ended since.
    """

    def __init__(
        self,
        record: JobRecord,
        meta: JobMeta,
        sites: tuple[str, ...],
        context: RunnerContext,
        *,
        recovered: bool = False,
    ) -> None:
        self.id = record.id
        #: tells this job from another that is submitted under its id
        self.submission = record.submission
        #: how it has ended, once the store has that
        self.ended: JobVerdict | None = None
        self.meta = meta
        self._recovered = recovered
        self._context = context
        self._folder = RunFolder(context.workspace, record.id)
        self._changed = threading.Condition()
        self._job_meta = run_meta(record)
        self._job_sites = JobSites(
            record.id, record.submission, meta, sites, self._job_meta, context, self._changed, self._interrupted
        )
        self._record = HeldRecord(context.store, record, self._job_sites.states, context.audit, self._job_sites.heads)
        self._state = RunState(job=record.id, sites=sites)
        self._process: ServerProcess | None = None
        self._exit_code: int | None = None
        #: who aborted the job, and why
        self._abort: tuple[str, str] | None = None
        #: the parent is being stopped; True: because another server has taken over
        self._left: bool | None = None
        #: how it ends is being recorded
        self._ending = False
        #: sites that join, and those that an earlier server has not told to start
        self._joining: tuple[str, ...] = ()
        #: an abort has ended the processes at the sites
        self._sites_ended = False
        self._thread = threading.Thread(target=self._run, name=f"redflare-job-{record.id}", daemon=True)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that the job is given to."""
        return self._job_sites.sites

    @property
    def is_open(self) -> bool:
        """Whether further sites may join."""
        return self._record.known.status == RUNNING and not self._interrupted() and self._exit_code is None

    # -- from other threads --------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Wait for the end; False: the runner still runs."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def on_report(self, report: SiteReport) -> None:
        """Record a site's report."""
        self._job_sites.record(report)

    def join_sites(self, sites: Iterable[str]) -> None:
        """Give the job to further sites."""
        with self._changed:
            known = {*self.sites, *self._joining}
            self._joining += tuple(site for site in sites if site not in known)
            self._changed.notify_all()

    def abort(self, by: str, reason: str) -> None:
        """End the job; the first call counts. ``by``: an operator, or ``server``."""
        with self._changed:
            self._abort = self._abort or (by, reason)
            self._changed.notify_all()

    def compare(self, record: JobRecord | None) -> None:
        """Compare the job with its record, None: there is none; a failover, or a loss of data, may have changed it.

        A record that is lost, or that has gone back, is written again; one that is another job's ends this one.
        """
        if self._ending:
            return
        if (end := self._record.compare(record)) is not None:
            self.abort(*end)

    def leave(self, *, fenced: bool = False) -> None:
        """Leave the job, if it can resume, to the next server, which has taken over already if this is ``fenced``."""
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
            logger.info("job %s: left to the next server", self.id)
        except RedflareError as error:
            # the connection is closed when this server ends
            logger.log(logging.INFO if self._left is not None else logging.ERROR, "job %s: %s", self.id, error)
        except Exception:
            logger.exception("job %s: cannot record how it ended", self.id)
        finally:
            if self._process is not None:
                self._process.release()
            self._context.on_done(self.id, ended)

    def _live(self) -> JobVerdict:
        try:
            if self._record.known.abort_requested:
                self.abort(self._record.known.abort_by, self._record.known.abort_reason)
            if self._recovered:
                self._recover()
            if self._record.known.status == RUNNING:
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

    def _check_interrupted(self) -> None:
        """Go no further when the job was aborted, or the server is being stopped.

        Raises:
            _Left, _Over
        """
        if self._left is not None:
            self._leave()
        if self._abort is not None:
            raise _Over(self._end_by_abort(*self._abort))

    # -- dispatch ------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._check_interrupted()
        definition = self._deploy()
        if not self._recovered:
            self._forget_namesake()
        self._check_interrupted()
        self._job_sites.deploy(definition, self.sites, noted=True)
        self._check_interrupted()
        self._check_sites()
        self._launch()
        self._job_sites.start(self.sites, noted=True)
        self._check_interrupted()
        self._check_sites()
        reason = f"at {len(self._job_sites.participants)} of {len(self.sites)} sites"
        record = self._record.advance((SUBMITTED, APPROVED, DISPATCHED), RUNNING, reason)
        if record is None:
            self.compare(self._context.store.get(self.id))
        else:
            self._record.known = record

    def _forget_namesake(self) -> None:
        """Forget the state that another job of this id has left, or sites would find that theirs is over."""
        cell = self._context.cell
        keys = cell.federation_keys.job(FQCN.join([self._context.server_name, self.id]))
        members = Members(keys, cell.settings.policy)
        cell.server.run(keys.job, members.forget, stop=self._interrupted)

    def _deploy(self) -> JobDefinition:
        """Unpack the server's app of the job."""
        context = self._context
        try:
            if not self._folder.is_run:
                prepare(self._folder, self.meta.app_for(SERVER) or "", self.sites, self._job_meta)
            definition = fetch_job(context.store, self.id, context.workspace, context.settings)
            deploy_here(self._folder, definition, context.settings)
        except (ConfigError, BlobMissing, DecodeError, JobUnknown, OSError) as error:
            raise _Over(JobVerdict(status=FAILED_TO_RUN, reason=f"the server cannot deploy it: {error}")) from error
        return definition

    def _check_sites(self) -> None:
        if shortage := self._job_sites.shortage:
            raise _Over(JobVerdict(status=FAILED_TO_RUN, reason=shortage))

    # -- after a restart of the server ---------------------------------------------------------------------------------

    def _recover(self) -> None:
        """End the process of the last server, if it is left, and find out how far the job is."""
        state = RunState.read(self._folder)
        if state is not None:
            if state.run:
                state.mark.reap(_REAP_WITHIN if state.pid else 0.0)
            self._state = replace(state, sites=self.sites)
        self._job_sites.restore(self._record.known.sites)
        if self._abort is not None:
            return
        if self._record.known.status == DISPATCHED:
            logger.warning("job %s was being dispatched when the server ended; dispatching it again", self.id)
            self._job_sites.begin_anew()
            return
        if not self._folder.is_run:
            logger.warning("job %s was running in another workspace; its server starts in this one", self.id)
            self._deploy()
            return
        report = ServerJobReport.read(self._folder, self._state.run)
        self._state = self._state.with_report(report)
        verdict = verdict_of(report, self._state, parent_restarted=True)
        if verdict is not None:
            raise _Over(verdict)
        self._joining = tuple(self._job_sites.unstarted)
        logger.warning("job %s was running when the server ended; it resumes", self.id)

    # -- the job's server ----------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Start the job's process at the server."""
        self._check_interrupted()
        context = self._context
        args = context.job_args(self.id, self._record.known.meta, self._job_sites.participants)
        self._exit_code = None
        process = ServerProcess(args, context.cell, context.settings, self._log, self._on_exit)
        try:
            # before the start: a successor of this server finds the process by this mark
            self._state = replace(self._state, run=args.run, pid=0, pid_started="")
            self._state.write(self._folder)
            mark = process.start()
            self._process = process
            self._state = replace(self._state, pid=mark.pid, pid_started=mark.started)
            self._state.write(self._folder)
        except OSError as error:
            reason = f"cannot start the job's server: {error}"
            raise _Over(JobVerdict(status=FAILED_TO_RUN, reason=reason)) from error

    def _log(self, lines: Sequence[str]) -> None:
        self._context.logs.write(self.id, self._context.server_name, lines, self.submission)

    def _on_exit(self, code: int) -> None:
        with self._changed:
            self._exit_code = code
            self._changed.notify_all()

    # -- watching ------------------------------------------------------------------------------------------------------

    def _watch(self) -> JobVerdict:
        while True:
            self._expect_sites()
            self._wait(self._has_news)
            # the end of the job's server decides, whatever else has happened
            if self._exit_code is not None and (verdict := self._on_server_end(self._exit_code)):
                return verdict
            self._check_interrupted()
            if self._exit_code is None and (shortage := self._job_sites.shortage):
                return self._give_up(shortage)
            self._begin_joining()

    def _has_news(self) -> bool:
        """Whether something has happened that ``_watch`` deals with."""
        assert self._process is not None
        sites = self._job_sites
        happened = self._interrupted() or self._exit_code is not None or bool(sites.shortage) or bool(self._joining)
        return happened or sites.participants != self._process.expected

    def _begin_joining(self) -> None:
        """Give the job to the sites that join."""
        with self._changed:
            joining, self._joining = self._joining, ()
            everywhere = tuple(dict.fromkeys((*self.sites, *joining)))
            if not joining:
                return
            try:
                # before a site hears of it: the next server must find out where the job has gone
                state = replace(self._state, sites=everywhere)
                state.write(self._folder)
            except OSError as error:
                logger.error("job %s: cannot record that %s join it: %s", self.id, ", ".join(joining), error)
                return
            self._state = state
            self._job_sites.join(joining)
        self._log([f"joining while the job runs: {', '.join(joining)}"])

    def _expect_sites(self) -> None:
        """Tell the job's server which sites are left, if others have failed since it was started."""
        process, left = self._process, self._job_sites.participants
        assert process is not None
        if left != process.expected:
            process.expect(left)

    def _on_server_end(self, code: int) -> JobVerdict | None:
        """Return how the job ends; None: its server was started again, or the job was interrupted."""
        process = self._process
        assert process is not None
        report = process.report()
        self._state = self._state.with_report(report)
        verdict = verdict_of(report, self._state, code, process.tail())
        if verdict is not None or self._interrupted():
            return verdict
        self._state = replace(self._state, restarts=self._state.restarts + 1)
        text = f"the job's server died ({describe_exit(code)}); restart {self._state.restarts} of {MAX_RESTARTS}"
        logger.warning("job %s: %s", self.id, text)
        self._log([text])
        self._launch()
        return None

    def _give_up(self, shortage: str) -> JobVerdict:
        logger.error("job %s: %s", self.id, shortage)
        process = self._process
        assert process is not None
        process.end(shortage)
        verdict = verdict_of(process.report(), self._state)
        # it may have completed just then
        if verdict is not None and verdict.status == COMPLETED:
            return verdict
        return JobVerdict(status=EXECUTION_EXCEPTION, reason=shortage)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end_by_abort(self, by: str, reason: str) -> JobVerdict:
        """End all processes; the verdict names the sites that have confirmed it."""
        text = f"aborted by {by}" + (f": {reason}" if reason else "")
        logger.info("job %s is %s", self.id, text)
        self._record.note_abort(by, reason)
        confirmed: dict[str, SiteState] = {}
        asking = threading.Thread(
            target=lambda: confirmed.update(self._job_sites.abort(text, self.sites)),
            name=f"redflare-abort-{self.id}",
            daemon=True,
        )
        asking.start()
        how = self._process.end(text) if self._process is not None else NOT_RUNNING
        asking.join()
        self._sites_ended = True
        silent = set(self.sites) - set(confirmed)
        return JobVerdict(status=ABORTED, reason=f"{text}; {confirmations(how, confirmed, silent)}", by=by)

    def _end(self, verdict: JobVerdict) -> None:
        """End what still runs, store the result, and record how the job ended."""
        context = self._context
        self._job_sites.close()
        if self._process is not None:
            self._process.end(verdict.reason or verdict.status)
        if not self._sites_ended:
            report = self._process.report() if self._process is not None else None
            if report is not None and report.status and report.resumes is not None:
                # the job's server had begun, and has told the sites that the job is over
                self._wait(lambda: not self._job_sites.expected, context.settings.abort_grace)
            if left := self._job_sites.unfinished:
                self._job_sites.abort(f"the job is {verdict.status}", left)
        context.logs.flush(_FLUSH_WITHIN)
        self._ending = True
        if not self._record.disowned and context.store.get(self.id) is None:
            self._record.restore()
        ended = replace(verdict, reason="\n".join(filter(None, [verdict.reason, self._keep_result()])))
        faults = self._process.report().faults if self._process is not None else {}
        # a failover may have taken the record back
        if self._record.advance(UNFINISHED, ended.status, ended.reason, ended.by, faults) is not None:
            self.ended = ended
        else:
            logger.error("job %s: the store refused to record that it is %s", self.id, ended.status)
        logger.info("job %s is %s %s", self.id, ended.status, ended.reason)

    def _keep_result(self) -> str:
        """Store the content of the run's folder; return "" or why not."""
        if not self._folder.is_run or self._record.disowned:
            return ""
        try:
            keep_result(self._context.store, self._folder, self.submission)
        # ValueError: a file that the job has left cannot be packed; it is over all the same
        except (RedflareError, OSError, ValueError) as error:
            if self._left is not None:
                raise
            logger.error("job %s: cannot store its result: %s", self.id, error)
            return f"its result is not in the store, only in {self._folder.path}: {error}"
        return ""

    def _leave(self) -> None:
        """End the job's server; if it cannot resume later, the job is over.

        Raises:
            _Left, _Over
        """
        process = self._process
        if process is None:
            raise _Left
        process.release()
        # a job that was being dispatched is dispatched again
        if not self._left and self._record.known.status == RUNNING:
            report = process.report()
            verdict = verdict_of(report, self._state.with_report(report), parent_restarted=True)
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
