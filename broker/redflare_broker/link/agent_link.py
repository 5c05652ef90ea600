"""``AgentLink``: the agent's end of a link: waits for tasks, hands in results, learns of aborts.

``next_task`` and ``submit`` block in the caller's thread. ``Subscriber`` and ``Heartbeats`` call ``on_message`` and
``on_beat`` from theirs; both only set flags and wake the blocked caller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.constants import RC
from redflare_broker.errors import BlobMissing, DecodeError, ServerError, Unavailable
from redflare_broker.keys import names_payload
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.scripts.script import BLOB_MISSING, RESEND, UNKNOWN, ScriptReply
from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, FETCHED, NEW, REJECTED, SUBMITTED
from redflare_broker.transport.replies import RedisReply
from redflare_broker.util.backoff import Backoff
from redflare_broker.util.wakeup import WakeupEvent
from redflare_broker.wire.codec import Encoded, encode
from redflare_broker.wire.task_entry import Entry

from .endpoint import LinkEndpoint
from .liveness import Liveness, Peer
from .session import Session
from .submission import ResultSubmission

logger = logging.getLogger(__name__)

_WAITS: Final = "%s: Redis cannot be used now; the result of task %s will be submitted again: %s"

#: rc of a task that the agent could not read.
BAD_REQUEST_DATA: Final = "BAD_REQUEST_DATA"
_REGISTER_EVERY: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedTask:
    """A task in this agent's hands."""

    task_id: str
    task_name: str
    meta: dict[str, Any]
    data: Any
    #: 1 for the first instance that had it, more after crashes.
    attempt: int


class AgentLink(LinkEndpoint):
    """The agent's end of a link.

    Args:
        session: of the role "agent".
        liveness, on_news: as of ``LinkEndpoint``.
        heartbeats: beats at once when a message may have been missed; adding this link to it is the owner's part.
        on_abort: called from the subscriber's or the heartbeat thread with the id of an aborted task.
        last_exit: how the process of this agent before this one has ended; "": not known.
    """

    def __init__(
        self,
        session: Session,
        liveness: Liveness,
        heartbeats: Heartbeats,
        on_news: Callable[[], None],
        on_abort: Callable[[str], None],
        *,
        last_exit: str = "",
    ) -> None:
        super().__init__(session, liveness, on_news)
        self._heartbeats = heartbeats
        self._on_abort = on_abort
        self._last_exit = last_exit
        self._submit_wakeup = WakeupEvent()
        #: Statuses of tasks that the other threads have learned: a result is ACCEPTED, a task ABORTED, ...
        self._learned: dict[str, str] = {}
        #: a result that is in Redis, or may be, whose acceptance was not waited for
        self._interrupted: ResultSubmission | None = None
        self._registered = -_REGISTER_EVERY

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def next_task(self, timeout: float) -> ReceivedTask | None:
        """Return the open task, as soon as there is one; None on timeout (seconds) or after a nudge.

        Raises:
            Unavailable: Redis is away; call again after a pause.
            Fenced: a newer instance has taken over.
        """
        session = self.session
        losses = session.losses
        entries, _ = session.read(session.keys.tasks, "0", timeout)
        for entry_id, fields in entries:
            try:
                entry = self._parse(entry_id, fields)
            except DecodeError as exc:
                self._on_unreadable(entry_id, str(exc))
                continue
            taken = self._take(entry.task_id)
            if taken.status == FETCHED and taken.number(1) >= session.settings.max_attempts:
                self._give_back(entry.task_id, taken.number(1))
                continue
            if taken.status == FETCHED:
                return self._received(entry, taken.number())
            if session.losses == losses:
                self.bury(session.keys.tasks, entry_id, f"task {entry.task_id!r} is not open on this link")
        return None

    def _take(self, task_id: str) -> ScriptReply:
        scripts = self.session.scripts
        return self.session.step(lambda connection, lease: scripts.take(connection, lease, task_id))

    def _parse(self, entry_id: str, fields: list[bytes]) -> Entry:
        """Read an entry of the tasks stream. It may name the server's payloads, which the CJ passes on.

        Raises:
            DecodeError: it is not one of ours.
        """
        stream, namespace = self.session.keys.tasks, self.session.federation_keys.namespace
        entry = Entry.parse(stream, entry_id, fields, allowed_prefixes=(f"{namespace}:",))
        if entry.blob is not None and not names_payload(namespace, entry.blob.prefix):
            raise DecodeError(
                f"{stream} entry {entry_id}: field blobs: prefix {entry.blob.prefix!r} is that of no payload"
            )
        return entry

    def _on_unreadable(self, entry_id: str, reason: str) -> None:
        """Bury an entry that is not one of ours; where that of the open task should be, refuse it, which ends it."""
        session = self.session
        found = session.open_connection().call("HGET", session.keys.link, "task")
        open_task = found.decode() if isinstance(found, bytes) else ""
        if open_task and self.is_current(open_task, "entry", entry_id) and self._take(open_task).status == FETCHED:
            self._refuse(open_task, BAD_REQUEST_DATA, reason)
        else:
            self.bury(session.keys.tasks, entry_id, reason)

    def _received(self, entry: Entry, attempt: int) -> ReceivedTask | None:
        """Receive the payload of a task and work on it from now on; None: it cannot be read and was refused."""
        try:
            meta, data = self.payloads.receive(entry).finish()
        except BlobMissing as exc:
            self._refuse(entry.task_id, BLOB_MISSING, str(exc))
            return None
        except DecodeError as exc:
            self._refuse(entry.task_id, BAD_REQUEST_DATA, str(exc))
            return None
        self.work_on(entry.task_id)
        label = self.session.label
        logger.debug("%s: task %s %r fetched, attempt %s", label, entry.task_id, entry.task_name, attempt)
        return ReceivedTask(task_id=entry.task_id, task_name=entry.task_name, meta=meta, data=data, attempt=attempt)

    def _give_back(self, task_id: str, died: int) -> None:
        """End a task that was the end of too many agents."""
        last = self._last_exit or "it is gone without a goodbye, its own log may say why"
        agents = "an agent has" if died == 1 else f"{died} agents have"
        self._refuse(task_id, RC.EXECUTION_EXCEPTION, f"{agents} died with it (max_attempts); the last one: {last}")

    def _refuse(self, task_id: str, rc: str, reason: str) -> None:
        logger.error("%s: task %s is refused, %s: %s", self.session.label, task_id, rc, reason)
        scripts = self.session.scripts
        self.session.step(lambda connection, lease: scripts.refuse(connection, lease, task_id, rc, reason))

    # -- results -------------------------------------------------------------------------------------------------------

    def submit(
        self,
        task_id: str,
        task_name: str,
        rc: str,
        encoded: Encoded,
        *,
        resend_interval: float,
        answer_timeout: float,
        give_up: Callable[[], bool],
        on_send: Callable[[], None] = lambda: None,
    ) -> str:
        """Hand a result in and wait for its end: ACCEPTED, REJECTED, ABORTED, DUPLICATE, UNKNOWN, or "" given up.

        Args:
            task_id: "" for the open task (a restarted agent does not know its id).
            encoded: what ``encode_result`` made.
            resend_interval: seconds after which the submission is repeated; it is safe to repeat.
            answer_timeout: seconds without Redis knowing the task after which UNKNOWN is believed; that no task is open
                is believed at once, unless Redis has lost this link.
            give_up: asked after every wake-up; True leaves what was submitted to the CJ.
            on_send: called at each submission.

        A submission that was interrupted (Ctrl-C) when the result was sent already goes on, with that result, when it
        is called again for the same task.

        Raises:
            Fenced: a newer instance has taken over.
        """
        sending, self._interrupted = self._interrupted, None
        if sending is None or task_id not in ("", sending.task_id):
            sending = ResultSubmission(self.session, self.payloads, task_id, task_name, rc, encoded)
        unknown_since: float | None = None
        backoff = Backoff(first=0.1, longest=min(resend_interval, 3.2))
        try:
            while True:
                # an old wake-up would end every wait below at once; the flags are checked after it is cleared
                self._submit_wakeup.clear()
                if give_up():
                    break
                if self._learned.get(sending.task_id) == ABORTED:
                    return sending.end(ABORTED)
                try:
                    on_send()
                    status = sending.once()
                except Unavailable as exc:
                    logger.log(backoff.level(exc, logging.INFO), _WAITS, self.session.label, sending.task_id, exc)
                    self._submit_wakeup.wait(backoff.next_delay())
                    continue
                backoff.reset()
                # from its first answer on: before that this process may have been stopped, or Redis away
                may_come = status == UNKNOWN and (sending.task_id or self.session.losses)
                unknown_since = (unknown_since or time.monotonic()) if may_come else None
                if unknown_since is not None and time.monotonic() - unknown_since < answer_timeout:
                    self._submit_wakeup.wait(resend_interval)
                elif status == SUBMITTED:
                    if end := self._wait_for_end(sending.task_id, resend_interval, give_up):
                        return sending.end(end)
                elif status != RESEND:
                    return sending.end(status)
            return self._end_in_ledger(sending)
        except ServerError:
            sending.refused()
            raise
        except KeyboardInterrupt:
            self._interrupted = sending if sending.sent else None
            raise
        finally:
            self._learned.clear()

    def _wait_for_end(self, task_id: str, patience: float, give_up: Callable[[], bool]) -> str:
        """Wait up to ``patience`` seconds until another thread learns how a task ended; "": ask Redis again."""
        deadline = time.monotonic() + patience
        while True:
            self._submit_wakeup.clear()
            # first what was learned: a CJ that accepts and then says bye has accepted
            if status := self._learned.pop(task_id, ""):
                return status if status != RESEND else ""
            left = deadline - time.monotonic()
            if left <= 0 or give_up() or not self._submit_wakeup.wait(left):
                return ""

    def _end_in_ledger(self, sending: ResultSubmission) -> str:
        """How the task ended if the CJ has left and its message may have been lost; "" when it has not ended."""
        if self.peer is Peer.LEFT and sending.task_id:
            session = self.session
            try:
                status = session.open_connection().call("HGET", session.keys.task(sending.task_id), "status")
            except Unavailable:
                return ""
            if status in (b"ACCEPTED", b"REJECTED", b"ABORTED"):
                return sending.end(status.decode())
        return ""

    def wake_submit(self) -> None:
        """From any thread: make ``submit`` ask ``give_up`` again at once."""
        self._submit_wakeup.set()

    # -- what the other threads learn ----------------------------------------------------------------------------------

    def beat_now(self) -> None:
        """Ask Redis at once how things stand: messages may have been missed."""
        self._heartbeats.beat_now(self)

    def on_message(self, words: list[str]) -> None:
        """Handle a message of the abort or notice channel; the scripts change the ledger before they publish."""
        match words:
            case ["abort", task_id]:
                self._aborted(task_id)
            case ["accepted" | "rejected" | "resend" as status, task_id]:
                self._learned[task_id] = status.upper()
                self._submit_wakeup.set()
            case ["hello", "agent", epoch] if epoch.isdecimal() and int(epoch) <= self.session.lease.epoch:
                pass
            case _:
                self.beat_now()
                self._submit_wakeup.set()

    def on_beat(self, reply: RedisReply) -> None:
        super().on_beat(reply)
        task_id, status = self._seen
        if not task_id or task_id != self.task_id:
            return
        if status == ABORTED:
            self._aborted(task_id)
        elif status == NEW:
            self._retake(task_id)
        elif status in (ACCEPTED, REJECTED):
            self._learned[task_id] = status
            self._submit_wakeup.set()

    def _update_peer(self, reply: ScriptReply) -> None:
        super()._update_peer(reply)
        # A CJ that said bye ends its agent; an agent that did may be followed by another. An agent's epoch is its
        # start by Redis's clock: a bye before that was meant for its predecessors.
        self.liveness.closed(reply.number(5) >= self.session.lease.epoch)

    def _maintain(self) -> None:
        now = time.monotonic()
        if now - self._registered >= _REGISTER_EVERY:
            self._registered = now
            session = self.session
            with session.server.borrow(session.federation_keys.agents) as connection:
                session.scripts.register(connection, session.federation_keys.agents)
        super()._maintain()

    def _aborted(self, task_id: str) -> None:
        self._learned[task_id] = ABORTED
        self._on_abort(task_id)
        self._submit_wakeup.set()

    def _retake(self, task_id: str) -> None:
        """Take the task in hand again: Redis lost who has it, or its payload was sent again."""
        session = self.session
        with session.server.borrow(session.keys.link) as connection:
            session.scripts.take(connection, session.lease, task_id)

    def was_aborted(self, task_id: str) -> bool:
        """Whether an abort of this task was learned."""
        return self._learned.get(task_id) == ABORTED

    def forget_task(self) -> None:
        """Work on the current task no longer."""
        self.work_on(None)
        self._learned.clear()
        if self._interrupted is not None:
            # its task was aborted before the submission was taken up again: nobody reads its payload
            self._interrupted.end(ABORTED)
            self._interrupted = None


def encode_result(meta: dict[str, Any], data: object, settings: LinkSettings) -> Encoded:
    """Encode a result; raise EncodeError, which names what cannot be sent, before anything is written."""
    return encode(meta, data, settings.limits)
