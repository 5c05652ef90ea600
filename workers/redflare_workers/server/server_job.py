"""``ServerJob``: runs a controller for one job, and serves the sites that take part in it.

``run`` blocks until the controller comes to its end. If the process dies, the next ``ServerJob`` of the same name takes
over: a controller that can resume goes on from its last checkpoint, any other begins anew.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from redflare_broker.cell import LATER, Answer, Cell
from redflare_broker.errors import Fenced, JobEnded, JobLost, RedflareError, Unavailable
from redflare_broker.fqcn import FQCN
from redflare_broker.journal import Journal, Recovered
from redflare_broker.keys import Keys
from redflare_broker.pool import Pool
from redflare_broker.request import Request
from redflare_broker.roll import Roll, RollCall, RollEntry, ServerHold
from redflare_broker.settings import LinkSettings, load_settings

from ..apis.client import Client
from ..apis.event_type import EventType
from ..apis.fl_context import FLContext
from ..hub import Hub, close_hub, open_hub
from ..job_outcome import ABORTED, COMPLETED, FAILED, FENCED, JobOutcome
from ..job_protocol import CHANNEL, GET_TASK, JOB_ENDED, SUBMIT
from ..panic_listener import PanicListener
from ..workflow.controller import Controller
from ..workflow.wf_comm_server import WFCommServer
from .ledgers import Ledgers
from .payloads import Payloads
from .recovery import Recovery
from .roll_caller import RollCaller
from .roster import Roster
from .server_engine import ServerEngine
from .task_desk import TaskDesk

__all__ = ["ServerJob"]

logger = logging.getLogger(__name__)

#: Seconds that requests in hand have to end, once the job is over.
_END_WITHIN: Final = 10.0


class ServerJob:
    """One job at the server; ``run`` it, once.

    Args:
        controller: the workflow.
        redis_url: any form of ``redflare_broker.url``.
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
        self._redis_url = redis_url
        self._client = client
        self._keys = Keys(self.settings.namespace).job(self.fqcn)
        self._roll = Roll(self._keys, self.settings.policy)
        self._pool = Pool(f"redflare-job-{self.fqcn}")
        self._guard = threading.Lock()
        self._outcome: JobOutcome | None = None
        self._desk: TaskDesk | None = None
        self._roster: Roster | None = None
        self._ledgers: Ledgers | None = None
        self._payloads: Payloads | None = None
        #: requests that came before there was a desk
        self._early: list[Request] = []
        self._hold: ServerHold | None = None

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
            cell.start()
            try:
                outcome = self._serve(hub, cell)
            finally:
                cell.stop()
        finally:
            self._pool.close(_END_WITHIN)
            close_hub(hub)
        logger.info("%s: %s", self, outcome)
        return outcome

    def abort(self, reason: str = "abort was called") -> None:
        """From any thread: end the job; its controller is told by the abort signal."""
        self._end(JobOutcome(status=ABORTED, reason=reason))

    # -- the run -------------------------------------------------------------------------------------------------------

    def _serve(self, hub: Hub, cell: Cell) -> JobOutcome:
        recovered = self._begin(hub, cell)
        caller = RollCaller(
            self._keys, self._roll, self._held, self.settings.heartbeat_interval, lambda call: self._on_roll(hub, call)
        )
        hub.heartbeats.add(caller)
        try:
            self._open_desk(hub, cell, recovered)
            self._run_controller()
        except (KeyboardInterrupt, SystemExit):
            if not self.controller.resume:
                self._end(JobOutcome(status=ABORTED, reason="the server was interrupted"))
            self._close(hub, cell)
            raise
        except Exception as error:
            logger.exception("%s failed", self)
            self._end(JobOutcome(status=FAILED, reason=f"{type(error).__name__}: {error}"))
        finally:
            hub.heartbeats.remove(caller)
        self._end(JobOutcome(status=COMPLETED))
        return self._close(hub, cell)

    def _begin(self, hub: Hub, cell: Cell) -> Recovered:
        """Take the job over; what a predecessor has left."""
        self._hold = ServerHold(instance=cell.instance, epoch=cell.epoch, run=uuid.uuid4().hex)
        resume = self.controller.resume
        began = hub.server.run(self._keys.job, lambda lane: self._roll.begin(lane, self._held, resume=resume))
        journal = Journal(
            hub.server,
            self._keys,
            self._held,
            self.settings.policy,
            resume=resume,
            stop=lambda: self._outcome is not None,
        )
        self._payloads = Payloads(hub.server, journal, self.settings, lambda: self._outcome is not None)
        recovered = journal.recover() if began.resumed and resume else Recovered()
        self._payloads.discard_orphans()
        if recovered.state is not None:
            _, state = recovered.state
            self.controller.restore(state.open(hub.server, self.settings.limits))
            logger.info(
                "%s goes on from checkpoint %d of run %s, with %d tasks",
                self,
                recovered.checkpoint,
                began.previous,
                len(recovered.tasks),
            )
        self._ledgers = Ledgers(
            journal,
            self._payloads,
            Recovery(recovered.tasks, restored=recovered.state is not None),
            self._pool,
            self.communicator.schedule_of,
            self._client_of,
        )
        return recovered

    def _open_desk(self, hub: Hub, cell: Cell, recovered: Recovered) -> None:
        assert self._ledgers is not None
        self._roster = Roster(
            self.job_id,
            lambda: self._read_roll(hub),
            self._on_silent,
            self._on_alive,
            lambda name: desk.may_ask({name}),
            self.engine.clients_changed,
        )
        desk = TaskDesk(
            self.communicator,
            self.engine,
            self._roster,
            self._ledgers,
            hub.server,
            self.settings,
            self._pool,
            lambda cells, topic, meta: cell.fire_and_forget(CHANNEL, topic, cells, meta),
        )
        self._roster.update(self._read_roll(hub))
        self.communicator.observer = self._ledgers
        self.controller.set_communicator(self.communicator)
        self.engine.add_component("controller", self.controller)
        self.engine.add_component("communicator", self.communicator)
        self.engine.add_component("panics", PanicListener(self._on_panic))
        with self.engine.new_context() as fl_ctx:
            self.communicator.initialize_run(fl_ctx)
        with self._guard:
            self._desk = desk
            early, self._early = self._early, []
        for request in early:
            self._pool.submit(lambda request=request: self._answer(request))  # type: ignore[misc]

    def _run_controller(self) -> None:
        with self.engine.new_context() as fl_ctx:
            try:
                self._fire(EventType.ABOUT_TO_START_RUN, fl_ctx)
                self._fire(EventType.START_RUN, fl_ctx)
                self.controller.initialize(fl_ctx)
                self._fire(EventType.START_WORKFLOW, fl_ctx)
                if not self.engine.abort_signal.triggered:
                    self.controller.control_flow(self.engine.abort_signal, fl_ctx)
                self._fire(EventType.END_WORKFLOW, fl_ctx)
                self.controller.finalize(fl_ctx)
            finally:
                self.communicator.finalize_run(fl_ctx)
                self._fire(EventType.ABOUT_TO_END_RUN, fl_ctx)
                self._fire(EventType.END_RUN, fl_ctx)

    def _close(self, hub: Hub, cell: Cell) -> JobOutcome:
        """Tell everybody how it ended, unless a successor goes on."""
        outcome = self._outcome
        if outcome is None:
            return JobOutcome(status=ABORTED, reason="the server was interrupted; the job can be resumed")
        if outcome.status == FENCED:
            return outcome
        reason = str(outcome)
        if self._ledgers is not None:
            self._ledgers.abandon()
        if self._desk is not None:
            self._desk.close(reason)
        try:
            hub.server.run(
                self._keys.job, lambda lane: self._roll.end(lane, self._held, outcome.status, reason), stop=lambda: True
            )
            if self._roster is not None and (cells := self._roster.cells()):
                names = [client.name for client in self._clients()]
                cell.fire_and_forget(CHANNEL, JOB_ENDED, cells, {"clients": names, "reason": reason})
            if self._payloads is not None:
                self._payloads.release_all()
        except RedflareError as error:
            logger.warning("%s: Redis could not be told that it has ended: %s", self, error)
        return outcome

    def _fire(self, event_type: str, fl_ctx: FLContext) -> None:
        self.engine.fire_event(event_type, fl_ctx)

    def _end(self, outcome: JobOutcome) -> None:
        with self._guard:
            if self._outcome is not None:
                return
            self._outcome = outcome
        self.engine.abort_signal.trigger(outcome.reason or outcome.status)

    def _on_panic(self, reason: str) -> None:
        logger.error("%s: panic: %s", self, reason)
        self._end(JobOutcome(status=FAILED, reason=reason))

    def _on_fenced(self) -> None:
        logger.error("%s: another server has taken over this job; this one stops", self)
        self._end(JobOutcome(status=FENCED, reason="another server has taken over this job"))

    # -- requests ------------------------------------------------------------------------------------------------------

    def _on_request(self, request: Request) -> Answer:
        with self._guard:
            if self._desk is None:
                # this server has just begun
                self._early.append(request)
                return LATER
        return self._desk.get_task(request) if request.topic == GET_TASK else self._desk.submit(request)

    def _answer(self, request: Request) -> None:
        answer = self._on_request(request)
        if answer is not LATER and answer is not None:
            rc, meta, data = answer
            request.reply(rc, meta, data)

    # -- clients -------------------------------------------------------------------------------------------------------

    @property
    def _held(self) -> ServerHold:
        assert self._hold is not None
        return self._hold

    def _clients(self) -> list[Client]:
        return self._roster.clients() if self._roster else []

    def _client_of(self, name: str) -> Client:
        return next((client for client in self._clients() if client.name == name), Client(name, ""))

    def _read_roll(self, hub: Hub) -> tuple[RollEntry, ...]:
        call = hub.server.run(self._keys.job, lambda lane: self._roll.roll_call(lane, self._held))
        return call.entries

    def _on_roll(self, hub: Hub, call: RollCall) -> None:
        """What the heartbeat thread has read; users' code runs in other threads."""
        if call.word == "OK":
            self._pool.submit(lambda: self._look_after(call))
        elif call.word == "FENCED":
            self._on_fenced()
        elif call.word == "ENDED":
            self.abort(call.reason or "the job was ended in Redis")
        else:
            self._pool.submit(lambda: self._begin_again(hub))

    def _look_after(self, call: RollCall) -> None:
        if self._roster is not None:
            self._roster.update(call.entries)
        if self._payloads is not None:
            self._payloads.renew()

    def _begin_again(self, hub: Hub) -> None:
        """Redis has lost the job: put there again what stands."""
        try:
            hub.server.run(
                self._keys.job,
                lambda lane: self._roll.begin(lane, self._held),
                stop=lambda: self._outcome is not None,
            )
        except Fenced:
            self._on_fenced()
        except (JobLost, Unavailable) as error:
            logger.debug("%s: not begun again yet: %s", self, error)
        except JobEnded as error:
            self.abort(str(error))
        else:
            logger.warning("%s: Redis had lost this job; it goes on", self)
            if self._ledgers is not None:
                self._ledgers.write_all()

    def _on_silent(self, name: str) -> None:
        with self.engine.new_context() as fl_ctx:
            self.communicator.process_dead_client_report(name, fl_ctx)

    def _on_alive(self, name: str, reason: str) -> None:
        with self.engine.new_context() as fl_ctx:
            self.communicator.client_is_active(name, reason, fl_ctx)

    def __repr__(self) -> str:
        return f"<ServerJob {self.fqcn} {self.controller.name}>"
