"""``ServerJob``: runs a controller for one job, and serves the sites that take part in it.

``run`` blocks until the controller comes to its end. If the process dies, the next ``ServerJob`` of the same name takes
over: a controller that can resume goes on from its last checkpoint, any other begins anew.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from redflare_broker.cell.cell import LATER, Cell, HandlerResult
from redflare_broker.cell.request import Request
from redflare_broker.config.settings import LinkSettings, load_settings
from redflare_broker.errors import (
    BlobMissing,
    DecodeError,
    Fenced,
    JobEnded,
    JobLost,
    RedflareError,
    Unavailable,
)
from redflare_broker.fqcn import FQCN
from redflare_broker.job_state.members import Member, MemberList, Members
from redflare_broker.job_state.task_store import JobTaskStore, Recovered
from redflare_broker.keys import Keys
from redflare_broker.scripts.script import OK
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.engine.panic_listener import PanicListener
from redflare_workers.ipc.shared_connection import SharedConnection, close_hub, open_hub
from redflare_workers.messaging.switchboard import Switchboard
from redflare_workers.protocol.job_messages import CHANNEL, GET_TASK, JOB_ENDED, SUBMIT
from redflare_workers.protocol.job_outcome import ABORTED, COMPLETED, FAILED, FENCED, STOPPED, JobOutcome
from redflare_workers.server.shared.job_registration import JobRegistration
from redflare_workers.server.shared.membership_poll import MembershipPoller
from redflare_workers.workflow.controller import Controller

from .clients import JobClients
from .payloads import Payloads
from .recovery import Recovery
from .result_handler import ResultHandler
from .server_engine import ServerEngine
from .task_handler import TaskHandler
from .task_journal import TaskJournal

__all__ = ["ServerJob"]

logger = logging.getLogger(__name__)

#: Seconds that requests in hand have to end, once the job is over, and that Redis has to be told.
_END_WITHIN: Final = 10.0
#: Seconds that results in hand have of these.
_HANDLED_WITHIN: Final = 5.0


class ServerJob:
    """One job at the server; ``run`` it, once.

    Args:
        controller: the workflow.
        redis_url: any form of ``redflare_broker.transport.url``.
        job_id: name of the job; sites name it to take part.
        server_name: the server's name, first part of its cell's FQCN.
        job_meta: what the job says of itself: ``min_clients``, ``mandatory_clients``, and whatever components read.
        components: further components by id, which hear events.
        communicator: instead of one with NVFlare's grace periods.
        workspace_dir: folder with ``comm_config.json`` and ``startup/``, and for what components write.
        secure_mode: ``startup/rootCA.pem`` must be there.
        settings: instead of those in the workspace.
        client: a redis-py or fakeredis client to use instead of the URL.
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
    ) -> None:
        self.controller = controller
        self.job_id = job_id
        self.fqcn = FQCN.join([server_name, job_id])
        self.settings = settings or load_settings(workspace_dir, secure_mode)
        self.communicator = communicator or WFCommServer()
        self.engine = ServerEngine(server_name, job_id, job_meta or {}, components or {}, self._clients, workspace_dir)
        #: Called with the cell before it starts, to register what it answers besides.
        self.prepare: Callable[[Cell], object] = lambda cell: None
        self._redis_url = redis_url
        self._client = client
        self._keys = Keys(self.settings.namespace).job(self.fqcn)
        self._roll = Members(self._keys, self.settings.policy)
        self._pool = ElasticThreadPool(f"redflare-job-{self.fqcn}")
        self._guard = threading.Lock()
        self._outcome: JobOutcome | None = None
        self._starting: Cell | None = None
        self._desk: TaskHandler | None = None
        self._results: ResultHandler | None = None
        self._roster: JobClients | None = None
        self._ledgers: TaskJournal | None = None
        self._payloads: Payloads | None = None
        #: requests that came before there was a desk
        self._early: list[Request] = []
        self._life: JobRegistration | None = None

    # -- for others ----------------------------------------------------------------------------------------------------

    def run(self) -> JobOutcome:
        """Run the controller to its end.

        An interrupt (Ctrl-C) ends the job, unless its controller can resume: then it is left to the next ``ServerJob``.

        Raises:
            ConfigError: a ValueError; a name, the URL or a setting is wrong.
            PreflightError: the server is not fit.
            ServerError: the server refuses this user.
        """
        hub = open_hub(self._redis_url, self.settings.connection, self._client)
        try:
            cell = Cell(hub.server, self.fqcn, self.settings, heartbeats=hub.heartbeats)
            cell.preflight = lambda: hub.preflight_cell(self.settings, self.fqcn)
            cell.on_fenced = self._on_fenced
            cell.register_request_cb(CHANNEL, GET_TASK, self._on_request)
            cell.register_request_cb(CHANNEL, SUBMIT, self._on_request)
            cell.on_loss = self._look_for_loss
            self.prepare(cell)
            messenger = self.engine.messenger
            messenger.open(cell, Switchboard(cell), listen=False)
            try:
                outcome = self._serve(hub, cell) if self._start(cell) else self._ended
            finally:
                messenger.close()
                cell.stop()
        finally:
            self._pool.close(_END_WITHIN)
            close_hub(hub)
        logger.info("%s: %s", self, outcome)
        return outcome

    def abort(self, reason: str = "abort was called") -> None:
        """From any thread: end the job; its controller is told by the abort signal."""
        self._end(JobOutcome(status=ABORTED, reason=reason))

    def leave(self, reason: str = "the server was stopped") -> None:
        """From any thread: end this run and leave the job to the next ``ServerJob``; the outcome is STOPPED.

        Sites wait for it. Only a controller that can resume goes on where this one was.
        """
        self._end(JobOutcome(status=STOPPED, reason=reason))

    # -- the run -------------------------------------------------------------------------------------------------------

    def _start(self, cell: Cell) -> bool:
        """Wait for Redis; False: the job was aborted meanwhile."""
        with self._guard:
            if self._outcome is not None:
                return False
            self._starting = cell
        try:
            cell.start()
        except Unavailable:
            if self._outcome is None:
                raise
            return False
        finally:
            with self._guard:
                self._starting = None
        return self._outcome is None

    def _serve(self, hub: SharedConnection, cell: Cell) -> JobOutcome:
        self._life = life = JobRegistration(
            hub.server, self._roll, cell, uuid.uuid4().hex, lambda: hub.heartbeats.beat_now(cell), self._is_over
        )
        caller = MembershipPoller(self._keys, self._roll, life.lease, self.settings.heartbeat_interval, self._on_roll)
        try:
            recovered = self._begin(hub, life)
        except Fenced:
            self._on_fenced()
            return self._ended
        except (Unavailable, JobLost):
            if self._outcome is None:
                raise
            return self._outcome
        try:
            hub.heartbeats.add(caller)
            self._open_desk(hub, cell, recovered)
            self._run_controller()
        except (KeyboardInterrupt, SystemExit):
            if not self.controller.resume:
                self._end(JobOutcome(status=ABORTED, reason="the server was interrupted"))
            self._close(hub, cell, life)
            raise
        except Fenced:
            self._on_fenced()
        except JobEnded as error:
            self.abort(str(error))
        except Exception as error:
            logger.exception("%s failed", self)
            self._end(JobOutcome(status=FAILED, reason=f"{type(error).__name__}: {error}"))
        finally:
            hub.heartbeats.remove(caller)
        self._end(JobOutcome(status=COMPLETED))
        return self._close(hub, cell, life)

    def _begin(self, hub: SharedConnection, life: JobRegistration) -> Recovered:
        """Take the job over; what a predecessor has left."""
        resume = self.controller.resume
        began = life.begin(resume=resume)
        journal = JobTaskStore(
            hub.server, self._keys, life.lease, self.settings.policy, resume=resume, stop=self._is_over
        )
        self._payloads = Payloads(hub.server, journal, life, self.settings, self._is_over)
        recovered = journal.recover() if began.resumed and resume else Recovered()
        self._payloads.discard_orphans()
        restored = self._restore(hub, recovered)
        if restored:
            logger.info(
                "%s goes on from checkpoint %d of run %s, with %d tasks",
                self,
                recovered.checkpoint,
                began.previous,
                len(recovered.tasks),
            )
        self._ledgers = TaskJournal(
            journal,
            life,
            self._payloads,
            Recovery(recovered.tasks, restored=restored),
            self._pool,
            self.communicator.schedule_of,
            self.communicator.protect_again,
            self._client_of,
        )
        life.on_loss = self._ledgers.write_all
        if not restored and (recovered.state is not None or _lacks_results(recovered)):
            logger.error("%s begins anew: Redis has lost the state, or results, that its tasks belong to", self)
            self._ledgers.abandon()
        return recovered

    def _restore(self, hub: SharedConnection, recovered: Recovered) -> bool:
        """Give the controller its state back; False: there is none, or none that can be read."""
        if recovered.state is None:
            return False
        try:
            state = recovered.state[1].open(hub.server, self.settings.limits)
        except (BlobMissing, DecodeError) as error:
            logger.error("%s: the state of checkpoint %d cannot be read: %s", self, recovered.checkpoint, error)
            return False
        self.controller.restore(state)
        return True

    def _open_desk(self, hub: SharedConnection, cell: Cell, recovered: Recovered) -> None:
        assert self._ledgers is not None
        self._roster = JobClients(
            self.job_id,
            self._read_roll,
            self._on_silent,
            self._on_alive,
            lambda name: desk.may_ask({name}),
            self.engine.clients_changed,
        )
        results = ResultHandler(
            self.communicator, self.engine, self._roster, self._ledgers, hub.server, self.settings, self._pool
        )
        desk = TaskHandler(
            self.communicator,
            self.engine,
            self._roster,
            self._ledgers,
            results,
            self._pool,
            lambda cells, topic, meta: cell.fire_and_forget(CHANNEL, topic, cells, meta),
        )
        self.engine.cell_of = self._cell_of
        self._roster.update(self._read_roll())
        self.communicator.observer = self._ledgers
        self.controller.set_communicator(self.communicator)
        self.engine.add_component("controller", self.controller)
        self.engine.add_component("communicator", self.communicator)
        self.engine.add_component("panics", PanicListener(self._on_panic))
        with self.engine.new_context() as fl_ctx:
            self.communicator.initialize_run(fl_ctx)
        with self._guard:
            self._desk, self._results = desk, results
            early, self._early = self._early, []
        for request in early:
            self._pool.submit(lambda request=request: self._answer(request))  # type: ignore[misc]

    def _run_controller(self) -> None:
        # a context for each step: what is not sticky does not reach the next one
        try:
            self.engine.make_app_dir()
            with self.engine.new_context() as fl_ctx:
                self._fire(EventType.ABOUT_TO_START_RUN, fl_ctx)
                self._fire(EventType.START_RUN, fl_ctx)
            try:
                with self.engine.new_context() as fl_ctx:
                    fl_ctx.set_prop(FLContextKey.WORKFLOW, self.controller.name)
                    self.controller.initialize(fl_ctx)
                    # all who register handlers have done so
                    self.engine.messenger.listen()
                    self._fire(EventType.START_WORKFLOW, fl_ctx)
                if not self.engine.abort_signal.triggered:
                    with self.engine.new_context() as fl_ctx:
                        self.controller.control_flow(self.engine.abort_signal, fl_ctx)
            except (Fenced, KeyboardInterrupt, SystemExit) as error:
                if self._ledgers is not None and (self.controller.resume or isinstance(error, Fenced)):
                    self._ledgers.leave()
                raise
            finally:
                self._stop_controller()
        finally:
            with self.engine.new_context() as fl_ctx:
                self.communicator.finalize_run(fl_ctx)
                self._fire(EventType.ABOUT_TO_END_RUN, fl_ctx)
                self._fire(EventType.END_RUN, fl_ctx)

    def _stop_controller(self) -> None:
        with self.engine.new_context() as fl_ctx:
            try:
                self.controller.stop_controller(fl_ctx)
            except Exception:
                # the workflow is over, and how it ended is known
                logger.exception("%s: stop_controller failed", self)
            self.communicator.finalize_run(fl_ctx)
            self._fire(EventType.END_WORKFLOW, fl_ctx)

    def _close(self, hub: SharedConnection, cell: Cell, life: JobRegistration) -> JobOutcome:
        """Tell everybody how it ended, unless a successor goes on."""
        outcome = self._outcome
        if outcome is None:
            return JobOutcome(status=ABORTED, reason="the server was interrupted; the job can be resumed")
        if outcome.status in (FENCED, STOPPED):
            return outcome
        reason = str(outcome)
        deadline = time.monotonic() + _END_WITHIN
        # what is in hand first, or its payloads would be nobody's; then Redis, which knows whether it is ours to end
        if self._results is not None:
            self._results.close(reason, _HANDLED_WITHIN)
        if self._ledgers is not None:
            self._ledgers.abandon()
            self._ledgers.close()
        try:
            hub.server.run(
                self._keys.job,
                lambda connection: self._roll.end(connection, life.lease, outcome.status, reason),
                deadline=deadline,
            )
        except Fenced:
            return JobOutcome(status=FENCED, reason="another server has taken over this job")
        except RedflareError as error:
            logger.warning("%s: Redis could not be told that it has ended: %s", self, error)
        self._tell_ended(cell, reason)
        if self._payloads is not None:
            self._payloads.release_all()
        return outcome

    def _tell_ended(self, cell: Cell, reason: str) -> None:
        """Answer the clients that wait, and send the others word."""
        answered = self._desk.close(reason) if self._desk is not None else set()
        others = self._roster.by_cell(answered) if self._roster is not None else {}
        for fqcn, names in others.items():
            try:
                cell.fire_and_forget(CHANNEL, JOB_ENDED, fqcn, {"clients": names, "reason": reason})
            except RedflareError as error:
                logger.warning("%s: cell %s is not told that it has ended: %s", self, fqcn, error)

    def _fire(self, event_type: str, fl_ctx: FLContext) -> None:
        self.engine.fire_event(event_type, fl_ctx)

    def _end(self, outcome: JobOutcome) -> None:
        with self._guard:
            if self._outcome is not None:
                return
            self._outcome, starting = outcome, self._starting
        if outcome.status in (FENCED, STOPPED) and self._ledgers is not None:
            self._ledgers.leave()
        self.engine.abort_signal.trigger(outcome.reason or outcome.status)
        if starting is not None:
            starting.stop()

    def _is_over(self) -> bool:
        return self._outcome is not None

    @property
    def _ended(self) -> JobOutcome:
        assert self._outcome is not None
        return self._outcome

    def _on_panic(self, reason: str) -> None:
        logger.error("%s: panic: %s", self, reason)
        self._end(JobOutcome(status=FAILED, reason=reason))

    def _on_fenced(self) -> None:
        logger.error("%s: another server has taken over this job; this one stops", self)
        self._end(JobOutcome(status=FENCED, reason="another server has taken over this job"))

    # -- requests ------------------------------------------------------------------------------------------------------

    def _on_request(self, request: Request) -> HandlerResult:
        with self._guard:
            if self._desk is None or self._results is None:
                # this server has just begun
                self._early.append(request)
                return LATER
        return self._desk.get_task(request) if request.topic == GET_TASK else self._results.submit(request)

    def _answer(self, request: Request) -> None:
        answer = self._on_request(request)
        if answer is not LATER and answer is not None:
            rc, meta, data = answer
            request.reply(rc, meta, data)

    # -- clients -------------------------------------------------------------------------------------------------------

    def _clients(self) -> list[Client]:
        return self._roster.clients() if self._roster else []

    def _cell_of(self, name: str) -> str | None:
        """FQCN of the cell of a client; None: it has not joined."""
        assert self._roster is not None
        if (found := self._roster.cell_of(name)) is None:
            # it may have joined since the roll was read
            self._roster.update(self._read_roll())
            found = self._roster.cell_of(name)
        return found

    def _client_of(self, name: str) -> Client:
        return next((client for client in self._clients() if client.name == name), Client(name, ""))

    def _read_roll(self) -> tuple[Member, ...]:
        assert self._life is not None
        call = self._life.call_roll()
        if call.status == "LOST":
            self._begin_again()
            call = self._life.call_roll()
        return call.members

    def _on_roll(self, call: MemberList) -> None:
        """What the heartbeat thread has read; users' code runs in other threads."""
        if call.status == OK:
            self._pool.submit(lambda: self._look_after(call))
        elif call.status == "FENCED":
            self._on_fenced()
        elif call.status == "ENDED":
            self.abort(call.reason or "the job was ended in Redis")
        else:
            self._look_for_loss()

    def _look_after(self, call: MemberList) -> None:
        if self._roster is not None:
            self._roster.update(call.members)
        if self._payloads is not None:
            self._payloads.renew()

    def _look_for_loss(self) -> None:
        self._pool.submit(self._begin_again)

    def _begin_again(self) -> None:
        """Redis has lost the job, it seems: put there again what stands."""
        if self._life is None or self._is_over():
            return
        try:
            self._life.begin_again()
        except Fenced:
            self._on_fenced()
        except JobEnded as error:
            self.abort(str(error))
        except (JobLost, Unavailable) as error:
            logger.debug("%s: not begun again, it is over: %s", self, error)

    def _on_silent(self, name: str) -> None:
        with self.engine.new_context() as fl_ctx:
            self.communicator.process_dead_client_report(name, fl_ctx)

    def _on_alive(self, name: str, reason: str) -> None:
        with self.engine.new_context() as fl_ctx:
            self.communicator.client_is_active(name, reason, fl_ctx)

    def __repr__(self) -> str:
        return f"<ServerJob {self.fqcn} {self.controller.name}>"


def _lacks_results(recovered: Recovered) -> bool:
    """Whether results were accepted that are neither kept nor part of a state that is."""
    return any(each.received and each.result is None for task in recovered.tasks for each in task.client_tasks)
