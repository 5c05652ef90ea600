"""``ResultHandler``: takes the results that sites submit.

A submission is answered once it was handled, which a controller's callback may delay for long. A copy of the same
result that comes meanwhile waits for the first, and the end of the task releases all that wait for its callbacks. A bad
submission is logged with the site's name and the task, is refused, and changes nothing for others.
"""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from redflare_broker.cell.cell import EARLY, LATER, HandlerResult
from redflare_broker.cell.request import Request
from redflare_broker.errors import BlobMissing, DecodeError, Fenced
from redflare_broker.job_state.task_store import ClientTaskRecord, TaskRecord
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.payload.payload_store import discard
from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.transport.replies import Arg
from redflare_broker.transport.server import Server
from redflare_broker.util.thread_pool import ElasticThreadPool
from redflare_broker.wire.limits import CodecLimits

from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey, ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.communicator.task_registry import SubmissionCheck
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.protocol.job_messages import RC_JOB_ENDED, Refusal, Submit, SubmitReply
from redflare_workers.protocol.shareable_codec import from_message

from .clients import JobClients, Refused
from .memory_gate import MemoryGate
from .server_engine import ServerEngine
from .task_journal import TaskJournal

logger = logging.getLogger(__name__)

#: Size of a result above which it is read and handled alone, so that memory does not grow with the number of sites.
_LARGE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Submission:
    """A result of a client, not decoded yet."""

    request: Request
    client: Client
    message: Submit
    payload: EncodedPayload

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the result; those of two clients differ, whatever they claim to be for."""
        return self.client.name, self.message.task_id

    def reply(self, check: SubmissionCheck) -> None:
        """Answer it."""
        self.request.reply(ReturnCode.OK, SubmitReply(verdict=check.name).to_meta())

    def __str__(self) -> str:
        message = self.message
        return f"the result of client {self.client.name} for task {message.task_name!r} {message.task_id}"


@dataclass(slots=True, kw_only=True, eq=False)
class _ResultInHand:
    """A submission that is being handled, and copies of it that came meanwhile."""

    submission: _Submission
    copies: list[_Submission] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class ResultHandler:
    """Takes results, one at a time if they are large. Thread-safe."""

    #: gives results to the controller
    communicator: WFCommServer
    #: makes contexts and fires events
    engine: ServerEngine
    clients: JobClients
    #: notes results
    journal: TaskJournal
    #: stores payloads
    server: Server
    limits: CodecLimits
    #: its threads handle submissions that had to wait
    pool: ElasticThreadPool
    #: Why the job is over; None while it runs.
    _over: str | None = field(default=None, init=False)
    _large: MemoryGate = field(default_factory=MemoryGate, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _in_hand: dict[tuple[str, str], _ResultInHand] = field(default_factory=dict, init=False)

    def submit(self, message: Submit, request: Request) -> HandlerResult:
        """Handle a site's result, and answer it then."""
        try:
            client, _ = self.clients.client_of(message.credentials, Submit.TOPIC, request.origin)
        except Refused as refused:
            # it, or the process of its site that has taken over, submits the same payload again
            request.encoded  # noqa: B018 - taken out of the request, it is not deleted with it
            return refused.answer(request)
        if self._over is not None:
            return RC_JOB_ENDED, Refusal(reason=self._over).to_meta(), None
        submission = _Submission(request=request, client=client, message=message, payload=request.encoded)
        retry = partial(self._take, submission)
        if self.journal.recovery.hold(message.task_id, retry):
            return EARLY
        retry()
        return LATER

    def close(self, reason: str, timeout: float) -> None:
        """Refuse what still comes, and wait for the submissions in hand, at most ``timeout`` seconds."""
        self._over = reason
        with self._changed:
            if not self._changed.wait_for(lambda: not self._in_hand, timeout):
                left = [str(hand.submission) for hand in self._in_hand.values()]
                logger.warning("the job ends although results are still being handled: %s", ", ".join(left))

    def release(self, task: Task) -> None:
        """Answer all that wait for a callback of an ended task."""
        with self._changed:
            stuck = [
                hand
                for one in task.client_tasks
                # a handled one is about to be answered by its own thread
                if one.result_received_time is None
                and (hand := self._in_hand.pop((one.client.name, one.id), None)) is not None
            ]
            self._changed.notify_all()
        for hand in stuck:
            hand.submission.reply(SubmissionCheck.FINISHED)
            self._answer_copies(hand, SubmissionCheck.FINISHED)

    # -- one result ----------------------------------------------------------------------------------------------------

    def _take(self, submission: _Submission) -> None:
        """Handle a submission, and answer it and its copies."""
        if self._over is not None:
            self._discard(submission.payload)
            submission.request.reply(RC_JOB_ENDED, Refusal(reason=self._over).to_meta())
            return
        with self._changed:
            first = self._in_hand.get(submission.key)
            if first is not None:
                first.copies.append(submission)
                return
            hand = self._in_hand[submission.key] = _ResultInHand(submission=submission)
        noted: list[list[Arg]] = []
        rc, meta, check = str(ReturnCode.OK), dict[str, Any](), None
        try:
            check, noted = self._handle(submission)
            meta = SubmitReply(verdict=check.name).to_meta()
        except Fenced as error:
            self._leave(submission, error)
            return
        except BlobMissing as error:
            text = f"{submission} cannot be read, its payload is gone: {error}"
            submission.request.note_fault("its payload is gone", text)
            rc, meta = BLOB_MISSING, Refusal(reason=str(error)).to_meta()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            text = f"{submission} could not be handled: {reason}"
            submission.request.note_fault("the handler of results failed", text, logging.ERROR, exc_info=error)
            rc, meta = str(ReturnCode.EXECUTION_EXCEPTION), Refusal(reason=reason).to_meta()
        if self.journal.left:
            # what came of it may be due to the end of this run
            self._leave(submission, "this run is over")
            return
        self._discard(submission.payload)
        with self._changed:
            mine = self._in_hand.get(submission.key) is hand
            if mine:
                del self._in_hand[submission.key]
                self._changed.notify_all()
        if mine:
            submission.request.reply(rc, meta, with_commands=noted)
            self._answer_copies(hand, check)

    def _leave(self, submission: _Submission, why: object) -> None:
        """Leave a submission to the next server: its request stays in the inbox, and its payload in Redis."""
        logger.info("%s is left to the next server: %s", submission, why)
        with self._changed:
            self._in_hand.pop(submission.key, None)
            self._changed.notify_all()

    def _answer_copies(self, hand: _ResultInHand, check: SubmissionCheck | None) -> None:
        """Answer the copies of a submission; when it failed (None), handle them instead."""
        for copy in hand.copies:
            if check is None:
                self.pool.submit(partial(self._take, copy))
                continue
            if copy.payload.blob != hand.submission.payload.blob:
                self._discard(copy.payload)
            copy.reply(SubmissionCheck.DUPLICATE if check is SubmissionCheck.ACCEPT else check)

    def _handle(self, submission: _Submission) -> tuple[SubmissionCheck, list[list[Arg]]]:
        """Give a result to the communicator; return the commands that note it.

        Raises:
            BlobMissing: its payload is gone.
            Fenced: another server has taken over.
        """
        message = submission.message
        check = self.communicator.peek_submission(submission.client, message.task_name, message.task_id)
        if check not in (SubmissionCheck.ACCEPT, SubmissionCheck.UNKNOWN):
            expected = check in (SubmissionCheck.DUPLICATE, SubmissionCheck.FINISHED)
            level = logging.INFO if expected else logging.WARNING
            submission.request.note_fault(f"dropped: {check.name}", f"{submission} is dropped: {check.name}", level)
            return check, []
        with self._large.enter() if submission.payload.nbytes > _LARGE else nullcontext():
            # nothing here refers to its data when the next one is read
            client_task, rc = self._give(submission)
        if client_task is None:
            return check, []
        if client_task.result_received_time is None:
            return SubmissionCheck.FINISHED, []
        meta = message.message if isinstance(message.message, dict) else {}
        return check, self.journal.received(client_task, rc, meta, submission.payload)

    def _give(self, submission: _Submission) -> tuple[ClientTask | None, str]:
        result, message = self._read(submission), submission.message
        with self.engine.new_context() as fl_ctx:
            client_task = self.communicator.process_task_check(message.task_id, fl_ctx)
            with self.journal.results.handling(message.task_id):
                self._process(submission.client, message.task_name, message.task_id, result, fl_ctx, message.props)
        return client_task, str(result.get_return_code())

    def _read(self, submission: _Submission) -> Shareable:
        """Decode a result; one that cannot be read becomes EXECUTION_RESULT_ERROR, or its task would wait forever."""
        try:
            return self._decode(submission.message.message, submission.payload)
        except DecodeError as error:
            submission.request.note_fault("unreadable result", f"{submission} cannot be read: {error}", logging.ERROR)
            why = f"the result cannot be read: {error}"
            return make_reply(ReturnCode.EXECUTION_RESULT_ERROR, {ReservedHeaderKey.ERROR: why})

    def _decode(self, message: object, payload: EncodedPayload) -> Shareable:
        return from_message(message, payload.decode(self.server, self.limits))

    def _process(
        self, client: Client, name: str, task_id: str, result: Shareable, fl_ctx: FLContext, props: object = None
    ) -> None:
        self.clients.introduce(client, fl_ctx, props)
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
        self.engine.fire_event(EventType.BEFORE_PROCESS_SUBMISSION, fl_ctx)
        self.communicator.process_submission(client, name, task_id, result, fl_ctx)
        self.engine.fire_event(EventType.AFTER_PROCESS_SUBMISSION, fl_ctx)

    def _discard(self, payload: EncodedPayload) -> None:
        """Delete the payload of a result, unless a successor would need it."""
        if payload.blob is not None and not self.journal.retains(payload):
            discard(self.server, payload.blob)

    def replay(self, task: TaskRecord, noted: ClientTaskRecord) -> None:
        """Give the controller a result again that was accepted before a restart."""
        client_task = self.communicator.process_task_check(noted.id, FLContext())
        if client_task is None or noted.result is None:
            return
        try:
            result = self._decode(dict(noted.meta), noted.result)
            with self.engine.new_context() as fl_ctx:
                self._process(client_task.client, task.name, noted.id, result, fl_ctx)
        except Exception:
            logger.exception(
                "the accepted result %s of task %r could not be given to the controller again", noted.id, task.name
            )

    def __repr__(self) -> str:
        return f"<ResultHandler, {len(self._in_hand)} results in hand>"
