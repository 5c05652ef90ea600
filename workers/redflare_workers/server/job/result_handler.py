"""``ResultHandler``: takes the results that sites bring.

A submission is answered when it was handled, which a controller's callback may keep from happening for long. The same
result sent again meanwhile waits for what becomes of the first, and when the task ends nobody waits for a callback of
it any more. What a site does wrong is logged with its name and the task, is answered, and changes nothing for others.
"""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from redflare_broker.cell.cell import LATER, HandlerResult
from redflare_broker.cell.request import Request
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import BlobMissing, DecodeError, Fenced, RedflareError
from redflare_broker.job_state.task_store import ClientTaskRecord, TaskRecord
from redflare_broker.payload import redis_store
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.transport.replies import Arg
from redflare_broker.transport.server import Server
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey, ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.communicator.task_registry import SubmissionCheck
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.protocol.job_messages import TOLD_ENDED
from redflare_workers.protocol.shareable_codec import from_message, opened

from .clients import JobClients, Refused
from .memory_gate import MemoryGate
from .server_engine import ServerEngine
from .task_journal import TaskJournal

logger = logging.getLogger(__name__)

#: Bytes of a result above which it is read and handled alone, so that memory does not grow with the number of sites.
_LARGE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Submission:
    """A result as it came."""

    request: Request
    client: Client
    name: str
    task_id: str
    message: object
    #: Public props of the site, as it told them.
    props: object
    sealed: EncodedPayload

    @property
    def key(self) -> tuple[str, str]:
        """Nobody else's submission is the same, whatever it claims to be for."""
        return self.client.name, self.task_id

    def __str__(self) -> str:
        return f"the result of client {self.client.name} for task {self.name!r} {self.task_id}"


@dataclass(slots=True, kw_only=True, eq=False)
class _ResultInHand:
    """A submission that is being handled, and those of the same result that came meanwhile."""

    submission: _Submission
    copies: list[_Submission] = field(default_factory=list)


class ResultHandler:
    """Thread-safe.

    Args:
        communicator: what results are for.
        engine: makes contexts and fires events.
        roster: the clients.
        ledgers: notes what is taken.
        server: holds payloads.
        settings: limits.
        pool: its threads handle what had to wait.
    """

    def __init__(
        self,
        communicator: WFCommServer,
        engine: ServerEngine,
        roster: JobClients,
        ledgers: TaskJournal,
        server: Server,
        settings: LinkSettings,
        pool: ElasticThreadPool,
    ) -> None:
        self._communicator = communicator
        self._engine = engine
        self._roster = roster
        self._ledgers = ledgers
        self._server = server
        self._limits = settings.limits
        self._pool = pool
        #: Why the job is over; None while it goes on.
        self._over: str | None = None
        self._large = MemoryGate()
        self._changed = threading.Condition()
        self._in_hand: dict[tuple[str, str], _ResultInHand] = {}
        ledgers.on_replay = self._replay

    def submit(self, request: Request) -> HandlerResult:
        """A site brings a result."""
        try:
            client, _ = self._roster.client_of(request)
        except Refused as refused:
            # it, or the process of its site that has taken over, brings the same payload again
            request.encoded  # noqa: B018 - taken out of the request, it is not deleted with it
            return refused.answer(request)
        name, task_id, message = (request.meta.get(key) for key in ("task_name", "task_id", "message"))
        if not isinstance(name, str) or not isinstance(task_id, str):
            reason = f"task_name and task_id must be str, but are {name!r:.200} and {task_id!r:.200}"
            logger.error("a submission of client %s is dropped: %s", client.name, reason)
            return ReturnCode.BAD_REQUEST_DATA, {"reason": reason}, None
        if self._over is not None:
            return TOLD_ENDED, {"reason": self._over}, None
        submission = _Submission(
            request=request,
            client=client,
            name=name,
            task_id=task_id,
            message=message,
            props=request.meta.get("props"),
            sealed=request.encoded,
        )
        retry = partial(self._take, submission)
        if not self._ledgers.recovery.hold(task_id, retry):
            retry()
        return LATER

    def close(self, reason: str, timeout: float) -> None:
        """The job is over: take nothing more, and wait for what is in hand, no longer than ``timeout`` seconds."""
        self._over = reason
        with self._changed:
            if not self._changed.wait_for(lambda: not self._in_hand, timeout):
                left = [str(hand.submission) for hand in self._in_hand.values()]
                logger.warning("the job ends while results are being handled: %s", ", ".join(left))

    def release(self, task: Task) -> None:
        """A task has ended: who waits for a callback of it that has not returned waits no longer."""
        with self._changed:
            stuck = [
                hand
                for one in task.client_tasks
                # the result is handled: its own thread is about to answer
                if one.result_received_time is None
                and (hand := self._in_hand.pop((one.client.name, one.id), None)) is not None
            ]
            self._changed.notify_all()
        for hand in stuck:
            hand.submission.request.reply(ReturnCode.OK, {"verdict": SubmissionCheck.FINISHED.name})
            self._answer_copies(hand, SubmissionCheck.FINISHED)

    # -- one result ----------------------------------------------------------------------------------------------------

    def _take(self, submission: _Submission) -> None:
        """Handle a submission, and answer it and its copies."""
        if self._over is not None:
            self._discard(submission.sealed)
            submission.request.reply(TOLD_ENDED, {"reason": self._over})
            return
        with self._changed:
            first = self._in_hand.get(submission.key)
            if first is not None:
                first.copies.append(submission)
                return
            hand = self._in_hand[submission.key] = _ResultInHand(submission=submission)
        noted: list[list[Arg]] = []
        rc, meta, verdict = str(ReturnCode.OK), dict[str, Any](), None
        try:
            verdict, noted = self._handle(submission)
            meta = {"verdict": verdict.name}
        except Fenced as error:
            # its request stands in the inbox, the next server will handle it
            logger.info("%s is left to the next server: %s", submission, error)
            with self._changed:
                self._in_hand.pop(submission.key, None)
                self._changed.notify_all()
            return
        except BlobMissing as error:
            logger.warning("%s is gone: %s", submission, error)
            rc, meta = BLOB_MISSING, {"reason": str(error)}
        except Exception as error:
            logger.exception("%s failed", submission)
            rc, meta = str(ReturnCode.EXECUTION_EXCEPTION), {"reason": f"{type(error).__name__}: {error}"}
        self._discard(submission.sealed)
        with self._changed:
            mine = self._in_hand.get(submission.key) is hand
            if mine:
                del self._in_hand[submission.key]
                self._changed.notify_all()
        if mine:
            submission.request.reply(rc, meta, with_commands=noted)
            self._answer_copies(hand, verdict)

    def _answer_copies(self, hand: _ResultInHand, verdict: SubmissionCheck | None) -> None:
        """Those who have sent the same; when it failed (None), they are tried."""
        for copy in hand.copies:
            if verdict is None:
                self._pool.submit(partial(self._take, copy))
                continue
            if copy.sealed.blob != hand.submission.sealed.blob:
                self._discard(copy.sealed)
            told = SubmissionCheck.DUPLICATE if verdict is SubmissionCheck.ACCEPT else verdict
            copy.request.reply(ReturnCode.OK, {"verdict": told.name})

    def _handle(self, submission: _Submission) -> tuple[SubmissionCheck, list[list[Arg]]]:
        """Give a result to the communicator; the commands that note it.

        Raises:
            BlobMissing: its payload is gone.
            Fenced: another server goes on.
        """
        client, name, task_id = submission.client, submission.name, submission.task_id
        verdict = self._communicator.peek_submission(client, name, task_id)
        if verdict not in (SubmissionCheck.ACCEPT, SubmissionCheck.UNKNOWN):
            level = (
                logging.INFO if verdict in (SubmissionCheck.DUPLICATE, SubmissionCheck.FINISHED) else logging.WARNING
            )
            logger.log(level, "%s is dropped: %s", submission, verdict.name)
            return verdict, []
        with self._large.turn() if submission.sealed.nbytes > _LARGE else nullcontext():
            # nothing of it is held here when the next one is read
            client_task, rc = self._give(submission)
        if client_task is None:
            return verdict, []
        if client_task.result_received_time is None:
            return SubmissionCheck.FINISHED, []
        meta = submission.message if isinstance(submission.message, dict) else {}
        return verdict, self._ledgers.received(client_task, rc, meta, submission.sealed)

    def _give(self, submission: _Submission) -> tuple[ClientTask | None, str]:
        result = self._read(submission)
        with self._engine.new_context() as fl_ctx:
            client_task = self._communicator.process_task_check(submission.task_id, fl_ctx)
            with self._ledgers.handling(submission.task_id):
                self._process(submission.client, submission.name, submission.task_id, result, fl_ctx, submission.props)
        return client_task, str(result.get_return_code())

    def _read(self, submission: _Submission) -> Shareable:
        """The result; one that cannot be read counts as EXECUTION_RESULT_ERROR, or its task would wait for ever."""
        try:
            return opened(from_message(submission.message, submission.sealed), self._server, self._limits)
        except DecodeError as error:
            logger.error("%s is none: %s", submission, error)
            return make_reply(ReturnCode.EXECUTION_RESULT_ERROR)

    def _process(
        self, client: Client, name: str, task_id: str, result: Shareable, fl_ctx: FLContext, props: object = None
    ) -> None:
        self._roster.introduce(client, fl_ctx, props)
        result.set_header(ReservedHeaderKey.TASK_NAME, name)
        result.set_header(ReservedHeaderKey.TASK_ID, task_id)
        if (known := fl_ctx.get_peer_context()) is not None:
            result.set_peer_props(known.get_all_public_props())
            # others handle results of the same client meanwhile
            peer = known.clone()
            peer.put(FLContextKey.SHAREABLE, result, private=True, sticky=False)
            fl_ctx.set_peer_context(peer)
        for key, value in (
            (FLContextKey.TASK_NAME, name),
            (FLContextKey.TASK_ID, task_id),
            (FLContextKey.TASK_RESULT, result),
        ):
            fl_ctx.set_prop(key, value, private=True, sticky=False)
        self._engine.fire_event(EventType.BEFORE_PROCESS_SUBMISSION, fl_ctx)
        self._communicator.process_submission(client, name, task_id, result, fl_ctx)
        self._engine.fire_event(EventType.AFTER_PROCESS_SUBMISSION, fl_ctx)

    def _discard(self, sealed: EncodedPayload) -> None:
        """Delete a payload that came in, unless a successor would need it."""
        if sealed.blob is None or self._ledgers.retains(sealed):
            return
        try:
            redis_store.remove(self._server, sealed.blob, stop=lambda: True)
        except RedflareError as error:
            logger.warning("payload %s is left to expire: %s", sealed.blob.prefix, error)

    def _replay(self, task: TaskRecord, noted: ClientTaskRecord) -> None:
        """A result that was accepted before a restart."""
        client_task = self._communicator.process_task_check(noted.id, FLContext())
        if client_task is None or noted.result is None:
            return
        try:
            result = opened(from_message(dict(noted.meta), noted.result), self._server, self._limits)
            with self._engine.new_context() as fl_ctx:
                self._process(client_task.client, task.name, noted.id, result, fl_ctx)
        except Exception:
            logger.exception("result %s of task %r cannot be given to the controller again", noted.id, task.name)

    def __repr__(self) -> str:
        return f"<ResultHandler, {len(self._in_hand)} results in hand>"
