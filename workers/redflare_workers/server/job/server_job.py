"""``ServerJob``: runs a controller for one job, and serves the sites that take part in it.

``run`` blocks until the controller comes to its end. If the process dies, the next ``ServerJob`` of the same name takes
over: a controller that can resume goes on from its last checkpoint, any other begins anew.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from redflare_broker.cell.cell import EARLY, Cell, HandlerResult
from redflare_broker.cell.request import Request
from redflare_broker.config.settings import LinkSettings, load_workspace
from redflare_broker.errors import (
    BlobMissing,
    ConfigError,
    DecodeError,
    Fenced,
    JobEnded,
    JobLost,
    RedflareError,
    ServerError,
    Unavailable,
)
from redflare_broker.fqcn import FQCN
from redflare_broker.job_state.awaited_sites import AwaitedSites
from redflare_broker.job_state.members import MemberList, Members
from redflare_broker.job_state.task_store import JobTaskStore, Recovered
from redflare_broker.keys import Keys
from redflare_broker.runtime.shared_connection import SharedConnection
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import ENDED, OK
from redflare_broker.scripts.script import FENCED as MEMBERS_FENCED
from redflare_broker.util.own_calls import OwnCalls
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.engine.panic_listener import PanicListener
from redflare_workers.messaging.switchboard import Switchboard
from redflare_workers.protocol.job_messages import GetTask, Submit
from redflare_workers.protocol.job_outcome import ABORTED, COMPLETED, FAILED, FENCED, STOPPED, JobOutcome
from redflare_workers.server.shared.job_registration import JobRegistration, MembershipPoller
from redflare_workers.workflow.controller import Controller
from redflare_workers.workspace.site_settings import JOIN_WAIT

from .payloads import Payloads
from .recovery import Recovery
from .server_engine import ServerEngine
from .serving_job import ServingJob
from .start_gate import Attendance, StartGate

logger = logging.getLogger(__name__)

#: Seconds for requests in hand to end, once the job is over, and for Redis to be told of the end.
_END_WITHIN: Final = 10.0
#: The outcomes that leave the job to another server.
_LEFT: Final = (FENCED, STOPPED)
_TAKEN_OVER: Final = JobOutcome(status=FENCED, reason="another server has taken over this job")


class ServerJob:
    """One job at the server; ``run`` it, once.

    Args:
        controller: the workflow.
        redis_url: any form of ``redflare_broker.transport.url``.
        job_id: name of the job, by which sites take part.
        server_name: the server's name, first part of its cell's FQCN.
        job_meta: ``min_clients``, ``mandatory_clients``, and all that components read.
        components: further components by id. They hear events, and so do those in arguments of all that takes part.
        communicator: instead of one with NVFlare's grace periods.
        workspace_dir: folder with ``comm_config.json`` and ``startup/``, and for files of components.
        secure_mode: ``startup/rootCA.pem`` must be there.
        settings: instead of those in the workspace.
        client: a redis-py or fakeredis client to use instead of the URL.
        prepare: called with the cell before it starts, to register further handlers.
        participants: the sites that the job was deployed to; the controller begins when they have joined.
        join_wait: seconds after which ``min_clients`` and the ``mandatory_clients`` of ``job_meta`` will do.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        redis_url: str = "",
        job_id: str = "job",
        server_name: str = "server",
        job_meta: Mapping[str, Any] | None = None,
        components: Mapping[str, object] | None = None,
        communicator: WFCommServer | None = None,
        workspace_dir: str | Path = ".",
        secure_mode: bool = False,
        settings: LinkSettings | None = None,
        client: Any = None,
        prepare: Callable[[Cell], object] = lambda cell: None,
        participants: Sequence[str] = (),
        join_wait: float = JOIN_WAIT,
    ) -> None:
        self.controller = controller
        self.job_id = job_id
        self.fqcn = FQCN.join([server_name, job_id])
        self.settings = settings or load_workspace(workspace_dir, secure_mode)
        self.communicator = communicator or WFCommServer()
        self.engine = ServerEngine(
            server_name, job_id, job_meta or {}, components or {}, self._clients, self._cell_of, workspace_dir
        )
        self._redis_url = redis_url
        self._client = client
        self._prepare = prepare
        self._gate = StartGate(job_id, Attendance.of(job_meta or {}, participants), join_wait, self._note_awaited)
        self._keys = Keys(self.settings.namespace).job(self.fqcn)
        self._members = Members(self._keys, self.settings.policy)
        self._pool = ElasticThreadPool(f"redflare-job-{self.fqcn}")
        self._guard = threading.Lock()
        self._own_calls = OwnCalls()
        self._outcome: JobOutcome | None = None
        #: The workflow has come to its end; what components do at the end of the run is all that is left.
        self._finished = False
        #: The job, once it has begun and can answer requests.
        self._serving: ServingJob | None = None
        #: The controller goes on where its predecessor was: its sites are known.
        self._restored = False
        #: Requests that came before.
        self._early: list[Request] = []

    # -- for others ----------------------------------------------------------------------------------------------------

    def run(self) -> JobOutcome:
        """Run the controller to its end.

        An interrupt (Ctrl-C) ends the job, unless its controller can resume: then it is left to the next ``ServerJob``.

        Raises:
            ConfigError: a ValueError; a name, the URL or a setting is wrong.
            PreflightError: Redis is not fit.
            ServerError: Redis refuses this user.
        """
        with self._own_calls.entered():
            return self._run()

    def _run(self) -> JobOutcome:
        shared = SharedConnection.acquire(self._redis_url, self.settings.connection, self._client)
        try:
            cell = Cell(
                shared.server,
                self.fqcn,
                self.settings,
                heartbeats=shared.heartbeats,
                subscribe=shared.subscribe,
                peers=self._gate.attendance.participants,
            )
            cell.preflight = lambda: shared.preflight_cell(self.settings, self.fqcn)
            cell.on_fenced = self._on_fenced
            cell.on_loss = self._check_registration
            for message in (GetTask, Submit):
                cell.register_request_cb(message.CHANNEL, message.TOPIC, self._on_request)
            self._prepare(cell)
            messenger = self.engine.messenger
            messenger.open(cell, Switchboard(cell), listen=False)
            try:
                outcome = self._serve(shared, cell) if self._start(cell) else self._ended
            finally:
                messenger.close(keep=self._is_left())
                cell.stop()
        finally:
            self._pool.close(_END_WITHIN)
            shared.release()
        logger.info("%s: %s", self, outcome)
        return outcome

    def abort(self, reason: str = "abort was called") -> None:
        """End the job, from any thread or a signal handler; the abort signal tells its controller."""
        self._end_from_outside(JobOutcome(status=ABORTED, reason=reason))

    def leave(self, reason: str = "the server was stopped") -> None:
        """End this run, as ``abort``, and leave the job to the next ``ServerJob``; the outcome is STOPPED.

        Sites wait for it. Only a controller that can resume goes on where this one was.
        """
        self._end_from_outside(JobOutcome(status=STOPPED, reason=reason))

    def _end_from_outside(self, outcome: JobOutcome) -> None:
        self._own_calls.run(partial(self._end, outcome), f"redflare-end-{self.fqcn}")

    def expect(self, participants: Sequence[str]) -> None:
        """Wait for these sites only before the controller begins, because others have failed; from any thread."""
        self._gate.expect(participants)

    # -- the run -------------------------------------------------------------------------------------------------------

    def _start(self, cell: Cell) -> bool:
        """Wait for Redis; return False if the job was aborted meanwhile."""
        with self.engine.abort_signal.add_callback(cell.stop):
            try:
                if not self._is_over():
                    cell.start()
            except (Unavailable, ConfigError):
                # an abort has stopped the cell
                if not self._is_over():
                    raise
        return not self._is_over()

    def _serve(self, shared: SharedConnection, cell: Cell) -> JobOutcome:
        lease = Lease(instance=cell.instance, epoch=cell.epoch, run=uuid.uuid4().hex)
        beat_now = partial(shared.heartbeats.beat_now, cell)
        registration = JobRegistration(shared.server, self._members, lease, beat_now, self._is_over, self._on_loss)
        try:
            job = self._take_over(shared, cell, registration)
        except Fenced:
            self._on_fenced()
            return self._ended
        except (Unavailable, JobLost):
            if self._outcome is None:
                raise
            return self._outcome
        interval = self.settings.heartbeat_interval
        poller = MembershipPoller(registration, interval, self._on_members)
        try:
            self._open(job)
            shared.heartbeats.add(poller)
            self._run_controller(job)
        except (KeyboardInterrupt, SystemExit):
            if self.controller.resume:
                job.journal.leave()
            else:
                self._end(JobOutcome(status=ABORTED, reason="the server was interrupted"))
            self._close(shared, job)
            raise
        except Fenced:
            self._on_fenced()
        except JobEnded as error:
            self.abort(str(error))
        except Exception as error:
            logger.exception("%s failed", self)
            self._end(JobOutcome(status=FAILED, reason=f"{type(error).__name__}: {error}"))
        finally:
            shared.heartbeats.remove(poller)
        self._end(JobOutcome(status=COMPLETED))
        return self._close(shared, job)

    def _take_over(self, shared: SharedConnection, cell: Cell, registration: JobRegistration) -> ServingJob:
        """Begin the job, and restore the controller from what a predecessor has left."""
        resume = self.controller.resume
        began = registration.begin(resume=resume)
        store = JobTaskStore(
            shared.server, self._keys, registration.lease, self.settings.policy, resume=resume, stop=self._is_over
        )
        payloads = Payloads(shared.server, store, registration, self.settings, self._is_over)
        recovered = store.recover() if began.resumed and resume else Recovered()
        payloads.discard_orphans()
        restored = self._restored = self._restore(shared, recovered)
        if restored:
            logger.info(
                "%s resumes from checkpoint %d of run %s, with %d tasks",
                self,
                recovered.checkpoint,
                began.previous,
                len(recovered.tasks),
            )
        job = ServingJob(
            cell=cell,
            server=shared.server,
            registration=registration,
            store=store,
            payloads=payloads,
            recovery=Recovery(recovered.tasks, restored=restored),
            communicator=self.communicator,
            engine=self.engine,
            pool=self._pool,
            begin_again=partial(self._begin_again, registration),
        )
        job.journal.results.resume_history(len(recovered.history) if restored else 0)
        if not restored and (recovered.state is not None or _lacks_results(recovered)):
            logger.error("%s begins anew: Redis has lost the checkpoint, or results that came after it", self)
            job.journal.abandon()
        return job

    def _restore(self, shared: SharedConnection, recovered: Recovered) -> bool:
        """Restore the controller's state; return False if there is none, or it cannot be read."""
        if recovered.state is None:
            return False
        try:
            state = recovered.state[1].decode(shared.server, self.settings.limits)
        except (BlobMissing, DecodeError) as error:
            logger.error("%s: checkpoint %d cannot be read: %s", self, recovered.checkpoint, error)
            return False
        if recovered.history:
            self.controller.restore_appended(list(recovered.history))
        self.controller.restore(state)
        return True

    def _open(self, job: ServingJob) -> None:
        """Connect controller, communicator and clients, and answer requests from now on."""
        job.clients.update(job.read_members())
        self.communicator.observer = job
        self.controller.set_communicator(self.communicator)
        self.engine.add_component("controller", self.controller)
        self.engine.add_component("communicator", self.communicator)
        self.engine.add_component("panics", PanicListener(self._on_panic))
        with self.engine.new_context() as fl_ctx:
            self.communicator.initialize_run(fl_ctx)
        with self._guard:
            self._serving = job
            early, self._early = self._early, []
            if self._outcome is not None and self._outcome.status in _LEFT:
                job.journal.leave()
        for request in early:
            self._pool.submit(partial(request.reply_from, self._on_request))

    def _run_controller(self, job: ServingJob) -> None:
        # a context for each step: props that are not sticky do not reach the next one
        try:
            self.engine.make_app_dir()
            if not self._restored:
                self._gate.wait(self.engine, self.engine.abort_signal)
            with self.engine.new_context() as fl_ctx:
                self.engine.fire_event(EventType.ABOUT_TO_START_RUN, fl_ctx)
                self.engine.fire_event(EventType.START_RUN, fl_ctx)
            try:
                with self.engine.new_context() as fl_ctx:
                    fl_ctx.set_prop(FLContextKey.WORKFLOW, self.controller.name)
                    self.controller.initialize(fl_ctx)
                    # all components have registered their handlers
                    self.engine.messenger.listen()
                    self.engine.fire_event(EventType.START_WORKFLOW, fl_ctx)
                if not self.engine.abort_signal.triggered:
                    with self.engine.new_context() as fl_ctx:
                        self.controller.control_flow(self.engine.abort_signal, fl_ctx)
                    with self._guard:
                        self._finished = self._outcome is None
            except (Fenced, KeyboardInterrupt, SystemExit) as error:
                if self.controller.resume or isinstance(error, Fenced):
                    job.journal.leave()
                raise
            finally:
                self._stop_controller()
        finally:
            with self.engine.new_context() as fl_ctx:
                self.communicator.finalize_run(fl_ctx)
                self.engine.fire_event(EventType.ABOUT_TO_END_RUN, fl_ctx)
                self.engine.fire_event(EventType.END_RUN, fl_ctx)

    def _stop_controller(self) -> None:
        with self.engine.new_context() as fl_ctx:
            try:
                self.controller.stop_controller(fl_ctx)
            except Exception:
                # the workflow is over, and its outcome is known
                logger.exception("%s: stop_controller failed", self)
            self.communicator.finalize_run(fl_ctx)
            self.engine.fire_event(EventType.END_WORKFLOW, fl_ctx)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _close(self, shared: SharedConnection, job: ServingJob) -> JobOutcome:
        """End the job in Redis and at the sites, unless a successor goes on."""
        outcome = self._outcome
        if outcome is None:
            return JobOutcome(status=ABORTED, reason="the server was interrupted; the job can be resumed")
        if outcome.status in _LEFT:
            return outcome
        reason, lease = str(outcome), job.registration.lease
        deadline = time.monotonic() + _END_WITHIN
        # Redis after the results: it knows whether the job is still ours to end
        job.stop(reason)
        try:
            shared.server.run(
                self._keys.job,
                lambda connection: self._members.end(connection, lease, outcome.status, reason),
                deadline=deadline,
            )
        except Fenced:
            return _TAKEN_OVER
        except RedflareError as error:
            logger.warning("%s: the end of the job could not be written to Redis: %s", self, error)
        job.tell_ended(reason)
        job.payloads.release_all()
        return outcome

    def _end(self, outcome: JobOutcome) -> None:
        with self._guard:
            # a workflow that has come to its end is not left to the next server, which would run its last steps again
            if self._outcome is not None or (self._finished and outcome.status == STOPPED):
                return
            if outcome.status in _LEFT and self._serving is not None:
                # first, or a result could be answered that a failed retry, which ends with the outcome, has not noted
                self._serving.journal.leave()
            self._outcome = outcome
        self.engine.abort_signal.trigger(outcome.reason or outcome.status)

    def _is_over(self) -> bool:
        return self._outcome is not None

    def _is_left(self) -> bool:
        """Whether this run is over, and another server goes on."""
        serving = self._serving
        return serving.journal.left if serving else self._outcome is None or self._outcome.status in _LEFT

    @property
    def _ended(self) -> JobOutcome:
        assert self._outcome is not None
        return self._outcome

    def _on_panic(self, reason: str) -> None:
        logger.error("%s: panic: %s", self, reason)
        self._end(JobOutcome(status=FAILED, reason=reason))

    def _on_fenced(self) -> None:
        logger.error("%s: another server has taken over this job; this one stops", self)
        self._end(_TAKEN_OVER)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _on_request(self, request: Request) -> HandlerResult:
        with self._guard:
            if self._serving is None:
                self._early.append(request)
                return EARLY
        return self._serving.handle(request)

    # -- members -------------------------------------------------------------------------------------------------------

    def _clients(self) -> list[Client]:
        return self._serving.clients.clients() if self._serving is not None else []

    def _cell_of(self, name: str) -> str | None:
        return self._serving.clients.find_cell(name) if self._serving is not None else None

    def _note_awaited(self, awaited: AwaitedSites | None) -> None:
        assert self._serving is not None
        registration = self._serving.registration
        try:
            registration.retry_after_loss(lambda: registration.note_awaited(awaited))
        except (Unavailable, JobLost, ServerError) as error:
            logger.warning("%s: Redis does not show for whom it waits: %s", self, error)

    def _on_members(self, members: MemberList) -> None:
        """Apply a member list that the heartbeat thread has read; user code runs in other threads."""
        if members.status == OK:
            if self._serving is not None:
                self._pool.submit(partial(self._serving.look_after, members))
        elif members.status == MEMBERS_FENCED:
            self._on_fenced()
        elif members.status == ENDED:
            self.abort(members.reason or "the job was ended in Redis")
        else:
            self._check_registration()

    def _check_registration(self) -> None:
        """Register the job again if Redis has lost it, in another thread."""
        if self._serving is not None:
            self._pool.submit(self._serving.begin_again)

    def _begin_again(self, registration: JobRegistration) -> None:
        if self._is_over():
            return
        try:
            registration.begin_again()
        except Fenced:
            self._on_fenced()
        except JobEnded as error:
            self.abort(str(error))
        except (JobLost, Unavailable) as error:
            logger.debug("%s is not registered again, as it is over: %s", self, error)

    def _on_loss(self) -> None:
        """Write the open tasks again, as Redis had lost them."""
        if self._serving is not None:
            self._serving.journal.write_all()

    def __repr__(self) -> str:
        return f"<ServerJob {self.fqcn} {self.controller.name}>"


def _lacks_results(recovered: Recovered) -> bool:
    """Whether an accepted result is in neither the journal nor the checkpoint."""
    return any(each.received and each.result is None for task in recovered.tasks for each in task.client_tasks)
