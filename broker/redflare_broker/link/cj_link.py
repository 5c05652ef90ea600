"""The client job's side of a link: assigns a task, waits for its result, accepts or aborts.

``exchange`` is the whole of it and blocks in the caller's thread. Every step is safe to run twice, so its answer to any
trouble with the connection, and to a server that lost its data, is to begin again with ``assign``: a task that stands
is left as it is, one that was lost is put there again, one that was answered meanwhile gives its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.constants import RC, TOPIC_GET_TASK, TOPIC_SUBMIT_RESULT
from redflare_broker.errors import BlobMissing, DecodeError, Fenced, RedflareError, Unavailable
from redflare_broker.payload import redis_store
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.scripts.script import BLOB_MISSING, BUSY, FENCED, LOST, UNKNOWN, ScriptReply, parse_reply
from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, NEW, REJECTED
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import RedisReply, ReplyError, entries_in
from redflare_broker.transport.server import Server
from redflare_broker.wire.codec import meta_beside
from redflare_broker.wire.task_entry import BlobRef, Entry, check_task_id

from .base_link import LinkEndpoint
from .exchange import ExchangeOutcome, Outgoing
from .liveness import Liveness

logger = logging.getLogger(__name__)

#: How long an abort is tried before it is left to the heartbeat thread, in seconds.
_ABORT_PATIENCE: Final = 5.0


class CJLink(LinkEndpoint):
    """The CJ's side of the link of ``fqcn``; ``exchange`` is for one thread at a time."""

    role = "cj"

    def __init__(
        self, server: Server, fqcn: str, settings: LinkSettings, liveness: Liveness, on_news: Callable[[], None]
    ) -> None:
        super().__init__(server, fqcn, settings, liveness, on_news)
        self._cursor = "0"
        self._longest_read = settings.block
        #: the server knows the assign script: a refusal of it would leave a begun read behind
        self._scripts_known = False
        #: payload of the last accepted result
        self._kept: BlobRef | None = None
        #: payload of the last accepted result, when that was given out sealed, until ``release_result``
        self._lent: BlobRef | None = None
        #: tasks whose ledgers stand in Redis, oldest first
        self._settled: dict[str, None] = {}
        #: aborts that Redis could not be told of, and their reasons
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
        look_every: float | None = None,
        seal_result: bool = False,
    ) -> ExchangeOutcome:
        """Hand a task to the agent and wait for the result.

        Args:
            task_id: the same id again, also from another process, gets the same result. data: a tree, or a
            ``EncodedPayload``, which is passed on as it is. Its chunks are the caller's to renew and delete;
                when they are gone, the outcome is REJECTED with rc BLOB_MISSING, and the task stands until it is sent
                again with others, or another task replaces it.
            give_up: asked after every wake-up; a non-empty reason aborts the task.
            deadline: moment of ``time.monotonic()`` at which the task is aborted.
            look_every: seconds after which ``give_up`` is asked without a wake-up, for reasons that cannot wake.
            seal_result: the result's data comes back as a ``EncodedPayload``, and chunks of it are not fetched; say
                ``release_result`` before the next exchange. A result whose meta has arrays comes back as a tree all the
                same.

        Raises:
            EncodeError: the task cannot be sent; nothing was written.
            ServerError: the server refused for good; nothing is left standing.
        """
        prefix = self.federation.task_blob(token_hex(16))
        task = Outgoing.make(task_id, name, meta, data, prefix, self.settings.limits)
        task.seal_result = seal_result
        check_task_id(task_id)
        self.release_result(handed_over=False)
        self.work_on(task_id)
        self._settled.pop(task_id, None)
        try:
            return self._until_settled(task, give_up, deadline, look_every)
        except Fenced as exc:
            return ExchangeOutcome(status=ABORTED, reason=str(exc))
        except BaseException as exc:
            self.abort(task_id, f"the client job failed: {exc!r}")
            raise
        finally:
            self.work_on(None)
            self._settled[task_id] = None
            self.release_blob(task.blob)

    def _until_settled(
        self, task: Outgoing, give_up: Callable[[], str], deadline: float | None, look_every: float | None
    ) -> ExchangeOutcome:
        failures = 0
        while True:
            reason = give_up()
            if not reason and deadline is not None and time.monotonic() >= deadline:
                reason = "no result in time"
            if reason:
                # a server that is known to be away is not waited for
                word = self.abort(task.task_id, reason, patience=0.0 if failures else _ABORT_PATIENCE)
                return self._given_up(task, word, reason)
            self._longest_read = _shortest(self.settings.block, look_every, deadline)
            try:
                outcome = self._attempt(task, give_up, deadline)
                failures = 0
            except Unavailable as exc:
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                logger.log(level, "%s: task %s waits for Redis: %s", self.label, task.task_id, exc)
                self.pause(failures, self._longest_read)
                continue
            if outcome is not None:
                return outcome

    def _given_up(self, task: Outgoing, word: str, reason: str) -> ExchangeOutcome:
        """``word``: the task's status after the abort; a result that was accepted before it counts."""
        try:
            if word == ACCEPTED and (said := self._assign(task)).status == ACCEPTED:
                return self._kept_result(task, said.text()) or ExchangeOutcome(status=ABORTED, reason=reason)
        except Unavailable as exc:
            logger.warning("%s: the result of task %s came as it was given up: %s", self.label, task.task_id, exc)
        return ExchangeOutcome(status=ABORTED, reason=reason)

    def _attempt(self, task: Outgoing, give_up: Callable[[], str], deadline: float | None) -> ExchangeOutcome | None:
        """Assign, wait, settle; None: begin again."""
        losses = self.losses
        said = self._assign(task)
        if said.status == ACCEPTED:
            return self._kept_result(task, said.text())
        if said.status == ABORTED:
            return ExchangeOutcome(status=ABORTED, reason="the task was aborted")
        if said.status == REJECTED:
            return self._refused(task)
        if said.status != NEW:
            # it stands since before: its result may be there already
            self._cursor = "0"
        elif said.text():
            # it stands since before without its payload, which was gone
            task.send_again(said.text())
            return None
        return self._wait(task, give_up, deadline, losses)

    def _wait(
        self, task: Outgoing, give_up: Callable[[], str], deadline: float | None, losses: int
    ) -> ExchangeOutcome | None:
        """Read until the task has ended; None: give up, or begin again, as when Redis has lost the task."""
        while not give_up() and self.task_status != ABORTED and self.losses == losses:
            left = self._longest_read if deadline is None else min(deadline - time.monotonic(), self._longest_read)
            if left <= 0:
                return None
            entries, reply = self.read(
                self.keys.results,
                self._cursor,
                left,
                then=lambda: self.scripts.accept_command(self.lease, task.task_id),
            )
            accepted = isinstance(reply, list) and reply[0] == b"ACCEPTED"
            for entry_id, fields in entries:
                self._cursor = entry_id
                outcome = self._consider(task, entry_id, fields, accepted)
                if outcome is not None or task.entry is None:
                    return outcome
        if self.task_status == ABORTED:
            return ExchangeOutcome(status=ABORTED, reason="the task was aborted")
        return None

    # -- assign --------------------------------------------------------------------------------------------------------

    def _assign(self, task: Outgoing) -> ScriptReply:
        while True:
            if task.entry is None:
                buffers: tuple[memoryview, ...] = ()
                if task.foreign is None:
                    buffers, task.blob = self.payload(task.encoded, task.blob_prefix)
                task.entry = Entry(
                    topic=TOPIC_GET_TASK,
                    task_id=task.task_id,
                    task_name=task.name,
                    epoch=self.lease.epoch,
                    session=self.lease.instance,
                    sender=self.lease.instance,
                    meta=task.encoded.meta,
                    data=task.encoded.data,
                    buffers=buffers,
                    blob=task.foreign or task.blob,
                )
            said = self._assign_step(task, task.entry)
            if said.status != BUSY:
                break
            task.expected = said.text()
        if said.status == NEW and self._kept is not None:
            kept, self._kept = self._kept, None
            self.release_blob(kept)
        logger.debug("%s: task %s %r is %s", self.label, task.task_id, task.name, said.status)
        return said

    def _assign_step(self, task: Outgoing, entry: Entry) -> ScriptReply:
        size, expected, lost = task.encoded.nbytes, task.expected, task.lost
        if self._scripts_known and not expected and not lost:
            # the usual case, in one round trip with the read that waits for the result
            sent = self.scripts.assign_command(self.lease, entry, size=size, forget=self._oldest())
            accept = self.scripts.accept_command(self.lease, entry.task_id)
            reply = self.step_and_read(sent, self.keys.results, self._cursor, self._longest_read, accept)
            if not isinstance(reply, ReplyError) and (said := parse_reply("link/assign", reply)).status == NEW:
                return said
            self.drop_connection()
        said = self.step(
            lambda connection, lease: self.scripts.assign(
                connection, lease, entry, size=size, expected=expected, lost=lost
            )
        )
        self._scripts_known = True
        return said

    def _oldest(self) -> str:
        """A task whose ledger has stood long enough; "" while there are few."""
        if len(self._settled) <= self.settings.policy.settled_tasks:
            return ""
        oldest = next(iter(self._settled))
        del self._settled[oldest]
        return oldest

    def drop_connection(self) -> None:
        super().drop_connection()
        # a new connection may be to a server that lost its streams, whose ids then begin anew
        self._cursor = "0"

    # -- results -------------------------------------------------------------------------------------------------------

    def _consider(self, task: Outgoing, entry_id: str, fields: list[bytes], accepted: bool) -> ExchangeOutcome | None:
        """One entry of the results stream; None: not the end of this task. ``accepted``: its result is, in Redis."""
        try:
            entry = self.parse(self.keys.results, entry_id, fields)
        except DecodeError as exc:
            return self._unreadable(task, entry_id, str(exc))
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
            self.bury(self.keys.results, entry_id, f"topic {entry.topic!r}, task {entry.task_id!r}: not asked for here")
        return None

    def _settle(self, task: Outgoing, entry_id: str, entry: Entry, accepted: bool) -> ExchangeOutcome | None:
        try:
            meta, data = self._content(task, entry)
        except BlobMissing as exc:
            logger.warning("%s: the result of task %s must be sent again: %s", self.label, task.task_id, exc)
            task.send_again(entry_id)
            return None
        except DecodeError as exc:
            return self._rejected(task, str(exc))
        verdict = ACCEPTED if accepted else self._verdict(task, ACCEPTED, "")
        if verdict == ACCEPTED:
            self._hold(entry.blob, data)
            return ExchangeOutcome(status=ACCEPTED, rc=entry.rc, meta=meta, data=data)
        if verdict in (ABORTED, REJECTED):
            return ExchangeOutcome(status=ABORTED, reason=f"the task was {verdict.lower()} while its result was read")
        if verdict == UNKNOWN:
            # Redis lost the task after it gave its result: put it there again, its agent still holds the result
            task.send_again("")
        return None

    def _unreadable(self, task: Outgoing, entry_id: str, reason: str) -> ExchangeOutcome | None:
        """What is none of ours is moved away; where the task's result should be, it ends the task."""
        if self.stands_for(task.task_id, "result", entry_id):
            return self._rejected(task, reason)
        self.bury(self.keys.results, entry_id, reason)
        return None

    def _rejected(self, task: Outgoing, reason: str) -> ExchangeOutcome:
        self._verdict(task, REJECTED, reason)
        return ExchangeOutcome(status=REJECTED, rc=RC.EXECUTION_EXCEPTION, reason=reason)

    def _verdict(self, task: Outgoing, verdict: str, reason: str) -> str:
        return self.step(
            lambda connection, lease: self.scripts.settle(connection, lease, task.task_id, verdict, reason)
        ).status

    def _content(self, task: Outgoing, entry: Entry) -> tuple[dict[str, Any], Any]:
        """Meta and data of a result; when it is wanted sealed, its chunks are only made sure of.

        Raises:
            DecodeError, BlobMissing, Unavailable: as ``decode``.
        """
        if task.seal_result:
            blob, limits = entry.blob, self.settings.limits
            sizes = blob.sizes if blob is not None else tuple(map(len, entry.buffers))
            meta = meta_beside(entry.meta, entry.data, sizes, limits)
            if meta is not None:
                if blob is not None:
                    redis_store.check_ref(blob, limits)
                    ttl_ms = self.settings.policy.retention_ms
                    if not redis_store.renew(self.server, blob, ttl_ms, deadline=time.monotonic()):
                        raise BlobMissing(f"payload {blob.prefix!r} is gone, or a part of it")
                return meta, EncodedPayload(entry.data, entry.buffers, blob)
        return self.decode(entry).finish()

    def _hold(self, blob: BlobRef | None, data: object) -> None:
        """Look after the payload of an accepted result."""
        if blob is None:
            return
        if isinstance(data, EncodedPayload):
            self._lent = blob
            self._kept = None if self._kept == blob else self._kept
            self.hold_blob(blob)
        else:
            self._keep(blob)

    def release_result(self, handed_over: bool) -> None:
        """Say what becomes of the last result that was given out sealed; without one it has no effect.

        Args:
            handed_over: the chunks are somebody else's now, to renew and to delete. Else they are kept as those of any
                accepted result: for ``result_keep``, or until the next task. Not said before the next exchange, this is
                taken for granted.
        """
        blob, self._lent = self._lent, None
        if blob is None:
            return
        self.hand_over_blob(blob)
        if not handed_over and not self.fenced:
            self._keep(blob)

    def _keep(self, blob: BlobRef) -> None:
        """An accepted payload stays for a CJ that takes over, until the next task or for ``result_keep``."""
        self._kept = blob
        try:
            keep_ms = round(self.settings.policy.result_keep * 1000)
            redis_store.renew(self.server, blob, keep_ms, deadline=time.monotonic())
        except RedflareError as exc:
            logger.warning("%s: payload %s expires late: %s", self.label, blob.prefix, exc)

    def _kept_result(self, task: Outgoing, entry_id: str) -> ExchangeOutcome | None:
        """The result of a task that was accepted before: this process, or one that died, has had it already."""
        reply = self.open_connection().call("XRANGE", self.keys.results, entry_id, entry_id) if entry_id else None
        for _, fields in entries_in(reply if isinstance(reply, list) else []):
            try:
                entry = self.parse(self.keys.results, entry_id, fields)
                meta, data = self._content(task, entry)
                self._hold(entry.blob, data)
                return ExchangeOutcome(status=ACCEPTED, rc=entry.rc, meta=meta, data=data)
            except (BlobMissing, DecodeError) as exc:
                logger.warning("%s: the kept result of task %s is gone: %s", self.label, task.task_id, exc)
        logger.warning("%s: task %s was accepted, but its result is gone: it is done again", self.label, task.task_id)
        task.send_again(entry_id)
        return None

    def _refused(self, task: Outgoing) -> ExchangeOutcome:
        reply = self.open_connection().call("HMGET", self.keys.task(task.task_id), "rc", "reason")
        rc, reason = (value.decode("utf-8", "replace") if isinstance(value, bytes) else "" for value in _pair(reply))
        return ExchangeOutcome(status=REJECTED, rc=rc, reason=reason or "the task was rejected")

    # -- abort ---------------------------------------------------------------------------------------------------------

    def abort(self, task_id: str, reason: str, *, patience: float = _ABORT_PATIENCE) -> str:
        """Abort a task from any thread; returns its status, "" when Redis cannot be told now (it will be)."""
        until = time.monotonic() + patience
        try:
            word = self.server.run(
                self.keys.link, lambda connection: self._abort_step(connection, task_id, reason).status, deadline=until
            )
        except Fenced:
            return FENCED
        except RedflareError as exc:
            logger.warning("%s: task %s will be aborted when Redis is back: %s", self.label, task_id, exc)
            self._owed_aborts[task_id] = reason
            return ""
        logger.info("%s: task %s is %s: %s", self.label, task_id, word, reason)
        self.nudge()
        return word

    def _abort_step(self, connection: Connection, task_id: str, reason: str) -> ScriptReply:
        lease = self.lease
        said = self.scripts.abort(connection, lease, task_id, reason)
        if said.status == LOST:
            self.hello(connection, lease.epoch)
            said = self.scripts.abort(connection, self.lease, task_id, reason)
        return said

    def on_beat(self, reply: RedisReply) -> None:
        super().on_beat(reply)
        for task_id in list(self._owed_aborts):
            reason = self._owed_aborts.pop(task_id)
            if task_id != self.task_id and not self.abort(task_id, reason, patience=0.0):
                break
        if self.task_status == ABORTED:
            self.nudge()

    def close(self, *, bye: bool) -> None:
        super().close(bye=bye)
        # a successor may be reading what this CJ has kept
        if bye and not self.fenced:
            self.release_blob(self._kept)


def _shortest(block: float, look_every: float | None, deadline: float | None) -> float:
    """How many seconds a read may block, so that nothing is looked at too late."""
    left = block if deadline is None else max(deadline - time.monotonic(), 0.001)
    return min(block, left, block if look_every is None else look_every)


def _pair(reply: RedisReply) -> tuple[RedisReply, RedisReply]:
    return (reply[0], reply[1]) if isinstance(reply, list) and len(reply) == 2 else (None, None)
