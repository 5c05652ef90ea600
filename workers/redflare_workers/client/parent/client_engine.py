"""``ClientEngine``: a site's client parent (CP). It deploys, starts, watches and aborts the jobs of its site.

Each job runs in its own process (CJ). ``request_handler`` answers the server's parent process with the methods of this
class, which may also be called in this process. Names and messages are those of NVFlare's ClientEngine.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from redflare_broker.cell.cell import Cell, Reply, ReplyCode
from redflare_broker.config.settings import load_settings
from redflare_broker.errors import ConfigError, RedflareError, Unavailable
from redflare_broker.fqcn import FQCN, check_name

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey, ProcessType, ReservedKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.audit.audit_files import audit_folder
from redflare_workers.audit.audit_log import AuditLog
from redflare_workers.audit.entry import AUDIT_HEAD
from redflare_workers.audit.refused_messages import RefusedMessages
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership
from redflare_workers.engine.run_engine import RunEngine
from redflare_workers.messaging.switchboard import Switchboard
from redflare_workers.protocol.job_control import AbortRun, AbortRunTask, JobControl, PingRun
from redflare_workers.protocol.parent_messages import AbortProof, TaskAbortProof
from redflare_workers.protocol.shareable_codec import to_message
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.workspace.name_claim import claim_name
from redflare_workers.workspace.site_settings import SiteSettings
from redflare_workers.workspace.workspace_lock import WorkspaceHold, workspace_lock

from .agent_abort import notify_agents
from .app_deployer import AppDeployer
from .job_processes import JobProcesses, RunsAlready
from .reporter import CellReporter, Reporter
from .request_handler import SiteRequestHandler
from .run_record import ClientRunInfo, RunRecord

logger = logging.getLogger(__name__)

ERROR_PREFIX: Final = "ERROR"
#: Component that deploys instead of ``AppDeployer``, as NVFlare's.
APP_DEPLOYER: Final = "app_deployer"

#: Seconds that a CJ has to answer how it stands.
_ASK_WITHIN: Final = 5.0
#: Seconds that processes of jobs have to end when the client parent is stopped.
_STOP_WITHIN: Final = 10.0


class ClientEngine(RunEngine):
    """A site's client parent; ``run`` it, or give it a cell by ``initialize_comm``.

    Args:
        client: the site: a ``Site``, or anything with a ``name`` (or ``client_name``), ``settings``, ``components``.
        args: a ``SiteArgs``, or anything with a ``workspace``, and perhaps ``redis_url`` and so on.
        rank: of this process, for the log.
        workers: how many requests of the server are worked on at once.

    Raises:
        ValueError: workers < 1, or (ConfigError) a name or a setting is wrong.
    """

    def __init__(self, client: Any, args: Any, rank: int = 0, workers: int = 5) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int):
            raise TypeError(f"workers must be an int, but got {type(workers).__name__}")
        if workers < 1:
            raise ValueError(f"workers must be >= 1, but is {workers}")
        self.client = client
        self.client_name: str = check_name(getattr(client, "name", None) or client.client_name, "name of the site")
        self.args = args
        self.rank = rank
        self.workers = workers
        self.server_name: str = getattr(args, "server_name", "server")
        self.settings = getattr(args, "settings", None) or load_settings(args.workspace, self._secure)
        self.cell: Cell | None = None
        site = getattr(client, "settings", None) or SiteSettings()
        connection = {"redis_url": self._redis_url, "server_name": self.server_name, "secure_mode": self._secure}
        self.processes = JobProcesses(
            self.client_name,
            Path(args.workspace).resolve(),
            site,
            connection,
            self._request_end,
            self._on_run_ended,
            self._notify_agents,
        )
        components = getattr(client, "components", None) or {}
        super().__init__(self.client_name, "", {}, ProcessType.CLIENT_PARENT, components)
        with self.new_context() as fl_ctx:
            fl_ctx.set_prop(FLContextKey.WORKSPACE_ROOT, str(args.workspace), private=True, sticky=True)
        self._deployer = AppDeployer(site)
        self._requests = SiteRequestHandler(self, workers)
        self._resources: dict[str, tuple[Any, Any, Any]] = {}
        #: why ``run`` ends; put by ``stop``, also from a signal handler
        self._ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stopping = ""
        self._ended = threading.Event()
        #: called, from the thread of ``run``, when the site has joined its server
        self.on_ready: Callable[[], object] = lambda: None
        #: another process of this site has taken over
        self.fenced = False

    @property
    def _redis_url(self) -> str:
        return str(getattr(self.args, "redis_url", ""))

    @property
    def _secure(self) -> bool:
        return bool(getattr(self.args, "secure_mode", False))

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Serve until ``stop``, or until another process of this site takes over; returns why it has ended.

        Jobs that ran when the last client parent of this workspace ended are resumed.

        Raises:
            ConfigError: a ValueError; another process serves this workspace, or a setting is wrong.
            PreflightError, ServerError: Redis is not fit, or refuses this user.
            NameTaken: a client parent of this site is alive, and is not to be replaced.
        """
        workspace, writer = self.processes.workspace, {"site": self.client_name}
        with workspace_lock(workspace) as hold, AuditLog(audit_folder(workspace), writer) as audit:
            self.processes.audit = audit
            client = getattr(self.args, "client", None)
            host = CellHost(
                self.client_name,
                "",
                redis_url=self._redis_url,
                server_name=self.server_name,
                settings=self.settings,
                client=client,
                prepare=partial(self._prepare, hold),
            )
            self.processes.recover()
            ender = threading.Thread(target=self._await_stop, args=(host,), name="redflare-site-end", daemon=True)
            ender.start()
            try:
                host.start()
                self._serve(host)
            except Unavailable:
                # it was stopped before Redis was there
                if not self._stopping:
                    raise
            finally:
                self.stop("it has ended")
                self.close()
                host.stop()
                ender.join()
            audit.close(self._stopping)
        return self._stopping

    def _prepare(self, hold: WorkspaceHold, cell: Cell, switchboard: Switchboard) -> None:
        """Prepare a cell that is not open yet."""
        cell.faults.listener = RefusedMessages(self.processes.audit)
        preflight, take_over = cell.preflight, bool(getattr(self.args, "take_over", False))

        def check() -> None:
            preflight()
            claim_name(cell, f"site {self.client_name}", hold, self._ended.wait, take_over=take_over)

        cell.preflight = check
        self.initialize_comm(cell, switchboard=switchboard)

    def _await_stop(self, host: CellHost) -> None:
        """Wait for ``stop``, in a thread, and end ``run``: a signal handler must do no more than fill the queue."""
        self._stopping = self._ends.get()
        host.give_up()
        self._ended.set()

    def _serve(self, host: CellHost) -> None:
        host.add_site(self.client_name, self.server_name, lambda event: None, self._on_fenced)
        props: dict[str, Any] = {
            "resources": dict(self.processes.settings.resources),
            ReservedKey.CLIENT_NAME: self.client_name,
        }
        if (head := self.processes.audit.head) is not None:
            props[AUDIT_HEAD] = str(head)
        membership = Membership(host, self.server_name, self.client_name, props, self._on_news)
        self._fire(EventType.SYSTEM_START)
        self.processes.resume()
        try:
            membership.join(lambda: self._stopping)
            logger.info("site %s serves %s", self.client_name, self.server_name)
            if not self.fenced:
                self.on_ready()
            self._ended.wait()
            logger.info("site %s ends: %s", self.client_name, self._stopping)
        finally:
            self._fire(EventType.SYSTEM_END)
            membership.leave()

    def stop(self, reason: str = "it was stopped") -> None:
        """Let ``run`` end, from any thread or a signal handler; running jobs resume when the site is started again."""
        self._ends.put(reason or "it was stopped")

    def close(self) -> None:
        """End the processes of jobs, and what ``initialize_comm`` has begun. May be called again."""
        self._requests.close()
        self.processes.stop(_STOP_WITHIN)
        self.messenger.close()

    def _on_news(self, membership: Membership) -> None:
        if membership.fenced:
            self._on_fenced()

    def _on_fenced(self) -> None:
        self.fenced = True
        self.stop("another process has taken over")

    def initialize_comm(
        self, cell: Cell, *, switchboard: Switchboard | None = None, reporter: Reporter | None = None
    ) -> None:
        """Serve the server through a cell that has not started yet.

        Args:
            switchboard: that of the cell; None: one is made.
            reporter: takes the reports of jobs; None: one that sends them to the server's parent process.
        """
        self.cell = cell
        self.processes.reporter = reporter or CellReporter(cell, self.client_name, self.server_name)
        self.messenger.open(cell, switchboard)
        self._requests.open(cell)

    def get_cell(self) -> Cell | None:
        """Return the cell that was given to ``initialize_comm``."""
        return self.cell

    def get_client_name(self) -> str:
        return self.client_name

    def targets_of(self, targets: str | Sequence[str] | None) -> list[str]:
        """Return the server, also when it is called "server" or nobody is named.

        Raises:
            ValueError: another target is named.
        """
        names = [targets] if isinstance(targets, str) else list(targets or ())
        if others := [name for name in names if name not in ("server", self.server_name)]:
            raise ValueError(
                f"a client parent reaches the server {self.server_name!r} only, not {others}: use the engine of a job"
            )
        return [self.server_name]

    def find_peer(self, name: str) -> str | None:
        """Return the FQCN of the server's cell; a client parent talks to no other peer."""
        return self.server_name if name == self.server_name else None

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def deploy_app(
        self,
        app_name: str,
        job_id: str,
        job_meta: Mapping[str, Any],
        client_name: str,
        app_data: bytes,
        *,
        server_head: str = "",
    ) -> str:
        """Unpack an app into ``<workspace>/<job_id>``; return "" or what is wrong, and then nothing is left behind.

        Args:
            server_head: of the server's audit log, which that of this site notes.
        """
        if client_name != self.client_name:
            return f"{ERROR_PREFIX}: this is site {self.client_name}, not {client_name!r}"
        deployer = self.get_component(APP_DEPLOYER) or self._deployer
        try:
            error = self.processes.deploy(deployer, job_id, job_meta, app_name, app_data, server_head=server_head)
        except (ConfigError, TypeError) as wrong:
            error = str(wrong)
        return f"{ERROR_PREFIX}: {error}" if error else ""

    def start_app(
        self,
        job_id: str,
        job_meta: Mapping[str, Any] | None = None,
        allocated_resource: Mapping[str, Any] | None = None,
        token: str | None = None,
        resource_manager: Any = None,
    ) -> str:
        """Launch the process of a deployed job; return what became of it, a text that begins with ERROR when it failed.

        Args:
            job_meta: without effect; what counts was deployed.
            allocated_resource: given back to ``resource_manager.free_resources(resources=, token=, fl_ctx=)`` when the
                process is gone.
        """
        if allocated_resource and resource_manager is not None:
            self._resources[job_id] = (resource_manager, allocated_resource, token)
        try:
            self._fire(EventType.BEFORE_JOB_LAUNCH, job_id)
            self.processes.start(job_id)
        except RunsAlready:
            return "Client app already started."
        except LookupError:
            self._free(job_id)
            return f"{ERROR_PREFIX}: Client app does not exist. Please deploy it before starting client."
        except (RuntimeError, ConfigError, TypeError, OSError) as error:
            self._free(job_id)
            return f"{ERROR_PREFIX}: {error}"
        self._fire(EventType.AFTER_JOB_LAUNCH, job_id)
        return "Start the client app..."

    def abort_app(self, job_id: str) -> str:
        """End a job's process, and wait until it is gone; ``abort`` returns how it ended."""
        return self.abort(job_id).message

    def abort(self, job_id: str, reason: str = "abort_app was called") -> AbortProof:
        """End a job's process, wait until it is gone, and return the proof.

        It takes as long as the site's ``abort_grace`` and ``stop_grace`` at most; less when the job ends in order.
        """
        message, proof = self.begin_abort(job_id, reason)
        return replace(proof.result(), message=message)

    def begin_abort(self, job_id: str, reason: str, *, bar: bool = False) -> tuple[str, Future[AbortProof]]:
        """Begin to end a job's process, without waiting; return NVFlare's message and the future proof.

        Args:
            bar: refuse to start the job, if it is not started yet, until it is deployed again.
        """
        run = self.processes.find(job_id)
        if run is None:
            message = "Client app has not started."
        elif not run.live:
            message = "Client app already stopped."
        else:
            message = "Abort signal has been sent to the client App."
        return message, self.processes.abort(job_id, reason, bar=bar)

    def abort_task(self, job_id: str) -> str:
        """Break off the task that a job has in hand; ``abort_current_task`` returns what became of it."""
        return self.abort_current_task(job_id).message

    def abort_current_task(self, job_id: str, reason: str = "abort_task was called") -> TaskAbortProof:
        """Break off the task that a job has in hand, wait ``abort_grace`` seconds for it, and return the proof."""
        record = self.processes.records().get(job_id)
        if record is None or not record.status.live:
            return TaskAbortProof(message="Client app has not started.")
        if record.status is ClientStatus.STARTING:
            message = "Client app is starting, please wait for started before abort_task."
            return TaskAbortProof(message=message, how="starting")
        grace = self.processes.settings.abort_grace
        reply = self._ask_job(job_id, AbortRunTask(run=record.run, reason=reason, grace=grace), grace + _ASK_WITHIN)
        proof = TaskAbortProof.from_meta(reply.meta) if reply.ok else TaskAbortProof(how="no answer")
        return replace(proof, message="Abort signal has been sent to the current task.")

    def delete_run(self, job_id: str, submissions: Sequence[str] = ()) -> str:
        """Remove the folder of a job's run; return what became of it. May be called again.

        Args:
            submissions: only that of a job that was submitted as one of these; none: whichever it is.
        """
        try:
            path = self.processes.folder(job_id).path
            error = self.processes.delete(job_id, submissions)
        except (ConfigError, TypeError, OSError) as wrong:
            error = str(wrong)
        return f"{ERROR_PREFIX}: {error}" if error else f"Delete run folder: {path}."

    def delete_runs(self, jobs: Mapping[str, Sequence[str]]) -> list[str]:
        """Remove the folders of deleted jobs, as ``delete_run``; a process that still runs is aborted before."""
        done = []
        for job_id, submissions in jobs.items():
            run = self.processes.find(job_id)
            if run is not None and run.live and run.folder.submission in submissions:
                run.abort("the job was deleted").add_done_callback(partial(self._on_aborted, job_id, submissions))
            elif not submissions or self.processes.folder(job_id).submission in submissions:
                done.append(self.delete_run(job_id, submissions))
        return done

    def _on_aborted(self, job_id: str, submissions: Sequence[str], _proof: Future[AbortProof]) -> None:
        logger.info("%s", self.delete_run(job_id, submissions))

    def get_current_run_info(self, job_id: str) -> ClientRunInfo:
        """How a job stands; the process of a running one is asked for its task."""
        run = self.processes.find(job_id)
        if run is None:
            return ClientRunInfo(job_id=job_id)
        task = ""
        if run.status is ClientStatus.STARTED:
            task = str(self._ask_job(job_id, PingRun(run=run.record.run), _ASK_WITHIN).meta.get("task", ""))
        return ClientRunInfo(
            job_id=job_id, current_task_name=task, start_time=run.record.launched or None, status=run.status
        )

    def get_all_job_ids(self) -> list[str]:
        """Return the jobs whose processes run."""
        return [job_id for job_id, record in self.processes.records().items() if record.status.live]

    def notify_job_status(self, job_id: str, job_status: int, run: str | None = None) -> None:
        """Handle a status event from a job's process; ignored unless its run is ``run`` (None: any)."""
        self.processes.note_status(job_id, job_status, run)

    def send_to_job(
        self, job_id: str, channel: str, topic: str, msg: Any, timeout: float, optional: bool = False
    ) -> Reply:
        """Ask the cell of a job's process, and wait for its reply.

        Args:
            msg: a Shareable; or a dict, which becomes the meta; or None.
            optional: a failure is logged at DEBUG only.

        Returns:
            the reply; its rc is TIMEOUT, ABORTED or COMM_ERROR when none came.
        """
        meta, data = to_message(msg) if isinstance(msg, Shareable) else (dict(msg or {}), None)
        try:
            if self.cell is None:
                raise ConfigError("the client parent has no cell: initialize_comm was not called")
            target = FQCN.join([self.client_name, job_id])
            reply = self.cell.send_request(channel, topic, target, meta, data, timeout=timeout)
        except RedflareError as error:
            reply = Reply(ReplyCode.COMM_ERROR, {"error": str(error)})
        if not reply.ok:
            level = logging.DEBUG if optional else logging.WARNING
            logger.log(level, "job %s answered %s/%s with %s: %s", job_id, channel, topic, reply.rc, reply.error)
        return reply

    # -- messages and streams: always to the server --------------------------------------------------------------------

    def send_aux_request(  # type: ignore[override]
        self,
        topic: str,
        request: Shareable,
        timeout: float,
        fl_ctx: FLContext,
        optional: bool = False,
        secure: bool = False,
    ) -> Shareable:
        """Ask the server's parent process, and return its reply; an empty Shareable when the timeout is 0."""
        replies = super().send_aux_request(None, topic, request, timeout, fl_ctx, optional, secure)
        return next(iter(replies.values()), Shareable())

    def fire_and_forget_aux_request(  # type: ignore[override]
        self, topic: str, request: Shareable, fl_ctx: FLContext, optional: bool = False, secure: bool = False
    ) -> Shareable:
        """Send to the server's parent process without a reply; return an empty Shareable."""
        return self.send_aux_request(topic, request, 0.0, fl_ctx, optional, secure)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _ask_job(self, job_id: str, message: JobControl, timeout: float) -> Reply:
        return self.send_to_job(job_id, message.CHANNEL, message.TOPIC, message.to_meta(), timeout, optional=True)

    def _request_end(self, job_id: str, run: str, reason: str) -> None:
        if self.cell is None:
            return
        message = AbortRun(run=run, reason=reason)
        target = FQCN.join([self.client_name, job_id])
        try:
            self.cell.fire_and_forget(message.CHANNEL, message.TOPIC, target, message.to_meta())
        except RedflareError as error:
            logger.warning("job %s: cannot ask its process to end: %s", job_id, error)

    def _notify_agents(self, agents: list[str], pid: int, reason: str) -> dict[str, str]:
        return {} if self.cell is None else notify_agents(self.cell.server, self.settings, agents, pid, reason)

    def _on_run_ended(self, record: RunRecord) -> None:
        self._free(record.job)
        self._fire(EventType.JOB_COMPLETED, record.job)

    def _free(self, job_id: str) -> None:
        manager, resources, token = self._resources.pop(job_id, (None, None, None))
        if manager is not None:
            try:
                manager.free_resources(resources=resources, token=token, fl_ctx=self.new_context())
            except Exception:
                logger.exception("cannot free the resources of job %s", job_id)

    def _fire(self, event_type: str, job_id: str = "") -> None:
        with self.new_context() as fl_ctx:
            if job_id:
                fl_ctx.set_prop(FLContextKey.CURRENT_JOB_ID, job_id, private=True, sticky=False)
            self.fire_event(event_type, fl_ctx)
