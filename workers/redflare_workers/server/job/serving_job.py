"""``ServingJob``: a job that has begun: its clients, its journal, and the handlers of its requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from redflare_broker.cell.cell import LATER, Cell, HandlerResult
from redflare_broker.cell.request import ReplyCode, Request
from redflare_broker.errors import RedflareError
from redflare_broker.job_state.members import Member, MemberList
from redflare_broker.job_state.task_store import JobTaskStore, TaskRecord
from redflare_broker.scripts.script import LOST
from redflare_broker.transport.server import Server
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.communicator.comm_observer import CommObserver
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.protocol.job_messages import (
    GetTask,
    JobEndEvent,
    Refusal,
    ServerEvent,
    Submit,
    TasksEndEvent,
)
from redflare_workers.server.shared.job_registration import JobRegistration

from .clients import JobClients
from .payloads import Payloads
from .recovery import Recovery
from .result_handler import ResultHandler
from .server_engine import ServerEngine
from .task_handler import TaskHandler
from .task_journal import TaskJournal

logger = logging.getLogger(__name__)

#: Seconds for results in hand when the job ends.
_RESULTS_WITHIN: Final = 5.0

M = TypeVar("M", GetTask, Submit)


@dataclass(slots=True, kw_only=True, eq=False)
class ServingJob(CommObserver):
    """Complete as soon as it is made. Hears from the communicator and of the clients, and passes it on."""

    #: the server's
    cell: Cell
    server: Server
    #: of the job in Redis
    registration: JobRegistration
    #: of its tasks
    store: JobTaskStore
    payloads: Payloads
    #: of a predecessor's tasks
    recovery: Recovery
    #: schedules the controller's tasks
    communicator: WFCommServer
    #: of the controller
    engine: ServerEngine
    #: for work that must not block a cell or the communicator
    pool: ElasticThreadPool
    #: registers the job again when Redis has lost it, or ends this run
    begin_again: Callable[[], None]
    clients: JobClients = field(init=False)
    journal: TaskJournal = field(init=False)
    results: ResultHandler = field(init=False)
    tasks: TaskHandler = field(init=False)
    _handlers: dict[str, Callable[[Request], HandlerResult]] = field(init=False)

    def __post_init__(self) -> None:
        comm, engine, pool = self.communicator, self.engine, self.pool
        clients = self.clients = JobClients(engine.job_id, self.read_members, self)
        journal = self.journal = TaskJournal(
            self.store, self.registration, self.payloads, self.recovery, comm, clients, pool
        )
        limits = self.cell.settings.limits
        self.results = ResultHandler(comm, engine, clients, journal, self.server, limits, pool)
        self.tasks = TaskHandler(comm, engine, clients, journal, pool)
        self._handlers = {
            GetTask.TOPIC: partial(_decode_and_handle, GetTask, self.tasks.get_task),
            Submit.TOPIC: partial(_decode_and_handle, Submit, self.results.submit),
        }

    # -- clients -------------------------------------------------------------------------------------------------------

    def handle(self, request: Request) -> HandlerResult:
        """Answer a request of a client; once the job is left to another server, that one does."""
        if self.journal.left:
            # its entry stays in the inbox
            return LATER
        handler = self._handlers.get(request.topic)
        if handler is None:
            text = f"{request.topic} from {request.origin} is refused: the job has no handler for it"
            request.note_fault("unknown topic", text)
            return ReplyCode.TOPIC_UNKNOWN, {"error": f"no handler for topic {request.topic!r}"}, None
        return handler(request)

    def read_members(self) -> tuple[Member, ...]:
        """Read the member list; register the job again if Redis has lost it."""
        members = self.registration.list_members()
        if members.status == LOST:
            self.begin_again()
            members = self.registration.list_members()
        return members.members

    def look_after(self, members: MemberList) -> None:
        """Apply a new member list, and keep the payloads alive."""
        self.clients.update(members.members)
        # twice the interval: a look may be late without a pause of this process
        within = 2 * self.cell.settings.heartbeat_interval
        self.communicator.clients_were_looked_at(time.monotonic() - members.asked, within)
        self.payloads.renew()

    def on_silent(self, name: str) -> None:
        """Report a client as dead."""
        with self.engine.new_context() as fl_ctx:
            self.communicator.process_dead_client_report(name, fl_ctx)

    def on_alive(self, name: str, sign: str) -> None:
        """Report a sign of life of a client."""
        with self.engine.new_context() as fl_ctx:
            self.communicator.client_is_active(name, sign, fl_ctx)

    def on_heard(self, name: str) -> None:
        """Try the request of a client again."""
        self.tasks.may_ask({name})

    def on_change(self) -> None:
        """Tell those that watch the clients."""
        self.engine.clients_changed()

    # -- the communicator reports --------------------------------------------------------------------------------------

    def scheduled(self, task: Task) -> list[ClientTask]:
        """Begin its record, or take up the one of a predecessor."""
        return self.journal.begin(task)

    def protect(self, task: Task, data: Shareable) -> Shareable:
        """Store a broadcast's data, once."""
        return self.journal.protect(task, data)

    def may_ask(self, names: Set[str] | None) -> None:
        """Try parked requests; first the controller gets the accepted results of tasks that were just taken up."""
        adopted = self.recovery.take_adopted()
        if adopted:
            self.pool.submit(partial(self._catch_up, adopted))
        elif not self.tasks.may_ask(names):
            self.journal.write_new()

    def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
        """Release all that wait for an ended task, tell the sites that work on it, and close its record."""
        entry = self.journal.remove(task)
        if self.journal.left:
            return
        self.results.release(task)
        self.tasks.release(task)
        self._tell_unanswered(task, unanswered)
        if entry is not None:
            self.journal.close_task(entry)

    def checkpoint(self, state: dict[str, Any], history: Callable[[int], list[Any]]) -> None:
        """Store the state of the controller, and what is new in its history."""
        self.journal.checkpoint(state, history)

    def _catch_up(self, tasks: list[TaskRecord]) -> None:
        """Give the controller the results that were accepted before, in order; then retry what came too early."""
        try:
            for task in tasks:
                for client_task in sorted(task.client_tasks, key=lambda one: one.received):
                    # one that was received, and has no result, is part of the state that was restored
                    if client_task.received and client_task.result is not None:
                        self.results.replay(task, client_task)
        finally:
            self.journal.retry(self.recovery.caught_up(tasks))
            self.tasks.may_ask(None)

    # -- the end -------------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Refuse results from now on, and end what a predecessor has left."""
        # results in hand first: their payloads would never be deleted
        self.results.close(reason, _RESULTS_WITHIN)
        self.journal.abandon()
        self.journal.results.release_all()

    def tell_ended(self, reason: str) -> None:
        """Answer the clients that wait, and send an event to all others."""
        answered = self.tasks.close(reason)
        for fqcn, names in self.clients.by_cell(answered).items():
            instances = self.clients.instances(names)
            self._send(fqcn, JobEndEvent(clients=names, reason=reason, instances=instances))

    def _tell_unanswered(self, task: Task, unanswered: list[ClientTask]) -> None:
        """Tell the sites that work on an ended task to stop."""
        cells: dict[str, list[ClientTask]] = {}
        for client_task in unanswered:
            if (cell := self.clients.cell_of(client_task.client.name)) is not None:
                cells.setdefault(cell, []).append(client_task)
        for cell, client_tasks in cells.items():
            names = [client_task.client.name for client_task in client_tasks]
            self._send(cell, TasksEndEvent(clients=names, task_ids=[one.id for one in client_tasks]))

    def _send(self, fqcn: str, event: ServerEvent) -> None:
        try:
            self.cell.fire_and_forget(event.CHANNEL, event.TOPIC, [fqcn], event.to_meta())
        except RedflareError as error:
            logger.warning("event %s cannot be sent to cell %s: %s", event, fqcn, error)

    def __repr__(self) -> str:
        return f"<ServingJob of {self.registration!r}>"


def _decode_and_handle(
    message: type[M], handler: Callable[[M, Request], HandlerResult], request: Request
) -> HandlerResult:
    try:
        decoded = message.from_meta(request.meta)
    except TypeError as error:
        request.note_fault("refused request", f"{request.topic} from {request.origin} is refused: {error}")
        return ReplyCode.BAD_REQUEST_DATA, Refusal(reason=str(error)).to_meta(), None
    return handler(decoded, request)
