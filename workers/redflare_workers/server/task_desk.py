"""``TaskDesk``: answers the sites' requests: hands tasks out, and takes results back.

A request for a task waits in the ``WaitingRoom`` until the communicator has something for its client, and is then
answered by whichever thread learned of it. A submission is answered when it was handled. What a site does wrong is
logged with its name and the task, is answered, and changes nothing for the others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Set
from functools import partial
from typing import Any, Final

from redflare_broker import blobs
from redflare_broker.cell import LATER, Answer
from redflare_broker.connection import Server
from redflare_broker.errors import BlobMissing, DecodeError, RedflareError
from redflare_broker.journal import ClientTaskRecord, TaskRecord
from redflare_broker.pool import Pool
from redflare_broker.replies import Arg
from redflare_broker.request import Request
from redflare_broker.sealed import Sealed
from redflare_broker.settings import LinkSettings

from ..apis.client import Client
from ..apis.event_type import EventType
from ..apis.fl_constant import FLContextKey, ReturnCode
from ..apis.fl_context import FLContext
from ..apis.shareable import Shareable, make_reply
from ..apis.task import ClientTask, Task
from ..job_protocol import BLOB_MISSING, SUPERSEDED, TASK_ENDED, TOLD_ENDED
from ..shareable_message import from_message, opened
from ..workflow.board import Verdict
from ..workflow.wf_comm_server import WFCommServer
from .ledgers import Ledgers
from .roster import Refused, Roster
from .server_engine import ServerEngine
from .waiting_room import Waiting, WaitingRoom

logger = logging.getLogger(__name__)

#: Bytes of a result above which it is read and handled alone, so that memory does not grow with the number of sites.
_LARGE: Final = 1 << 20

Tell = Callable[[list[str], str, dict[str, Any]], None]


class TaskDesk:
    """Thread-safe.

    Args:
        communicator: decides who gets which task.
        engine: makes contexts and fires events.
        roster: the clients.
        ledgers: notes what is handed out and taken back.
        server: holds payloads.
        settings: limits.
        pool: its threads ask for clients that wait.
        tell: sends cells an event: their FQCNs, topic, meta.
    """

    def __init__(
        self,
        communicator: WFCommServer,
        engine: ServerEngine,
        roster: Roster,
        ledgers: Ledgers,
        server: Server,
        settings: LinkSettings,
        pool: Pool,
        tell: Tell,
    ) -> None:
        self._communicator = communicator
        self._engine = engine
        self._roster = roster
        self._ledgers = ledgers
        self._server = server
        self._limits = settings.limits
        self._pool = pool
        self._tell = tell
        self._room = WaitingRoom()
        #: Why the job is over; None while it goes on.
        self._over: str | None = None
        self._reading = threading.Lock()
        self._guard = threading.Lock()
        #: Submissions that are being handled, by client task.
        self._in_hand: dict[str, Request] = {}
        ledgers.on_may_ask = self.may_ask
        ledgers.on_ended = self._on_ended
        ledgers.on_replay = self._on_replay

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def get_task(self, request: Request) -> Answer:
        """A site asks for a task; it is answered when there is one."""
        try:
            client, _ = self._roster.client_of(request)
        except Refused as refused:
            return self._refuse(request, refused)
        if isinstance(lost := request.meta.get("lost"), str):
            self._forget_payload(client, lost)
        before = self._room.enter(client, request)
        if before is not None and before.request is not request:
            before.request.reply(SUPERSEDED, {"reason": f"client {client.name} has asked again"})
        if self._over is not None:
            self.close(self._over)
        else:
            self._serve(client.name)
        return LATER

    def may_ask(self, names: Set[str] | None) -> None:
        """These clients (None: all) may get something now; asked for in other threads."""
        for name in self._room.among(names):
            self._pool.submit(partial(self._serve, name))

    def close(self, reason: str) -> None:
        """The job is over: answer everybody who waits, and whoever asks from now on."""
        self._over = reason
        for waiting in self._room.empty():
            waiting.request.reply(TOLD_ENDED, {"reason": reason})

    def _serve(self, name: str) -> None:
        """Ask the communicator for a client that waits, until it has something or nothing changes any more."""
        waiting = self._room.call(name)
        while waiting is not None:
            if self._is_served(waiting) or not self._room.wait_on(waiting):
                return

    def _is_served(self, waiting: Waiting) -> bool:
        client = waiting.client
        if self._over is not None or self._ledgers.restoring or self._roster.is_silent(client.name):
            return False
        with self._engine.new_context() as fl_ctx:
            self._introduce(client, fl_ctx)
            self._engine.fire_event(EventType.BEFORE_PROCESS_TASK_REQUEST, fl_ctx)
            try:
                name, task_id, shareable = self._communicator.process_task_request(client, fl_ctx)
                if shareable is None or not name:
                    return False
                return self._hand_out(waiting, name, task_id, shareable, fl_ctx)
            except Exception:
                logger.exception("the request of client %s for a task failed; it waits for the next one", client.name)
                return False
            finally:
                self._engine.fire_event(EventType.AFTER_PROCESS_TASK_REQUEST, fl_ctx)

    def _hand_out(self, waiting: Waiting, name: str, task_id: str, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """False: it could not be sent, ask for the next one."""
        client_task = self._communicator.process_task_check(task_id, fl_ctx)
        if client_task is None:
            return False
        try:
            message, sealed, noted = self._ledgers.pack(client_task, shareable)
        except KeyError:
            return False
        except RedflareError as error:
            logger.error("task %r %s cannot be sent to client %s: %s", name, task_id, waiting.client.name, error)
            self._communicator.handle_exception(task_id, fl_ctx)
            return False
        if not self._room.leave(waiting):
            # its client has asked again, and gets this client task then
            return True
        meta = {"task_name": name, "task_id": task_id, "message": message}
        waiting.request.reply(ReturnCode.OK, meta, sealed, keep=True, with_commands=[noted])
        logger.debug("task %r %s is handed to client %s", name, task_id, waiting.client.name)
        return True

    def _forget_payload(self, client: Client, task_id: str) -> None:
        """A client did not find what its task carries."""
        with self._engine.new_context() as fl_ctx:
            client_task = self._communicator.process_task_check(task_id, fl_ctx)
        if client_task is not None and client_task.client.name == client.name and self._ledgers.lost(client_task):
            logger.warning("what task %r carries is gone, it is stored again", client_task.task.name)
            self._communicator.protect_again(client_task.task)

    # -- results -------------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Answer:
        """A site brings a result."""
        try:
            client, _ = self._roster.client_of(request)
        except Refused as refused:
            return self._refuse(request, refused)
        name, task_id, message = (request.meta.get(key) for key in ("task_name", "task_id", "message"))
        if not isinstance(name, str) or not isinstance(task_id, str):
            reason = f"task_name and task_id must be str, but are {name!r:.200} and {task_id!r:.200}"
            logger.error("a submission of client %s is dropped: %s", client.name, reason)
            return ReturnCode.BAD_REQUEST_DATA, {"reason": reason}, None
        if self._over is not None:
            return TOLD_ENDED, {"reason": self._over}, None
        retry = partial(self._take, request, client, name, task_id, message, request.sealed)
        if not self._ledgers.recovery.hold(task_id, retry):
            retry()
        return LATER

    def _take(self, request: Request, client: Client, name: str, task_id: str, message: object, sealed: Sealed) -> None:
        """Handle a submission, and answer it."""
        verdict, commands = Verdict.DUPLICATE, list[list[Arg]]()
        with self._guard:
            if (first := self._in_hand.get(task_id)) is not None and not first.answered:
                # sent again while it is being handled: both are answered with what becomes of the first
                self._pool.submit(partial(self._after, first, request, sealed))
                return
            self._in_hand[task_id] = request
        try:
            verdict, commands = self._handle(client, name, task_id, message, sealed)
        except BlobMissing as error:
            logger.warning("the result of client %s for task %r %s is gone: %s", client.name, name, task_id, error)
            request.reply(BLOB_MISSING, {"reason": str(error)})
            return
        except Exception as error:
            logger.exception("the result of client %s for task %r %s failed", client.name, name, task_id)
            request.reply(ReturnCode.EXECUTION_EXCEPTION, {"reason": f"{type(error).__name__}: {error}"})
            return
        finally:
            with self._guard:
                if self._in_hand.get(task_id) is request:
                    del self._in_hand[task_id]
            if not self._ledgers.retains(sealed):
                self._delete(sealed)
        request.reply(ReturnCode.OK, {"verdict": verdict.name}, with_commands=commands)

    def _after(self, first: Request, request: Request, sealed: Sealed) -> None:
        request.reply(ReturnCode.OK, {"verdict": Verdict.DUPLICATE.name})

    def _handle(
        self, client: Client, name: str, task_id: str, message: object, sealed: Sealed
    ) -> tuple[Verdict, list[list[Arg]]]:
        """Give a result to the communicator.

        Raises:
            BlobMissing: its payload is gone.
        """
        verdict = self._communicator.peek_submission(client, name, task_id)
        if verdict not in (Verdict.ACCEPT, Verdict.UNKNOWN):
            level = logging.INFO if verdict in (Verdict.DUPLICATE, Verdict.FINISHED) else logging.WARNING
            logger.log(level, "result of client %s for task %r %s: %s", client.name, name, task_id, verdict.name)
            return verdict, []
        large = sealed.nbytes > _LARGE
        if large:
            self._reading.acquire()
        try:
            result = self._read(client, name, task_id, message, sealed)
            with self._engine.new_context() as fl_ctx:
                client_task = self._communicator.process_task_check(task_id, fl_ctx)
                task = client_task.task if client_task is not None else None
                self._process(client, name, task_id, result, fl_ctx)
        finally:
            if large:
                self._reading.release()
        if client_task is None or task is None:
            return verdict, []
        meta = message if isinstance(message, dict) else {}
        return verdict, self._ledgers.received(client_task, task, str(result.get_return_code()), meta, sealed)

    def _read(self, client: Client, name: str, task_id: str, message: object, sealed: Sealed) -> Shareable:
        """The result; one that cannot be read counts as EXECUTION_RESULT_ERROR, or its task would wait for ever."""
        try:
            if not isinstance(message, dict):
                raise DecodeError(f"its message must be an object, but is {message!r:.200}")
            return opened(from_message(message, sealed), self._server, self._limits)
        except DecodeError as error:
            logger.error("the result of client %s for task %r %s is none: %s", client.name, name, task_id, error)
            return make_reply(ReturnCode.EXECUTION_RESULT_ERROR)

    def _process(self, client: Client, name: str, task_id: str, result: Shareable, fl_ctx: FLContext) -> None:
        self._introduce(client, fl_ctx)
        for key, value in ((FLContextKey.TASK_NAME, name), (FLContextKey.TASK_ID, task_id)):
            fl_ctx.set_prop(key, value, private=True, sticky=False)
        self._engine.fire_event(EventType.BEFORE_PROCESS_SUBMISSION, fl_ctx)
        self._communicator.process_submission(client, name, task_id, result, fl_ctx)
        self._engine.fire_event(EventType.AFTER_PROCESS_SUBMISSION, fl_ctx)

    def _delete(self, sealed: Sealed) -> None:
        if sealed.blob is None:
            return
        try:
            blobs.remove(self._server, sealed.blob, stop=lambda: True)
        except RedflareError as error:
            logger.warning("payload %s is left to expire: %s", sealed.blob.prefix, error)

    # -- what the ledgers report ---------------------------------------------------------------------------------------

    def _on_ended(self, task: Task, unanswered: list[ClientTask]) -> None:
        """Sites that still work on it may stop; whoever waits for one of its callbacks waits no longer."""
        cells: dict[str, list[ClientTask]] = {}
        for client_task in unanswered:
            if (cell := self._roster.cell_of(client_task.client.name)) is not None:
                cells.setdefault(cell, []).append(client_task)
        for cell, client_tasks in cells.items():
            meta = {
                "clients": [client_task.client.name for client_task in client_tasks],
                "task_ids": [client_task.id for client_task in client_tasks],
            }
            self._tell([cell], TASK_ENDED, meta)
        with self._guard:
            waiting = [self._in_hand[one.id] for one in task.client_tasks if one.id in self._in_hand]
        for request in waiting:
            self._pool.submit(partial(request.reply, ReturnCode.OK, {"verdict": Verdict.FINISHED.name}))

    def _on_replay(self, task: TaskRecord, client_task: ClientTaskRecord) -> None:
        """A result that was accepted before a restart."""
        assert client_task.result is not None
        client = self._communicator.process_task_check(client_task.id, FLContext())
        if client is None:
            return
        try:
            self._handle(client.client, task.name, client_task.id, dict(client_task.meta), client_task.result)
        except Exception:
            logger.exception("result %s of task %r cannot be given to the controller again", client_task.id, task.name)

    # -- both ----------------------------------------------------------------------------------------------------------

    def _introduce(self, client: Client, fl_ctx: FLContext) -> None:
        peer = self._roster.peer_of(client.name)
        if peer is not None:
            fl_ctx.set_peer_context(peer)

    def _refuse(self, request: Request, refused: Refused) -> Answer:
        logger.warning("%s from %s is refused with %s: %s", request.topic, request.origin, refused.rc, refused)
        return refused.rc, {"reason": str(refused)}, None

    def __repr__(self) -> str:
        return f"<TaskDesk, {len(self._room)} clients wait>"
