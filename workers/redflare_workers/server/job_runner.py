"""``JobRunner``: one job from its dispatch to its end, in a thread of its own.

It deploys the job, has its processes started at the server and at the sites, and waits for what becomes of them.
Whatever happens meanwhile, a report of a site, the exit of the job's server, an abort, changes a field and wakes it.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from redflare_broker.cell import Cell, Reply, ReplyCode
from redflare_broker.errors import BlobMissing, ConfigError, DecodeError, JobUnknown, RedflareError
from redflare_broker.job_record import (
    ABNORMAL,
    ABORTED,
    DISPATCHED,
    EXECUTION_EXCEPTION,
    FAILED_TO_RUN,
    RUNNING,
    JobRecord,
)
from redflare_broker.job_store import JobStore

from ..client.client_status import ClientStatus
from ..client.run_folder import APP_FILE, META_FILE, RunFolder
from ..client.site_report import SiteReport
from ..client.site_settings import SiteSettings
from ..jobs.archive import pack_folder, safe_extract
from ..jobs.job_folder import JobDefinition, read_job
from ..jobs.job_meta import SERVER, JobMeta
from ..processes.exit_code import describe_exit
from ..site_protocol import ABORT, DEPLOY, SITE, START
from .job_order import SERVER_APP, ServerOrder, ServerSaid
from .log_keeper import LogKeeper
from .run_state import RunState
from .server_process import NOT_RUNNING, ServerProcess
from .site_states import DEPLOYED, FAILED, SiteStates
from .verdict import Verdict, confirmations, shortage, verdict_of

logger = logging.getLogger(__name__)

#: Seconds that a site has to unpack an app, and to launch its process.
DEPLOY_WITHIN: Final = 120.0
START_WITHIN: Final = 60.0
#: Seconds beyond the server's own patience that sites have to confirm an abort: theirs may be longer.
_CONFIRM_WITHIN: Final = 20.0
#: Seconds for what is still on its way into the store.
_FLUSH_WITHIN: Final = 5.0
#: Seconds that what is left of an earlier server's process has to end itself.
_REAP_WITHIN: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSetting:
    """What all runners of a server share."""

    workspace: Path
    settings: SiteSettings
    cell: Cell
    store: JobStore
    logs: LogKeeper
    redis_url: str
    server_name: str
    secure_mode: bool
    #: FQCN of a site's cell
    cell_of: Callable[[str], str]
    #: whether a site's client parent is there
    is_alive: Callable[[str], bool]
    #: a runner has come to its end; False: it could not record how
    on_done: Callable[[str, bool], object]


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
        self, record: JobRecord, meta: JobMeta, sites: tuple[str, ...], setting: RunnerSetting, *, found: bool = False
    ) -> None:
        self.id = record.id
        self.meta = meta
        self.sites = sites
        self._record = record
        self._found = found
        self._setting = setting
        self._folder = RunFolder(setting.workspace, record.id)
        self._changed = threading.Condition()
        self._states = SiteStates(sites)
        self._state = RunState(job=record.id, sites=sites)
        self._process: ServerProcess | None = None
        self._exit: int | None = None
        self._abort: tuple[str, str] | None = None
        #: the parent is being stopped; True: another one has taken over
        self._left: bool | None = None
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
        with self._changed:
            if report.site not in self._states or not self._states.hear(report):
                return
            self._changed.notify_all()
        self._setting.store.set_site(
            self.id, report.site, report.status, exit_code=report.exit_code, reason=report.reason, how=report.how
        )

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
        ended = True
        try:
            self._end(self._live())
        except _Left:
            logger.info("job %s is left to the next server", self.id)
        except RedflareError as error:
            ended = False
            # the connection was closed under it
            logger.log(logging.INFO if self._left is not None else logging.ERROR, "job %s: %s", self.id, error)
            if self._process is not None:
                self._process.release()
        except Exception:
            ended = False
            logger.exception("job %s: its end could not be recorded", self.id)
        finally:
            self._setting.on_done(self.id, ended)

    def _live(self) -> Verdict:
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
            return Verdict(status=ABNORMAL, reason=f"the server could not run it: {type(error).__name__}: {error}")

    def _wait(self, until: Callable[[], object], timeout: float | None = None) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(until, timeout))

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
        definition = self._fetch()
        self._deploy_here(definition)
        self._look()
        self._deploy_there(definition)
        self._look()
        self._check_sites(FAILED_TO_RUN)
        self._launch()
        self._start_there()
        self._look()
        self._check_sites(FAILED_TO_RUN)
        sites = len(self.sites) - len(self._states.failed)
        record = self._setting.store.advance(self.id, DISPATCHED, RUNNING, f"at {sites} of {len(self.sites)} sites")
        if record is None:
            self._learn()
        else:
            self._record = record

    def _fetch(self) -> JobDefinition:
        settings = self._setting.settings
        try:
            with tempfile.TemporaryDirectory(prefix=FETCHING, dir=self._setting.workspace) as folder:
                archive = self._setting.store.fetch_archive(self.id, Path(folder) / "job.zip")
                return read_job(archive, max_bytes=settings.max_bytes, max_files=settings.max_files)
        except (ConfigError, BlobMissing, DecodeError, JobUnknown, OSError) as error:
            raise _Over(Verdict(status=FAILED_TO_RUN, reason=str(error))) from error

    def _deploy_here(self, definition: JobDefinition) -> None:
        folder, settings = self._folder, self._setting.settings
        if folder.is_foreign:
            raise _Over(Verdict(status=FAILED_TO_RUN, reason=f"{folder.path} is there and is no run of a job"))
        app = self.meta.app_for(SERVER) or ""
        try:
            shutil.rmtree(folder.path, ignore_errors=True)
            folder.path.mkdir(parents=True)
            (folder.path / APP_FILE).write_text(app)
            folder.write(META_FILE, self._told_meta())
            safe_extract(
                definition.app_archive(app),
                folder.app_folder(SERVER_APP),
                max_bytes=settings.max_bytes,
                max_files=settings.max_files,
            )
            self._state.write(folder)
        except (OSError, ConfigError, TypeError, KeyError) as error:
            raise _Over(
                Verdict(status=FAILED_TO_RUN, reason=f"it cannot be deployed at the server: {error}")
            ) from error

    def _deploy_there(self, definition: JobDefinition) -> None:
        for app in definition.apps:
            sites = [site for site in self.sites if self.meta.app_for(site) == app]
            asked = {site: {"job": self.id, "app": app, "meta": self._told_meta()} for site in sites}
            for site, reply in self._ask(DEPLOY, asked, definition.app_archive(app), DEPLOY_WITHIN).items():
                self._note(site, DEPLOYED, reply)

    def _start_there(self) -> None:
        sites = self._states.with_status(DEPLOYED)
        asked = {site: {"job": self.id, "meta": self._told_meta()} for site in sites}
        for site, reply in self._ask(START, asked, None, START_WITHIN).items():
            # its own reports may have come first
            if not reply.ok or self._states[site].status == DEPLOYED:
                self._note(site, ClientStatus.STARTING.word, reply)

    def _note(self, site: str, status: str, reply: Reply) -> None:
        if not reply.ok and self._interrupted():
            return
        reason = "" if reply.ok else reply.error.removeprefix("ERROR: ") or f"it gave no answer ({reply.rc})"
        with self._changed:
            self._states.change(site, status if reply.ok else FAILED, reason)
        if not reply.ok:
            logger.error("job %s: site %s fails: %s", self.id, site, reason)
        self._setting.store.set_site(self.id, site, status if reply.ok else FAILED, reason=reason)

    def _told_meta(self) -> dict[str, Any]:
        return {**self._record.meta, "job_id": self.id}

    def _check_sites(self, status: str) -> None:
        with self._changed:
            lack = shortage(self.meta, self.sites, self._states.failed)
        if lack:
            raise _Over(Verdict(status=status, reason=lack))

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
            if state.pid:
                state.mark.reap(_REAP_WITHIN)
            self._state = replace(state, sites=self.sites)
        with self._changed:
            for site, told in self._record.sites.items():
                # what was heard meanwhile is newer
                if site in self._states and self._states[site].status == "chosen":
                    self._states.change(site, told.status, told.reason, exit_code=told.exit_code, how=told.how)
        if self._abort is not None:
            return
        if self._record.status == DISPATCHED:
            logger.warning("job %s was being dispatched when the server ended; it is dispatched anew", self.id)
            self._abort_sites("the server was started again", self.sites)
            with self._changed:
                self._states = SiteStates(self.sites)
            return
        said = ServerSaid.read(self._folder, self._state.run)
        verdict = verdict_of(said, 0, (), self._state.restarts, parent_restarted=True)
        if verdict is not None:
            raise _Over(verdict)
        logger.warning("job %s was running when the server ended; it goes on", self.id)

    # -- the job's server ----------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Start the job's process at the server."""
        self._look()
        setting = self._setting
        order = ServerOrder(
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
            raise _Over(Verdict(status=FAILED_TO_RUN, reason=f"its server cannot be started: {error}")) from error

    def _on_exit(self, code: int) -> None:
        with self._changed:
            self._exit = code
            self._changed.notify_all()

    # -- watching ------------------------------------------------------------------------------------------------------

    def _watch(self) -> Verdict:
        while True:
            self._wait(lambda: self._interrupted() or self._exit is not None or self._lack())
            # a server that has come to its end is the last word, whatever else there is
            if self._exit is not None and (verdict := self._server_ended(self._exit)):
                return verdict
            self._look()
            if self._exit is None and (lack := self._lack()):
                return self._give_up(lack)

    def _lack(self) -> str:
        return shortage(self.meta, self.sites, self._states.failed)

    def _server_ended(self, code: int) -> Verdict | None:
        """How the job ends; None: its server is started again, or what wants the job to end is to be looked at."""
        process = self._process
        assert process is not None
        verdict = verdict_of(process.said(), code, process.tail(), self._state.restarts)
        if verdict is not None or self._interrupted():
            return verdict
        self._state = replace(self._state, restarts=self._state.restarts + 1)
        text = f"the job's server has died, {describe_exit(code)}; it is started again, {self._state.restarts}"
        logger.warning("job %s: %s", self.id, text)
        self._setting.logs.keep(self.id, self._setting.server_name, [text])
        self._launch()
        return None

    def _give_up(self, lack: str) -> Verdict:
        logger.error("job %s: %s", self.id, lack)
        process = self._process
        assert process is not None
        process.end(lack)
        verdict = verdict_of(process.said(), process.exit_code or 0, (), self._state.restarts)
        # it may have come to its end just then
        if verdict is not None and verdict.status not in (ABORTED, EXECUTION_EXCEPTION):
            return verdict
        return Verdict(status=EXECUTION_EXCEPTION, reason=lack)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end_by_abort(self, by: str, reason: str) -> Verdict:
        """End all processes, and say who has confirmed it."""
        text = f"aborted by {by}" + (f": {reason}" if reason else "")
        logger.info("job %s is %s", self.id, text)
        asked = threading.Event()
        answers: dict[str, str] = {}

        def ask_sites() -> None:
            answers.update(self._abort_sites(text, self.sites))
            asked.set()

        threading.Thread(target=ask_sites, name=f"redflare-abort-{self.id}", daemon=True).start()
        how = self._process.end(text) if self._process is not None else NOT_RUNNING
        asked.wait()
        silent = set(self.sites) - set(answers)
        return Verdict(status=ABORTED, reason=f"{text}; {confirmations(how, answers, silent)}", by=by)

    def _abort_sites(self, reason: str, sites: tuple[str, ...] | list[str]) -> dict[str, str]:
        """Have the job's processes at sites ended; how that came about, of those that have answered."""
        settings = self._setting.settings
        asked = {site: {"job": self.id, "reason": reason} for site in sites}
        within = settings.abort_grace + settings.stop_grace + _CONFIRM_WITHIN
        replies = self._ask(ABORT, asked, None, within, awaited=self._setting.is_alive, surely=True)
        proofs: dict[str, str] = {}
        for site, reply in replies.items():
            if not reply.ok:
                logger.warning("job %s: site %s has not confirmed its end: %s", self.id, site, reply.error or reply.rc)
                continue
            proofs[site] = how = str(reply.meta.get("how", ""))
            code = reply.meta.get("exit_code")
            with self._changed:
                was = self._states[site]
                # one that had ended before keeps what it said
                if how == NOT_RUNNING and not was.live and was.status not in (DEPLOYED, "chosen"):
                    continue
                self._states.change(site, ClientStatus.STOPPED.word, was.reason, exit_code=code, how=how)
            self._setting.store.set_site(
                self.id,
                site,
                ClientStatus.STOPPED.word,
                exit_code=code if isinstance(code, int) else None,
                reason=f"aborted: {reason}",
                how=how,
            )
        return proofs

    def _end(self, verdict: Verdict) -> None:
        """See that nothing runs any more, and record how it has ended."""
        setting = self._setting
        if self._process is not None:
            self._process.end(verdict.reason or verdict.status)
        if verdict.status != ABORTED:
            # sites hear from the job's server that it is over, as far as they have come
            self._wait(lambda: not self._awaited(), setting.settings.abort_grace)
            left = [site for site in self.sites if self._states[site].live or self._states[site].status == DEPLOYED]
            if left:
                self._abort_sites(f"the job is {verdict.status}", left)
        setting.logs.flush(_FLUSH_WITHIN)
        trouble = self._keep_result()
        reason = "\n".join(filter(None, [verdict.reason, trouble]))
        ended = setting.store.advance(self.id, (DISPATCHED, RUNNING), verdict.status, reason, verdict.by)
        if ended is None:
            logger.error("job %s: the store does not take in that it is %s", self.id, verdict.status)
        logger.info("job %s is %s %s", self.id, verdict.status, reason)

    def _awaited(self) -> list[str]:
        return [site for site in self._states.live if self._setting.is_alive(site)]

    def _keep_result(self) -> str:
        """Store what the run's folder holds; "" or why not."""
        if not self._folder.is_run:
            return ""
        try:
            with tempfile.TemporaryDirectory(prefix=FETCHING, dir=self._setting.workspace) as folder:
                target = Path(folder) / "result.zip"
                pack_folder(self._folder.path, target, max_bytes=self._setting.store.policy.file_bytes)
                self._setting.store.put_result(self.id, target)
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
            verdict = verdict_of(
                process.said(), process.exit_code or 0, process.tail(), self._state.restarts, parent_restarted=True
            )
            if verdict is not None:
                raise _Over(verdict)
        raise _Left

    # -- asking sites --------------------------------------------------------------------------------------------------

    def _ask(
        self,
        topic: str,
        metas: Mapping[str, dict[str, Any]],
        data: object,
        timeout: float,
        *,
        awaited: Callable[[str], bool] = lambda site: True,
        surely: bool = False,
    ) -> dict[str, Reply]:
        """Ask sites at once, and wait.

        Args:
            awaited: sites whose answers are waited for; the others have got the request when they are back.
            surely: wait also when the job is to end.
        """
        if not metas:
            return {}
        replies: dict[str, Reply] = {}

        def on_reply(site: str, reply: Reply) -> None:
            with self._changed:
                replies[site] = reply
                self._changed.notify_all()

        def enough() -> bool:
            if self._interrupted() and not surely:
                return True
            return all(site in replies or not awaited(site) for site in metas)

        targets = {site: (self._setting.cell_of(site), meta) for site, meta in metas.items()}
        asked = self._setting.cell.ask_many(SITE, topic, targets, data, on_reply=on_reply)
        deadline = time.monotonic() + timeout
        # a site may vanish without a word
        while not self._wait(enough, min(self._setting.cell.interval, max(deadline - time.monotonic(), 0))):
            if time.monotonic() >= deadline:
                break
        asked.cancel()
        with self._changed:
            nothing = Reply(ReplyCode.TIMEOUT, {"error": f"no answer within {timeout:g} s"})
            return {site: replies.get(site, nothing) for site in metas}

    def __repr__(self) -> str:
        return f"<JobRunner {self.id} of {len(self.sites)} sites>"


#: What folders are called that hold archives for a moment.
FETCHING: Final = ".redflare-fetch-"


class _Left(Exception):
    """The job is left to the next server."""


class _Over(Exception):
    """The job is over."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict
