"""``ResultDesk``: takes the results that sites bring.

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

from redflare_broker import blobs
from redflare_broker.cell import LATER, Answer
from redflare_broker.connection import Server
from redflare_broker.errors import BlobMissing, DecodeError, Fenced, RedflareError
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
from ..apis.shareable import ReservedHeaderKey, Shareable, make_reply
from ..apis.task import ClientTask, Task
from ..job_protocol import BLOB_MISSING, TOLD_ENDED
from ..shareable_message import from_message, opened
from ..workflow.board import Verdict
from ..workflow.wf_comm_server import WFCommServer
from .ledgers import Ledgers
from .one_at_a_time import OneAtATime
from .roster import Refused, Roster
from .server_engine import ServerEngine

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
    sealed: Sealed

    @property
    def key(self) -> tuple[str, str]:
        """Nobody else's submission is the same, whatever it claims to be for."""
        return self.client.name, self.task_id

    def __str__(self) -> str:
        return f"the result of client {self.client.name} for task {self.name!r} {self.task_id}"


@dataclass(slots=True, kw_only=True, eq=False)
class _InHand:
    """A submission that is being handled, and those of the same result that came meanwhile."""

    submission: _Submission
    copies: list[_Submission] = field(default_factory=list)


class ResultDesk:
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
        roster: Roster,
        ledgers: Ledgers,
        server: Server,
        settings: LinkSettings,
        pool: Pool,
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
        self._large = OneAtATime()
        self._changed = threading.Condition()
        self._in_hand: dict[tuple[str, str], _InHand] = {}
        ledgers.on_replay = self._replay

    def submit(self, request: Request) -> Answer:
        """A site brings a result."""
        try:
            client, _ = self._roster.client_of(request)
        except Refused as refused:
            # it, or the process of its site that has taken over, brings the same payload again
            request.sealed  # noqa: B018 - taken out of the request, it is not deleted with it
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
            sealed=request.sealed,
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
            hand.submission.request.reply(ReturnCode.OK, {"verdict": Verdict.FINISHED.name})
            self._answer_copies(hand, Verdict.FINISHED)

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
            hand = self._in_hand[submission.key] = _InHand(submission=submission)
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

    def _answer_copies(self, hand: _InHand, verdict: Verdict | None) -> None:
        """Those who have sent the same; when it failed (None), they are tried."""
        for copy in hand.copies:
            if verdict is None:
                self._pool.submit(partial(self._take, copy))
                continue
            if copy.sealed.blob != hand.submission.sealed.blob:
                self._discard(copy.sealed)
            told = Verdict.DUPLICATE if verdict is Verdict.ACCEPT else verdict
            copy.request.reply(ReturnCode.OK, {"verdict": told.name})

    def _handle(self, submission: _Submission) -> tuple[Verdict, list[list[Arg]]]:
        """Give a result to the communicator; the commands that note it.

        Raises:
            BlobMissing: its payload is gone.
            Fenced: another server goes on.
        """
        client, name, task_id = submission.client, submission.name, submission.task_id
        verdict = self._communicator.peek_submission(client, name, task_id)
        if verdict not in (Verdict.ACCEPT, Verdict.UNKNOWN):
            level = logging.INFO if verdict in (Verdict.DUPLICATE, Verdict.FINISHED) else logging.WARNING
            logger.log(level, "%s is dropped: %s", submission, verdict.name)
            return verdict, []
        with self._large.turn() if submission.sealed.nbytes > _LARGE else nullcontext():
            # nothing of it is held here when the next one is read
            client_task, rc = self._give(submission)
        if client_task is None:
            return verdict, []
        if client_task.result_received_time is None:
            return Verdict.FINISHED, []
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

    def _discard(self, sealed: Sealed) -> None:
        """Delete a payload that came in, unless a successor would need it."""
        if sealed.blob is None or self._ledgers.retains(sealed):
            return
        try:
            blobs.remove(self._server, sealed.blob, stop=lambda: True)
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
        return f"<ResultDesk, {len(self._in_hand)} results in hand>"
