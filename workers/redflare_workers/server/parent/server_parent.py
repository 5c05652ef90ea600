"""``ServerParent`` (SP): takes jobs from the store, and sees each to its end.

A job's life: it is checked (``job_checks``), waits for its sites (``job_scheduler``), and is dispatched, watched and
ended by its ``JobRunner``. Operators write into the store; an event wakes the server, which reads the open jobs.
If this process dies, the next one resumes (``reaper``).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from redflare_broker.cell.cell import Cell, HandlerResult, Request
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.config.settings import LinkSettings, load_settings
from redflare_broker.errors import ConfigError, Fenced, JobLost, RedflareError, Unavailable
from redflare_broker.job_store.record import (
    APPROVED,
    CAN_NOT_SCHEDULE,
    DISPATCHED,
    FAILED_TO_RUN,
    SUBMITTED,
    UNFINISHED,
    JobRecord,
)
from redflare_broker.job_store.store import STORE_CHANNEL, STORE_TOPIC, JobStore
from redflare_broker.keys import Keys
from redflare_broker.runtime.shared_connection import SharedConnection
from redflare_broker.scripts.link_scripts import KEEP_AGENTS
from redflare_broker.transport.replies import Arg
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.audit.audit import about
from redflare_workers.audit.audit_files import audit_folder
from redflare_workers.audit.audit_log import AuditLog
from redflare_workers.audit.entry import Action
from redflare_workers.audit.refused_messages import RefusedMessages
from redflare_workers.jobs.job_meta import SERVER as SERVER_SIDE
from redflare_workers.jobs.job_meta import JobMeta
from redflare_workers.workspace.name_claim import claim_name
from redflare_workers.workspace.run_folder import RunFolder
from redflare_workers.workspace.site_settings import SiteSettings, load_site_settings
from redflare_workers.workspace.workspace_lock import WorkspaceHold, workspace_lock

from .admission import meta_of
from .connected_sites import ConnectedSites
from .deleted_jobs import DeletedJobs
from .job_checks import JobChecks
from .job_files import prepare, run_meta, sweep
from .job_runner import JobRunner
from .job_scheduler import Candidate, PlacedJob, plan
from .log_writer import LogWriter
from .parent_engine import ParentEngine
from .reaper import reap, recover
from .record_keeper import RecordKeeper
from .runner_context import RunnerContext
from .site_messages import SiteMessages

logger = logging.getLogger(__name__)

#: Seconds between two renewals of the jobs that are not over, at most.
_RENEW_EVERY: Final = 60.0
#: Seconds that runners have to leave their jobs.
_LEAVE_WITHIN: Final = 20.0
_FLUSH_WITHIN: Final = 3.0


class ServerParent:
    """The server of a federation; ``run`` it, once.

    Args:
        workspace: folder with ``comm_config.json``, ``startup/`` and ``local/``; jobs get their folders in it.
        redis_url: any form of ``redflare_broker.transport.url``.
        settings: of this process's connection, instead of those in the workspace, which processes of jobs read.
        server_name: FQCN of its cell.
        site_settings: what jobs may do at the server; None: as in ``local/site.json``.
        policy: how long jobs are kept; None: as the settings say.
        max_jobs: how many may run at once; 0: any number.
        secure_mode: ``startup/rootCA.pem`` must be there.
        client: a redis-py or fakeredis client to use in this process instead of the URL.
        take_over: replace a living server of this name, which ends; otherwise this one is refused.
        components: by id; they hear SYSTEM_START and SYSTEM_END, and answer messages of client parents.
    """

    def __init__(
        self,
        workspace: str | Path,
        redis_url: str = "",
        settings: LinkSettings | None = None,
        server_name: str = "server",
        *,
        site_settings: SiteSettings | None = None,
        policy: JobRetentionPolicy | None = None,
        max_jobs: int = 0,
        secure_mode: bool = False,
        client: Any = None,
        take_over: bool = False,
        components: Mapping[str, object] | None = None,
    ) -> None:
        self.workspace = Path(workspace).resolve()
        self.server_name = server_name
        self.settings = settings or load_settings(workspace, secure_mode)
        self.site_settings = site_settings or load_site_settings(workspace)
        self.max_jobs = max_jobs
        #: Called, from a thread of ``run``, when the server serves.
        self.on_ready: Callable[[], object] = lambda: None
        self._policy = policy or self.settings.job_store
        self._redis_url = redis_url
        self._secure = secure_mode
        self._client = client
        self._take_over = take_over
        self._components = dict(components or {})
        self._guard = threading.Lock()
        self._runners: dict[str, JobRunner] = {}
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        #: The jobs of the last server are recovered, and reports of sites can be handled.
        self._ready = threading.Event()
        self._stopping = ""
        self._fenced = False
        #: True: put by ``stop``; False: the cell has started, or never will
        self._stops: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._renewed = 0.0
        #: why no job is taken now
        self._obstacle = ""
        self._over = False

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Serve until ``stop``, or until another server takes over; returns why it has ended.

        Raises:
            ConfigError: a ValueError; another process serves this workspace, or a setting is wrong.
            PreflightError, ServerError: Redis is not fit, or refuses this user.
            NameTaken: a server of this name is alive, and is not to be replaced.
        """
        self.workspace.mkdir(parents=True, exist_ok=True)
        writer = {"server": self.server_name}
        with workspace_lock(self.workspace) as hold, AuditLog(audit_folder(self.workspace), writer) as audit:
            self._audit = audit
            shared = SharedConnection.acquire(self._redis_url, self.settings.connection, self._client)
            try:
                self._serve(shared, hold)
            except (Unavailable, JobLost):
                if not self._stopping:
                    raise
            except Fenced:
                self._on_fenced()
            finally:
                shared.release()
            audit.close(self._stopping)
        return self._stopping

    def stop(self, reason: str = "it was stopped") -> None:
        """Let ``run`` end, from any thread or a signal handler.

        Jobs whose workflows can resume do so when a server is started again; others end.
        """
        self._stopping = self._stopping or reason
        # a signal handler must not wait for a lock
        self._stops.put(True)
        self._wake()

    @property
    def fenced(self) -> bool:
        """Whether another server has taken over."""
        return self._fenced

    @property
    def running(self) -> list[str]:
        """The ids of the jobs that run."""
        with self._guard:
            return sorted(self._runners)

    def _is_running(self, job_id: str) -> bool:
        with self._guard:
            return job_id in self._runners

    def _serve(self, shared: SharedConnection, hold: WorkspaceHold) -> None:
        cell = self._cell = Cell(
            shared.server,
            self.server_name,
            self.settings,
            heartbeats=shared.heartbeats,
            subscribe=shared.subscribe,
        )
        keys = Keys(self.settings.namespace).store(self.server_name)
        store = self._store = JobStore(shared.server, keys, self._policy, stop=self._gives_up)
        logs = self._logs = LogWriter(store)
        pool = self._pool = ElasticThreadPool(f"redflare-server-{self.server_name}")
        sites = self._sites = ConnectedSites(
            shared, cell, pool, self._wake, self._on_beat, lambda: bool(self._stopping)
        )
        engine = ParentEngine(cell, sites, self._components, self.workspace)
        self._context = self._make_context()
        self._keeper = RecordKeeper(store, self.workspace, self._audit)
        self._checks = JobChecks(store, self.workspace, self.site_settings, self._audit, pool, self._wake)
        self._deleted = DeletedJobs(store, self.workspace, cell, sites.connected, self._is_running, self._audit)
        cell.preflight = partial(self._preflight, shared, cell, hold)
        cell.on_fenced = self._on_fenced
        cell.on_loss = cell.on_reconnect = self._wake  # records may be lost, or older than they were
        self._register(cell)
        try:
            self._start(cell)
            logs.start()
            sites.open()
            self._recover()
            self._ready.set()
            engine.begin()
            logger.info("server %s is ready; %d jobs resumed", self.server_name, len(self._runners))
            self.on_ready()
            self._loop()
        finally:
            self._ready.set()
            engine.end()
            self._close()

    def _close(self) -> None:
        """Leave the jobs, and write what is in hand."""
        self._leave_jobs()
        self._over = True
        self._sites.close()
        self._logs.stop(_FLUSH_WITHIN)
        self._pool.close(_FLUSH_WITHIN)
        self._cell.stop()
        logger.info("server %s ends: %s", self.server_name, self._stopping)

    def _preflight(self, shared: SharedConnection, cell: Cell, hold: WorkspaceHold) -> None:
        shared.preflight_cell(self.settings, self.server_name)
        claim_name(cell, f"server {self.server_name}", hold, self._pause, take_over=self._take_over)

    def _pause(self, seconds: float) -> bool:
        """Wait, at most until ``stop``; return whether it was called."""
        with suppress(queue.Empty):
            self._wakes.get(timeout=seconds)
        return bool(self._stopping)

    def _gives_up(self) -> bool:
        """Whether to stop retrying: this server is stopping, and Redis is unreachable."""
        return self._over or (bool(self._stopping) and not self._cell.in_touch)

    def _start(self, cell: Cell) -> None:
        """Wait for Redis, at most until ``stop``, which a thread passes on to the cell."""

        def pass_on() -> None:
            if self._stops.get():
                cell.stop()

        stopper = threading.Thread(target=pass_on, name="redflare-server-stop")
        stopper.start()
        try:
            if self._stopping:
                raise Unavailable("the server was stopped before it began")
            cell.start()
        finally:
            self._stops.put(False)
            stopper.join()

    def _make_context(self) -> RunnerContext:
        return RunnerContext(
            workspace=self.workspace,
            settings=self.site_settings,
            cell=self._cell,
            store=self._store,
            logs=self._logs,
            redis_url=self._redis_url,
            server_name=self.server_name,
            secure_mode=self._secure,
            cell_of=self._sites.cell_of,
            is_alive=self._sites.is_alive,
            has_left=self._sites.has_left,
            on_done=self._on_done,
            audit=self._audit,
            heads=self._sites.heads,
        )

    def _recover(self) -> None:
        """Resume the jobs of the last server, and end those that cannot resume."""
        sweep(self.workspace)
        self._store.publish()
        runners = recover(self._store.list(UNFINISHED), self._context)
        reap(self.workspace, [runner.id for runner in runners])
        with self._guard:
            self._runners = {runner.id: runner for runner in runners}
        for runner in runners:
            runner.start()

    def _leave_jobs(self) -> None:
        with self._guard:
            runners = list(self._runners.values())
        for runner in runners:
            runner.leave(fenced=self._fenced)
        deadline = time.monotonic() + _LEAVE_WITHIN
        for runner in runners:
            if not runner.wait(max(deadline - time.monotonic(), 0.0)):
                logger.warning(
                    "job %s did not stop within %g s; its process ends with this one", runner.id, _LEAVE_WITHIN
                )

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._wakes.put(None)

    def _loop(self) -> None:
        while not self._stopping:
            try:
                self._reconcile()
            except Unavailable:
                if self._stopping:
                    return
                raise
            except RedflareError as error:
                logger.error("cannot process the open jobs; trying again at the next change or heartbeat: %s", error)
            except Exception:
                # no job may end the server, and with it the others
                logger.exception("cannot process the open jobs; trying again at the next change or heartbeat")
            self._wakes.get()
            while not self._wakes.empty():
                self._wakes.get()

    def _reconcile(self) -> None:
        """Read the open jobs, and do for each what can be done now."""
        records = self._store.list(UNFINISHED)
        with self._guard:
            runners = list(self._runners.values())
        records = self._keeper.compare(records, runners)
        self._deleted.reconcile()
        candidates: list[Candidate] = []
        obstacle = self._obstacle = self._audit.obstacle()
        for record in records:
            with self._guard:
                runner = self._runners.get(record.id)
            if runner is not None:
                # it has been compared; another job of this id waits for its end
                continue
            if obstacle and record.status in (SUBMITTED, APPROVED):
                self._note_waiting(record, obstacle)
            elif record.status == SUBMITTED:
                self._checks.begin(record)
            elif record.status == APPROVED and (meta := self._meta_of(record)) is not None:
                candidates.append(Candidate(id=record.id, meta=meta))
            elif record.status not in (SUBMITTED, APPROVED):
                # its runner has failed to record its end
                self._resume(record)
        self._schedule(candidates, {record.id: record for record in records})

    def _schedule(self, candidates: list[Candidate], records: dict[str, JobRecord]) -> None:
        with self._guard:
            runners = dict(self._runners)
        running = [
            PlacedJob(id=each.id, meta=each.meta, sites=each.sites, is_open=each.is_open) for each in runners.values()
        ]
        schedule = plan(candidates, self._sites.schedulable(), running, max_jobs=self.max_jobs)
        for job_id, reason in schedule.waiting.items():
            self._note_waiting(records[job_id], reason)
        metas = {candidate.id: candidate.meta for candidate in candidates}
        for job_id, sites in schedule.begin.items():
            self._dispatch(records[job_id], metas[job_id], sites)
        for job_id, sites in schedule.join.items():
            runners[job_id].join_sites(sites)

    def _note_waiting(self, record: JobRecord, reason: str) -> None:
        """Say in a job's record why it does not begin."""
        if record.waiting is None or record.waiting.reason != reason:
            logger.info("job %s: %s", record.id, reason)
            self._store.set_waiting(record.id, reason)

    def _dispatch(self, waiting: JobRecord, meta: JobMeta, sites: tuple[str, ...]) -> None:
        job_id = waiting.id
        try:
            # before the record is DISPATCHED: the next server must find out where the job has gone
            folder = RunFolder(self.workspace, job_id)
            prepare(folder, meta.app_for(SERVER_SIDE) or "", sites, run_meta(waiting))
        except (OSError, ConfigError) as error:
            self._end(waiting, FAILED_TO_RUN, f"the server cannot prepare it: {error}")
            return
        subject = about(job_id, waiting.submission)
        self._audit.record(Action.DISPATCH, subject, sites=list(sites), heads=self._context.heads.of(sites))
        record = self._store.advance(job_id, APPROVED, DISPATCHED, f"to {len(sites)} sites: {', '.join(sites)}")
        if record is None:
            return
        logger.info("job %s (%s): dispatched to %s", job_id, meta.name, ", ".join(sites))
        runner = JobRunner(record, meta, sites, self._context)
        with self._guard:
            self._runners[job_id] = runner
        runner.start()

    def _end(self, record: JobRecord, status: str, reason: str) -> None:
        """End a job that was approved, and cannot begin."""
        self._audit.record(Action.END, about(record.id, record.submission), reason=reason, status=status)
        self._store.advance(record.id, APPROVED, status, reason)

    def _resume(self, listed: JobRecord) -> None:
        # it may have ended since the jobs were listed
        record = self._store.get(listed.id)
        for runner in recover([record] if record else [], self._context):
            with self._guard:
                self._runners[runner.id] = runner
            runner.start()

    def _meta_of(self, record: JobRecord) -> JobMeta | None:
        meta, problems = meta_of(record)
        if problems:
            self._end(record, CAN_NOT_SCHEDULE, "\n".join(map(str, problems)))
            return None
        return meta

    # -- messages and events -------------------------------------------------------------------------------------------

    def _register(self, cell: Cell) -> None:
        cell.faults.listener = RefusedMessages(self._audit)
        cell.register_request_cb(STORE_CHANNEL, STORE_TOPIC, self._on_change)
        SiteMessages(self._store, self._logs, self._ready, self._runner_of).register(cell)

    def _on_change(self, request: Request) -> HandlerResult:
        """Handle an operator's change of the store."""
        if request.meta.get("change") == "deleted":
            self._deleted.note(request.meta.get("job_id"))
        self._keeper.note_change(request.meta.get("job_id"))
        self._wake()
        return None

    def _runner_of(self, job_id: str) -> JobRunner | None:
        with self._guard:
            return self._runners.get(job_id)

    def _on_done(self, job_id: str, ended: bool) -> None:
        with self._guard:
            runner = self._runners.pop(job_id, None)
        if runner is not None:
            self._keeper.note_end(runner)
        if ended:
            # otherwise it is resumed later; what has kept it from ending may last
            self._wake()

    def _on_beat(self) -> None:
        """Renew the jobs that are not over, from the heartbeat thread."""
        every = min(_RENEW_EVERY, self._policy.job_retention / 4)
        if time.monotonic() - self._renewed >= every:
            self._renewed = time.monotonic()
            self._pool.submit(self._renew)
            self._wake()
        if self._obstacle:
            self._wake()

    def _renew(self) -> None:
        try:
            self._store.renew([record.id for record in self._store.list(UNFINISHED)])
            self._keep_agents()
        except RedflareError as error:
            logger.debug("cannot renew the open jobs: %s", error)

    def _keep_agents(self) -> None:
        """Trim the federation's list of agents, who may only add to it."""
        agents = Keys(self.settings.namespace).agents
        values: dict[str, Arg] = {"agents": agents, "retention_ms": self.settings.policy.retention_ms}
        with self._cell.server.borrow(agents) as connection:
            KEEP_AGENTS.run(connection, values)

    def _on_fenced(self) -> None:
        self._fenced = True
        self.stop("another server has taken over")

    def __repr__(self) -> str:
        return f"<ServerParent {self.server_name}, {len(self._runners)} jobs>"
