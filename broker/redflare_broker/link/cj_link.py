"""``CJLink``: the client job's end of a link: assigns a task, waits for its result, accepts or aborts.

``exchange`` is the whole of it and blocks in the caller's thread. Every step is safe to run twice, so its answer to any
trouble with the connection, and to a Redis that lost its data, is to begin again with ``assign``: a task that is open
is left as it is, one that was lost is written again, one that was answered meanwhile gives its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any, Final

from redflare_broker.constants import RC, TOPIC_GET_TASK, TOPIC_SUBMIT_RESULT
from redflare_broker.errors import BlobMissing, DecodeError, Fenced, RedflareError, Unavailable
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.scripts.script import BLOB_MISSING, BUSY, FENCED, LOST, UNKNOWN, ScriptReply, parse_reply
from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, NEW, REJECTED
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import RedisReply, ReplyError, entries_in
from redflare_broker.util.backoff import Backoff
from redflare_broker.wire.codec import meta_beside
from redflare_broker.wire.task_entry import Entry, check_id

from .cj_payloads import CJPayloads
from .endpoint import LinkEndpoint
from .exchange import ExchangeOutcome, OutgoingTask
from .liveness import Liveness
from .session import Session

logger = logging.getLogger(__name__)

#: How long an abort is tried before it is left to the heartbeat thread, in seconds.
_ABORT_PATIENCE: Final = 5.0


class CJLink(LinkEndpoint):
    """The CJ's end of a link; ``exchange`` is for one thread at a time.

    Args:
        session: of the role "cj".
        liveness, on_news, interval: as of ``LinkEndpoint``.
    """

    def __init__(
        self, session: Session, liveness: Liveness, on_news: Callable[[], None], *, interval: float | None = None
    ) -> None:
        super().__init__(session, liveness, on_news, interval=interval)
        self.payloads: CJPayloads = CJPayloads(session)
        #: How the keys of payloads begin that a result may name.
        self._prefixes = (session.keys.result_blob(""), session.keys.task_blob(""))
        self._longest_read = session.settings.block
        #: Redis knows the assign script: a refusal of it would leave a begun read behind
        self._scripts_known = False
        #: tasks whose ledgers are stored in Redis, oldest first
        self._settled: dict[str, None] = {}
        #: the attempt at the task in progress that was reported last
        self._attempt_seen = 1
        #: aborts that could not be written to Redis, and their reasons
        self._owed_aborts: dict[str, str] = {}

    def exchange(
        self,
        task_id: str,
        name: str,
        meta: dict[str, Any],
        data: object,
        *,
        give_up: Callable[[], str],
        deadline: float | None = None,
        poll_interval: float | None = None,
        encoded_result: bool = False,
    ) -> ExchangeOutcome:
        """Hand a task to the agent and wait for the result.

        Args:
            task_id: the same id again, also from another process, gets the same result; once another task was handed
                out, the outcome is REJECTED.
            data: a tree, or an ``EncodedPayload``, which is passed on as it is. Its chunks are the caller's to renew
                and delete; when they are gone, the outcome is REJECTED with rc BLOB_MISSING, and the task stays open
                until it is sent again with others, or another task replaces it.
            give_up: asked after every wake-up; a non-empty reason aborts the task.
            deadline: moment of ``time.monotonic()`` at which the task is aborted.
            poll_interval: seconds after which ``give_up`` is asked without a wake-up, for reasons that cannot wake.
            encoded_result: return the result's data as an ``EncodedPayload``, and do not fetch its chunks; call
                ``release_result`` before the next exchange. A result whose meta has arrays comes back as a tree all
                the same.

        Raises:
            EncodeError: the task cannot be sent; nothing was written.
            ServerError: Redis refused for good; nothing is left behind.
        """
        prefix = self.session.keys.task_blob(token_hex(16))
        task = OutgoingTask.make(task_id, name, meta, data, prefix, self.session.settings.limits)
        task.encoded_result = encoded_result
        check_id(task_id)
        self.release_result(handed_over=False)
        self._attempt_seen = 1
        self.work_on(task_id)
        self._settled.pop(task_id, None)
        try:
            outcome = self._until_settled(task, give_up, deadline, poll_interval)
            if outcome.status != ACCEPTED:
                self.payloads.delete_of(task_id)
            return outcome
        except Fenced as exc:
            return ExchangeOutcome(status=ABORTED, reason=str(exc))
        except BaseException as exc:
            self.abort(task_id, f"the client job failed: {exc!r}")
            raise
        finally:
            self.work_on(None)
            self._settled[task_id] = None
            self.payloads.end(task)

    def _until_settled(
        self, task: OutgoingTask, give_up: Callable[[], str], deadline: float | None, poll_interval: float | None
    ) -> ExchangeOutcome:
        backoff = Backoff(first=0.1)
        while True:
            reason = give_up()
            if not reason and deadline is not None and time.monotonic() >= deadline:
                reason = "no result in time"
            if reason:
                # a Redis that is known to be away is not waited for
                status = self.abort(task.task_id, reason, patience=0.0 if backoff.failures else _ABORT_PATIENCE)
                return self._given_up(task, status, reason)
            self._longest_read = _shortest(self.session.settings.block, poll_interval, deadline)
            try:
                outcome = self._attempt(task, give_up, deadline)
                backoff.reset()
            except Unavailable as exc:
                level = backoff.level(exc, logging.WARNING)
                logger.log(level, "%s: task %s waits for Redis: %s", self.session.label, task.task_id, exc)
                self.session.pause(min(backoff.next_delay(), self._longest_read))
                continue
            if outcome is not None:
                return outcome

    def _given_up(self, task: OutgoingTask, status: str, reason: str) -> ExchangeOutcome:
        """Make the outcome of a task that was aborted; a result that was accepted before that counts.

        Args:
            status: of the task after the abort.
        """
        try:
            if status == ACCEPTED and (reply := self._assign(task)).status == ACCEPTED:
                return self._kept_result(task, reply.text()) or ExchangeOutcome(status=ABORTED, reason=reason)
        except Unavailable as exc:
            label = self.session.label
            logger.warning(
                "%s: task %s was given up as its result came, and the result could not be read: %s",
                label,
                task.task_id,
                exc,
            )
        return ExchangeOutcome(status=ABORTED, reason=reason)

    def _attempt(
        self, task: OutgoingTask, give_up: Callable[[], str], deadline: float | None
    ) -> ExchangeOutcome | None:
        """Assign, wait, settle; None: begin again."""
        losses = self.session.losses
        reply = self._assign(task)
        if reply.status == ACCEPTED:
            return self._kept_result(task, reply.text())
        if reply.status == ABORTED:
            return ExchangeOutcome(status=ABORTED, reason="the task was aborted")
        if reply.status == REJECTED:
            return self._refused(task)
        if reply.status != NEW:
            # it was open before: its result may be there already
            self.session.cursor = "0"
        elif reply.text():
            # it was open before without its payload, which was gone
            task.send_again(reply.text())
            return None
        return self._wait(task, give_up, deadline, losses)

    def _wait(
        self, task: OutgoingTask, give_up: Callable[[], str], deadline: float | None, losses: int
    ) -> ExchangeOutcome | None:
        """Read until the task has ended; None: give up, or begin again, as when Redis has lost the task."""
        session = self.session
        while not give_up() and self.task_status != ABORTED and session.losses == losses:
            left = self._longest_read if deadline is None else min(deadline - time.monotonic(), self._longest_read)
            if left <= 0:
                return None
            entries, reply = session.read(
                session.keys.results,
                session.cursor,
                left,
                then=lambda: session.scripts.accept_command(session.lease, task.task_id),
            )
            accepted = isinstance(reply, list) and reply[0] == b"ACCEPTED"
            for entry_id, fields in entries:
                session.cursor = entry_id
                outcome = self._on_result_entry(task, entry_id, fields, accepted)
                if outcome is not None or task.entry is None:
                    return outcome
        if self.task_status == ABORTED:
            return ExchangeOutcome(status=ABORTED, reason="the task was aborted")
        return None

    # -- assign --------------------------------------------------------------------------------------------------------

    def _assign(self, task: OutgoingTask) -> ScriptReply:
        """Write the task, or find out how it stands if it was written before."""
        self.payloads.inherit(task)
        while True:
            if task.entry is None:
                task.entry = self._entry(task)
            reply = self._assign_step(task, task.entry)
            if reply.status != BUSY:
                break
            task.expected = reply.text()
        if reply.status == NEW:
            if task.blob is not None:
                self.payloads.name(task.blob)
            self.payloads.delete_replaced(task.expected)
        logger.debug("%s: task %s %r is %s", self.session.label, task.task_id, task.name, reply.status)
        return reply

    def _entry(self, task: OutgoingTask) -> Entry:
        buffers: tuple[memoryview, ...] = ()
        blob = task.foreign
        if task.foreign is None and task.inherited is not None and not task.repeated:
            # the task stands with its predecessor's payload; should it be gone, the agent asks for this one
            buffers, blob = self.payloads.place(task.encoded, task.blob_prefix)
        elif task.foreign is None:
            buffers, task.blob = self.payloads.write(task.encoded, task.blob_prefix)
            blob = task.blob
        lease = self.session.lease
        return Entry(
            topic=TOPIC_GET_TASK,
            task_id=task.task_id,
            task_name=task.name,
            epoch=lease.epoch,
            session=lease.instance,
            sender=lease.instance,
            meta=task.encoded.meta,
            data=task.encoded.data,
            buffers=buffers,
            blob=blob,
        )

    def _assign_step(self, task: OutgoingTask, entry: Entry) -> ScriptReply:
        session, scripts = self.session, self.session.scripts
        size, expected, lost = task.encoded.nbytes, task.expected, task.lost
        if self._scripts_known and not expected and not lost:
            # the usual case, in one round trip with the read that waits for the result
            command = scripts.assign_command(session.lease, entry, size=size, forget=self._oldest())
            accept = scripts.accept_command(session.lease, entry.task_id)
            raw = session.step_and_read(command, session.keys.results, session.cursor, self._longest_read, accept)
            if not isinstance(raw, ReplyError) and (reply := parse_reply("link/assign", raw)).status == NEW:
                return reply
            session.drop_connection()
        reply = session.step(
            lambda connection, lease: scripts.assign(connection, lease, entry, size=size, expected=expected, lost=lost)
        )
        self._scripts_known = True
        return reply

    def _oldest(self) -> str:
        """Take the task whose ledger was settled longest ago, to be deleted; "" while there are few."""
        if len(self._settled) <= self.session.settings.policy.settled_tasks:
            return ""
        oldest = next(iter(self._settled))
        del self._settled[oldest]
        return oldest

    # -- results -------------------------------------------------------------------------------------------------------

    def _parse(self, entry_id: str, fields: list[bytes]) -> Entry:
        """Read an entry of the results stream.

        Raises:
            DecodeError: it is not one of ours.
        """
        return Entry.parse(self.session.keys.results, entry_id, fields, allowed_prefixes=self._prefixes)

    def _on_result_entry(
        self, task: OutgoingTask, entry_id: str, fields: list[bytes], accepted: bool
    ) -> ExchangeOutcome | None:
        """Handle one entry of the results stream; None: it does not end this task.

        Args:
            accepted: Redis has the task's result as accepted.
        """
        try:
            entry = self._parse(entry_id, fields)
        except DecodeError as exc:
            return self._on_unreadable(task, entry_id, str(exc))
        if entry.topic == TOPIC_GET_TASK and entry.task_id == task.task_id:
            if entry.rc == BLOB_MISSING:
                if task.is_hopeless:
                    return ExchangeOutcome(status=REJECTED, rc=BLOB_MISSING, reason=entry.reason)
                task.send_again(entry_id)
                return None
            return self._refused(task)
        if entry.topic == TOPIC_SUBMIT_RESULT and entry.task_id == task.task_id:
            return self._settle(task, entry_id, entry, accepted)
        # the refusal of another task goes with the next assign; it may be the one this CJ's successor waits for
        if entry.topic != TOPIC_GET_TASK:
            reason = f"topic {entry.topic!r}, task {entry.task_id!r}: not asked for here"
            self.bury(self.session.keys.results, entry_id, reason)
        return None

    def _settle(self, task: OutgoingTask, entry_id: str, entry: Entry, accepted: bool) -> ExchangeOutcome | None:
        """Receive and accept the result of this task; None: begin again."""
        try:
            meta, data = self._content(task, entry)
        except BlobMissing as exc:
            label = self.session.label
            logger.warning("%s: the result of task %s must be sent again: %s", label, task.task_id, exc)
            self.payloads.delete(entry.blob)
            task.send_again(entry_id)
            return None
        except DecodeError as exc:
            return self._reject(task, str(exc))
        status = ACCEPTED if accepted else self._write_status(task, ACCEPTED, "", lent=isinstance(data, EncodedPayload))
        if status == ACCEPTED:
            self.payloads.look_after(entry.blob, data)
            return ExchangeOutcome(status=ACCEPTED, rc=entry.rc, meta=meta, data=data)
        if status in (ABORTED, REJECTED):
            return ExchangeOutcome(status=ABORTED, reason=f"the task was {status.lower()} while its result was read")
        if status == UNKNOWN:
            # Redis lost the task after it gave its result: write it again, its agent still has the result
            task.send_again("")
        return None

    def _on_unreadable(self, task: OutgoingTask, entry_id: str, reason: str) -> ExchangeOutcome | None:
        """Bury an entry that is not one of ours; where the task's result should be, reject it, which ends the task."""
        if self.is_current(task.task_id, "result", entry_id):
            return self._reject(task, reason)
        self.bury(self.session.keys.results, entry_id, reason)
        return None

    def _reject(self, task: OutgoingTask, reason: str) -> ExchangeOutcome:
        self._write_status(task, REJECTED, reason)
        return ExchangeOutcome(status=REJECTED, rc=RC.EXECUTION_EXCEPTION, reason=reason)

    def _write_status(self, task: OutgoingTask, status: str, reason: str, *, lent: bool = False) -> str:
        """Accept or reject the task's result in Redis; return the status that the task has now."""
        scripts = self.session.scripts
        return self.session.step(
            lambda connection, lease: scripts.settle(connection, lease, task.task_id, status, reason, lent=lent)
        ).status

    def _content(self, task: OutgoingTask, entry: Entry) -> tuple[dict[str, Any], Any]:
        """Return meta and data of a result; of one that is wanted encoded, only make sure that its chunks are there.

        Raises:
            DecodeError, BlobMissing, Unavailable: as ``LinkPayloads.receive``.
        """
        if task.encoded_result:
            sizes = entry.blob.sizes if entry.blob is not None else tuple(map(len, entry.buffers))
            meta = meta_beside(entry.meta, entry.data, sizes, self.session.settings.limits)
            if meta is not None:
                if entry.blob is not None:
                    self.payloads.secure(entry.blob)
                return meta, EncodedPayload(entry.data, entry.buffers, entry.blob)
        return self.payloads.receive(entry).finish()

    def _kept_result(self, task: OutgoingTask, entry_id: str) -> ExchangeOutcome | None:
        """Read the result of a task that was accepted before, by this process or one that died; None: begin again.

        Args:
            entry_id: of the result; "": it is gone, for other tasks came after it.
        """
        session = self.session
        if not entry_id:
            reason = f"task {task.task_id} was accepted before, and other tasks came after it: it is not done again"
            return ExchangeOutcome(status=REJECTED, reason=reason)
        reply = session.open_connection().call("XRANGE", session.keys.results, entry_id, entry_id)
        for _, fields in entries_in(reply if isinstance(reply, list) else []):
            try:
                entry = self._parse(entry_id, fields)
                meta, data = self._content(task, entry)
                self.payloads.look_after(entry.blob, data)
                return ExchangeOutcome(status=ACCEPTED, rc=entry.rc, meta=meta, data=data)
            except (BlobMissing, DecodeError) as exc:
                logger.warning("%s: the kept result of task %s is gone: %s", session.label, task.task_id, exc)
                self.payloads.delete_of(task.task_id, accepted=True)
        logger.warning(
            "%s: task %s was accepted, but its result is gone from Redis; the agent gets the task again",
            session.label,
            task.task_id,
        )
        task.send_again(entry_id)
        return None

    def _refused(self, task: OutgoingTask) -> ExchangeOutcome:
        """Make the outcome of a task that the agent refused."""
        session = self.session
        reply = session.open_connection().call("HMGET", session.keys.task(task.task_id), "rc", "reason")
        rc, reason = (value.decode("utf-8", "replace") if isinstance(value, bytes) else "" for value in _pair(reply))
        return ExchangeOutcome(status=REJECTED, rc=rc, reason=reason or "the task was rejected")

    def release_result(self, handed_over: bool) -> None:
        """Release the last result that was returned encoded; without one this has no effect.

        Args:
            handed_over: the chunks are somebody else's now, to renew and to delete. Else they are kept as those of any
                accepted result: for ``result_keep``, or until the next task. The next exchange does the latter if this
                was not called.
        """
        self.payloads.release(handed_over)

    # -- abort ---------------------------------------------------------------------------------------------------------

    def abort(self, task_id: str, reason: str, *, patience: float = _ABORT_PATIENCE) -> str:
        """Abort a task from any thread; return its status, "" when Redis is away: then a later heartbeat does it."""
        session = self.session
        until = time.monotonic() + patience
        try:
            status = session.server.run(
                session.keys.link,
                lambda connection: self._abort_step(connection, task_id, reason).status,
                deadline=until,
            )
        except Fenced:
            return FENCED
        except RedflareError as exc:
            logger.warning("%s: task %s will be aborted when Redis is back: %s", session.label, task_id, exc)
            self._owed_aborts[task_id] = reason
            return ""
        logger.info("%s: task %s is %s: %s", session.label, task_id, status, reason)
        session.nudge()
        return status

    def _abort_step(self, connection: Connection, task_id: str, reason: str) -> ScriptReply:
        session = self.session
        lease = session.lease
        reply = session.scripts.abort(connection, lease, task_id, reason)
        if reply.status == LOST:
            session.hello(connection, lease.epoch)
            reply = session.scripts.abort(connection, session.lease, task_id, reason)
        return reply

    def on_beat(self, reply: RedisReply) -> None:
        super().on_beat(reply)
        for task_id in list(self._owed_aborts):
            reason = self._owed_aborts.pop(task_id)
            if task_id == self.task_id:
                continue
            if not self.abort(task_id, reason, patience=0.0):
                break
            self.payloads.delete_of(task_id)
        if self.task_status == ABORTED:
            self.session.nudge()

    def _update_peer(self, reply: ScriptReply) -> None:
        super()._update_peer(reply)
        attempt, (task_id, _) = reply.number(6), self._seen
        if task_id == self.task_id and attempt > self._attempt_seen:
            self._attempt_seen = attempt
            text = "%s: task %s is at attempt %s: the agent that had it is gone, now %s has it"
            logger.warning(text, self.session.label, task_id, attempt, self.peer_instance)

    def close(self, *, bye: bool, failed: bool = False) -> None:
        super().close(bye=bye, failed=failed)
        # a successor may be reading what this CJ has kept
        if bye and not self.session.fenced:
            self.payloads.delete_kept()


def _shortest(block: float, poll_interval: float | None, deadline: float | None) -> float:
    """How many seconds a read may block, so that nothing is noticed too late."""
    left = block if deadline is None else max(deadline - time.monotonic(), 0.001)
    return min(block, left, block if poll_interval is None else poll_interval)


def _pair(reply: RedisReply) -> tuple[RedisReply, RedisReply]:
    return (reply[0], reply[1]) if isinstance(reply, list) and len(reply) == 2 else (None, None)
