"""``TaskHandler``: hands tasks out to the sites that ask.

A request for a task waits in the ``ParkedRequests`` until the communicator has something for its client, and is then
answered by whichever thread learned of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from enum import Enum
from functools import partial
from typing import Any

from redflare_broker.cell.cell import LATER, HandlerResult
from redflare_broker.cell.request import Request
from redflare_broker.errors import Fenced, JobEnded, RedflareError, Unavailable
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.engine.peer_props import sendable_props
from redflare_workers.protocol.job_messages import SUPERSEDED, TASK_ENDED, TOLD_ENDED, TOLD_FENCED

from .clients import JobClients, Refused
from .parked_requests import ParkedRequest, ParkedRequests
from .result_handler import ResultHandler
from .server_engine import ServerEngine
from .task_journal import TaskJournal

logger = logging.getLogger(__name__)

Tell = Callable[[list[str], str, dict[str, Any]], None]


class _Try(Enum):
    """What became of asking for a client that waits."""

    #: It waits no longer.
    DONE = "done"
    #: There is nothing for it now.
    NOTHING = "nothing"
    #: What there was could not be sent; there may be something else.
    AGAIN = "again"


class TaskHandler:
    """Thread-safe.

    Args:
        communicator: decides who gets which task.
        engine: makes contexts and fires events.
        roster: the clients.
        ledgers: notes what is handed out.
        results: takes them.
        pool: its threads ask for clients that wait.
        tell: sends cells an event: their FQCNs, topic, meta.
    """

    def __init__(
        self,
        communicator: WFCommServer,
        engine: ServerEngine,
        roster: JobClients,
        ledgers: TaskJournal,
        results: ResultHandler,
        pool: ElasticThreadPool,
        tell: Tell,
    ) -> None:
        self._communicator = communicator
        self._engine = engine
        self._roster = roster
        self._ledgers = ledgers
        self._results = results
        self._pool = pool
        self._tell = tell
        self._room = ParkedRequests()
        #: Why the job is over; None while it goes on.
        self._over: str | None = None
        ledgers.on_may_ask = self.may_ask
        ledgers.on_ended = self._on_ended

    def get_task(self, request: Request) -> HandlerResult:
        """A site asks for a task; it is answered when there is one."""
        try:
            client, _ = self._roster.client_of(request)
        except Refused as refused:
            return refused.answer(request)
        if isinstance(lost := request.meta.get("lost"), str):
            self._forget_payload(client, lost, request.meta.get("payload"))
        before = self._room.enter(client, request)
        if before is not None and before.request is not request:
            before.request.reply(SUPERSEDED, {"reason": f"client {client.name} has asked again"})
        if self._over is not None:
            self.close(self._over)
        else:
            self._serve(client.name)
        return LATER

    def may_ask(self, names: Set[str] | None) -> bool:
        """These clients (None: all) may get something now; asked for in other threads. False: none of them waits."""
        waiting = self._room.among(names)
        for name in waiting:
            self._pool.submit(partial(self._serve, name))
        return bool(waiting)

    def close(self, reason: str) -> set[str]:
        """The job is over: answer everybody who waits, and whoever asks from now on.

        Returns:
            names of the clients that were answered.
        """
        self._over = reason
        waiting = self._room.empty()
        for each in waiting:
            each.request.reply(TOLD_ENDED, {"reason": reason})
        return {each.client.name for each in waiting}

    def _serve(self, name: str) -> None:
        """Ask the communicator for a client that waits, until it has something or nothing changes any more."""
        self._ask_for(self._room.call(name))
        self._ledgers.write_new()

    def _ask_for(self, waiting: ParkedRequest | None) -> None:
        while waiting is not None:
            try:
                result = self._try(waiting)
            except Exception:
                name = waiting.client.name
                logger.exception("the request of client %s for a task failed; it waits for the next one", name)
                result = _Try.NOTHING
            if result is _Try.DONE or (result is _Try.NOTHING and not self._room.wait_on(waiting)):
                return

    def _try(self, waiting: ParkedRequest) -> _Try:
        client = waiting.client
        if self._over is not None or self._ledgers.restoring or self._roster.is_silent(client.name):
            return _Try.NOTHING
        if not self._roster.is_current(client):
            if self._room.leave(waiting):
                waiting.request.reply(TOLD_FENCED, {"reason": f"a newer process of client {client.name} is there"})
            return _Try.DONE
        with self._engine.new_context() as fl_ctx:
            self._roster.introduce(client, fl_ctx)
            self._engine.fire_event(EventType.BEFORE_PROCESS_TASK_REQUEST, fl_ctx)
            try:
                name, task_id, shareable = self._communicator.process_task_request(client, fl_ctx)
                if shareable is None or not name:
                    return _Try.NOTHING
                return self._hand_out(waiting, name, task_id, shareable, fl_ctx)
            finally:
                self._engine.fire_event(EventType.AFTER_PROCESS_TASK_REQUEST, fl_ctx)

    def _hand_out(
        self, waiting: ParkedRequest, name: str, task_id: str, shareable: Shareable, fl_ctx: FLContext
    ) -> _Try:
        client_task = self._communicator.process_task_check(task_id, fl_ctx)
        if client_task is None:
            # it has ended meanwhile; there may be another one behind it
            return _Try.AGAIN
        try:
            message, sealed = self._ledgers.pack(client_task, shareable)
        except KeyError:
            return _Try.AGAIN
        except (Fenced, JobEnded, Unavailable) as error:
            # the end of this run is on its way
            logger.debug("task %r %s is not sent to client %s: %s", name, task_id, waiting.client.name, error)
            return _Try.NOTHING
        except RedflareError as error:
            logger.error("task %r %s cannot be sent to client %s: %s", name, task_id, waiting.client.name, error)
            self._communicator.handle_exception(task_id, fl_ctx)
            return _Try.AGAIN
        if not self._room.leave(waiting):
            # its client has asked again, and gets this client task then
            return _Try.DONE
        meta = {"task_name": name, "task_id": task_id, "message": message}
        if props := sendable_props(fl_ctx):
            meta["props"] = props
        self._ledgers.hand_out(
            client_task,
            lambda noted: waiting.request.reply(ReturnCode.OK, meta, sealed, keep=True, with_commands=noted),
        )
        logger.debug("task %r %s is handed to client %s", name, task_id, waiting.client.name)
        return _Try.DONE

    def _forget_payload(self, client: Client, task_id: str, prefix: object) -> None:
        """A client did not find what its task carries."""
        with self._engine.new_context() as fl_ctx:
            client_task = self._communicator.process_task_check(task_id, fl_ctx)
        if client_task is not None and client_task.client.name == client.name:
            self._ledgers.lost(client_task, str(prefix))

    def _on_ended(self, task: Task, unanswered: list[ClientTask]) -> None:
        """Sites that still work on it may stop; whoever waits for one of its callbacks waits no longer."""
        self._results.release(task)
        if task.before_task_sent_cb is not None or task.after_task_sent_cb is not None:
            # a callback of it may never return; whom it was called for may get another task
            for name in self._room.pass_by():
                self._pool.submit(partial(self._serve, name))
        cells: dict[str, list[ClientTask]] = {}
        for client_task in unanswered:
            if (cell := self._roster.cell_of(client_task.client.name)) is not None:
                cells.setdefault(cell, []).append(client_task)
        for cell, client_tasks in cells.items():
            meta = {
                "clients": [client_task.client.name for client_task in client_tasks],
                "task_ids": [client_task.id for client_task in client_tasks],
            }
            try:
                self._tell([cell], TASK_ENDED, meta)
            except RedflareError as error:
                logger.warning("cell %s is not told that task %r has ended: %s", cell, task.name, error)

    def __repr__(self) -> str:
        return f"<TaskHandler, {len(self._room)} clients wait>"
