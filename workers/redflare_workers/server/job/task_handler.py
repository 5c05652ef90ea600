"""``TaskHandler``: gives tasks to the sites that ask. ``ParkedRequests``: their requests that must wait.

A request that waits is data, not a thread, so thousands may wait. When a client may get something, a thread claims its
request and asks the communicator; a claim that comes meanwhile makes that thread ask once more, so that no wake-up is
lost between the asking and the waiting.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from redflare_broker.cell.cell import LATER, HandlerResult
from redflare_broker.cell.request import Request
from redflare_broker.errors import Fenced, JobEnded, RedflareError, Unavailable
from redflare_broker.util.thread_pool import ElasticThreadPool
from redflare_broker.wire.message_entry import pack_meta

from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import Task
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.engine.peer_props import sendable_props
from redflare_workers.protocol.job_messages import (
    RC_FENCED,
    RC_JOB_ENDED,
    RC_SUPERSEDED,
    GetTask,
    Refusal,
    TaskReply,
)

from .clients import JobClients, Refused
from .server_engine import ServerEngine
from .task_journal import TaskJournal

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class ParkedRequest:
    """A request that waits for a task."""

    client: Client
    request: Request
    #: A thread is asking the communicator for it just now.
    claimed: bool = False
    #: Something has changed since that thread began to ask.
    again: bool = False


class ParkedRequests:
    """The requests that wait, one of each client. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._parked: dict[str, ParkedRequest] = {}

    def park(self, client: Client, request: Request) -> ParkedRequest | None:
        """Let a request wait; return the one of the same client that it replaces."""
        with self._guard:
            before = self._parked.get(client.name)
            self._parked[client.name] = ParkedRequest(client=client, request=request)
            return before

    def claim(self, name: str) -> ParkedRequest | None:
        """Claim the request of a client; None: it has none, or the thread that claimed it will ask again."""
        with self._guard:
            parked = self._parked.get(name)
            if parked is None:
                return None
            if parked.claimed:
                parked.again = True
                return None
            parked.claimed = True
            return parked

    def unclaim(self, parked: ParkedRequest) -> bool:
        """Let a request wait on; return True if something has changed meanwhile: then keep it and ask again."""
        with self._guard:
            again, parked.again = parked.again, False
            parked.claimed = again
            return again

    def release_stuck(self) -> list[str]:
        """Let others claim all claimed requests, as their threads may be stuck; return the names of the clients."""
        with self._guard:
            stuck = [name for name, parked in self._parked.items() if parked.claimed]
            for name in stuck:
                self._parked[name].claimed = False
            return stuck

    def remove(self, parked: ParkedRequest) -> bool:
        """Remove a request to answer it; return False if it was removed or replaced: then do not answer it."""
        with self._guard:
            if self._parked.get(parked.client.name) is not parked:
                return False
            del self._parked[parked.client.name]
            return True

    def parked(self, names: Iterable[str] | None) -> list[str]:
        """Those of ``names`` (None: of all clients) that have a request here."""
        with self._guard:
            return list(self._parked) if names is None else [name for name in names if name in self._parked]

    def drain(self) -> list[ParkedRequest]:
        """Remove and return all requests."""
        with self._guard:
            parked, self._parked = list(self._parked.values()), {}
            return parked

    def __len__(self) -> int:
        return len(self._parked)

    def __repr__(self) -> str:
        return f"<ParkedRequests of {sorted(self._parked)[:10]}, {len(self._parked)} in all>"


class _Attempt(Enum):
    """The result of asking the communicator for a client."""

    #: Its request waits no longer.
    DONE = "done"
    #: There is nothing for it now.
    NOTHING = "nothing"
    #: The task could not be sent; there may be another one.
    AGAIN = "again"


@dataclass(slots=True, eq=False)
class TaskHandler:
    """Gives tasks to the sites that ask. Thread-safe."""

    #: decides which client gets which task
    communicator: WFCommServer
    #: makes contexts and fires events
    engine: ServerEngine
    clients: JobClients
    #: notes what is handed out
    journal: TaskJournal
    #: its threads ask for clients that wait
    pool: ElasticThreadPool
    _parked: ParkedRequests = field(default_factory=ParkedRequests, init=False)
    #: Why the job is over; None while it runs.
    _over: str | None = field(default=None, init=False)

    def get_task(self, message: GetTask, request: Request) -> HandlerResult:
        """Park the request of a site for a task, and answer it as soon as there is one."""
        try:
            client, _ = self.clients.client_of(message.credentials, GetTask.TOPIC, request.origin)
        except Refused as refused:
            return refused.answer(request)
        if message.lost:
            self._forget_payload(client, message)
        before = self._parked.park(client, request)
        if before is not None and before.request is not request:
            before.request.reply(RC_SUPERSEDED, Refusal(reason=f"client {client.name} has asked again").to_meta())
        if self._over is not None:
            self.close(self._over)
        else:
            self._serve(client.name)
        return LATER

    def may_ask(self, names: Set[str] | None) -> bool:
        """Try the requests of these clients (None: all) in other threads; return False if none of them waits."""
        waiting = self._parked.parked(names)
        for name in waiting:
            self.pool.submit(partial(self._serve, name))
        return bool(waiting)

    def release(self, task: Task) -> None:
        """Let other threads try the requests that may be stuck in callbacks of an ended task."""
        if task.before_task_sent_cb is not None or task.after_task_sent_cb is not None:
            for name in self._parked.release_stuck():
                self.pool.submit(partial(self._serve, name))

    def close(self, reason: str) -> set[str]:
        """Answer all requests, and those that still come, with the end of the job; return the clients' names."""
        self._over = reason
        parked = self._parked.drain()
        for each in parked:
            each.request.reply(RC_JOB_ENDED, Refusal(reason=reason).to_meta())
        return {each.client.name for each in parked}

    def _serve(self, name: str) -> None:
        """Ask the communicator for a client that waits, until it gets something or nothing changes any more."""
        self._ask_for(self._parked.claim(name))
        self.journal.write_new()

    def _ask_for(self, parked: ParkedRequest | None) -> None:
        while parked is not None:
            try:
                result = self._try(parked)
            except Exception:
                name = parked.client.name
                logger.exception("the request of client %s for a task failed; it waits for the next task", name)
                result = _Attempt.NOTHING
            if result is _Attempt.DONE or (result is _Attempt.NOTHING and not self._parked.unclaim(parked)):
                return

    def _try(self, parked: ParkedRequest) -> _Attempt:
        client, journal = parked.client, self.journal
        if self._over is not None or journal.left or journal.recovery.restoring:
            return _Attempt.NOTHING
        if self.clients.is_silent(client.name):
            return _Attempt.NOTHING
        if not self.clients.is_current(client):
            if self._parked.remove(parked):
                reason = f"a newer process of client {client.name} has joined"
                parked.request.reply(RC_FENCED, Refusal(reason=reason).to_meta())
            return _Attempt.DONE
        with self.engine.new_context() as fl_ctx:
            self.clients.introduce(client, fl_ctx)
            self.engine.fire_event(EventType.BEFORE_PROCESS_TASK_REQUEST, fl_ctx)
            try:
                name, task_id, shareable = self.communicator.process_task_request(client, fl_ctx)
                if shareable is None or not name:
                    return _Attempt.NOTHING
                return self._hand_out(parked, name, task_id, shareable, fl_ctx)
            finally:
                self.engine.fire_event(EventType.AFTER_PROCESS_TASK_REQUEST, fl_ctx)

    def _hand_out(
        self, parked: ParkedRequest, name: str, task_id: str, shareable: Shareable, fl_ctx: FLContext
    ) -> _Attempt:
        client_task = self.communicator.process_task_check(task_id, fl_ctx)
        if client_task is None:
            # it has ended meanwhile; there may be another one behind it
            return _Attempt.AGAIN
        try:
            message, payload = self.journal.pack(client_task, shareable)
            props = sendable_props(fl_ctx)
            # before the request is taken out, for then it must be answered
            reply = pack_meta(TaskReply(task_name=name, task_id=task_id, message=message, props=props).to_meta())
        except KeyError:
            return _Attempt.AGAIN
        except (Fenced, JobEnded, Unavailable) as error:
            # this run is about to end
            logger.debug("task %r %s is not sent to client %s: %s", name, task_id, parked.client.name, error)
            return _Attempt.NOTHING
        except RedflareError as error:
            logger.error("task %r %s cannot be sent to client %s: %s", name, task_id, parked.client.name, error)
            self.communicator.handle_exception(task_id, fl_ctx)
            return _Attempt.AGAIN
        if not self._parked.remove(parked):
            # its client has asked again, and gets this client task then
            return _Attempt.DONE
        self.journal.hand_out(
            client_task,
            lambda noted: parked.request.reply(ReturnCode.OK, reply, payload, keep=True, with_commands=noted),
        )
        logger.debug("task %r %s is handed to client %s", name, task_id, parked.client.name)
        return _Attempt.DONE

    def _forget_payload(self, client: Client, message: GetTask) -> None:
        """Have the payload of a task stored again that a client did not find."""
        with self.engine.new_context() as fl_ctx:
            client_task = self.communicator.process_task_check(message.lost, fl_ctx)
        if client_task is not None and client_task.client.name == client.name:
            self.journal.lost(client_task, message.payload)

    def __repr__(self) -> str:
        return f"<TaskHandler, {len(self._parked)} clients wait>"
