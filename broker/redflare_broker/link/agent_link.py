"""The agent's side of a link: waits for tasks, hands in results, learns of aborts.

``next_task`` and ``submit`` block in the caller's thread. ``Listener`` and ``Heartbeats`` call ``on_message`` and
``on_beat`` from theirs; both only set flags and wake the blocked caller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import BlobMissing, DecodeError, ServerError, Unavailable
from redflare_broker.keys import names_payload
from redflare_broker.scripts.script import BLOB_MISSING, FENCED, LOST, RESEND, UNKNOWN, ScriptReply, parse_reply
from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, FETCHED, NEW, REJECTED, SUBMITTED
from redflare_broker.transport.replies import RedisReply, ReplyError
from redflare_broker.transport.server import Server
from redflare_broker.util.wakeup import WakeupEvent
from redflare_broker.wire.codec import Encoded, encode
from redflare_broker.wire.task_entry import Entry

from .base_link import LinkEndpoint
from .liveness import Liveness, Peer
from .submission import ResultSubmission

logger = logging.getLogger(__name__)

#: rc of a task that the agent could not read.
BAD_REQUEST_DATA: Final = "BAD_REQUEST_DATA"


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
    """The agent's side of the link of ``fqcn``.

    Args:
        on_abort: called from the listener's or the heartbeat thread with the id of an aborted task.
    """

    role = "agent"

    def __init__(
        self,
        server: Server,
        fqcn: str,
        settings: LinkSettings,
        liveness: Liveness,
        on_news: Callable[[], None],
        on_abort: Callable[[str], None],
    ) -> None:
        super().__init__(server, fqcn, settings, liveness, on_news)
        # the payload of a task may be the server's, which the CJ passes on; what else is named is refused by ``parse``
        self._blob_prefixes = (f"{self.federation.namespace}:",)
        self._on_abort = on_abort
        self._told = WakeupEvent()
        self._verdicts: dict[str, str] = {}
        #: a result that is in Redis, or may be, whose verdict was not waited for
        self._interrupted: ResultSubmission | None = None
        #: asks for a beat at once; set by the owner of the heartbeat thread
        self.look_now: Callable[[], None] = lambda: None

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def next_task(self, timeout: float) -> ReceivedTask | None:
        """The open task, as soon as there is one; None on timeout (seconds) or after a nudge.

        Raises:
            Unavailable: the server is away; call again after a pause.
            Fenced: a newer instance has taken over.
        """
        entries, reply = self.read(self.keys.tasks, "0", timeout, then=lambda: self.scripts.take_command(self.lease))
        if reply is None:
            return None
        said = self._taken(reply)
        for entry_id, fields in entries:
            try:
                entry = self.parse(self.keys.tasks, entry_id, fields)
            except DecodeError as exc:
                self._unreadable(said, entry_id, str(exc))
                continue
            if said.status == FETCHED and said.text() == entry.task_id:
                return self._received(entry, said.number(1))
            if said.status != LOST:
                self.bury(self.keys.tasks, entry_id, f"task {entry.task_id!r} is not open on this link")
        return None

    def _taken(self, reply: RedisReply) -> ScriptReply:
        if isinstance(reply, ReplyError) and reply.code == "NOSCRIPT":
            return self.step(self.scripts.take)
        said = parse_reply("link/take", reply)
        if said.status in (FENCED, LOST):
            # resumes, or raises Fenced; what was lost is read and taken anew by the next call
            self.step(self.scripts.take)
        return said

    def _unreadable(self, said: ScriptReply, entry_id: str, reason: str) -> None:
        """What is none of ours is moved away; where the task that was taken should be, it ends the task."""
        if said.status == FETCHED and self.stands_for(said.text(), "entry", entry_id):
            self._refuse(said.text(), BAD_REQUEST_DATA, reason)
        else:
            self.bury(self.keys.tasks, entry_id, reason)

    def _received(self, entry: Entry, attempt: int) -> ReceivedTask | None:
        try:
            received = self.decode(entry)
            meta, data = received.finish()
        except BlobMissing as exc:
            self._refuse(entry.task_id, BLOB_MISSING, str(exc))
            return None
        except DecodeError as exc:
            self._refuse(entry.task_id, BAD_REQUEST_DATA, str(exc))
            return None
        self.work_on(entry.task_id)
        logger.debug("%s: task %s %r fetched, attempt %s", self.label, entry.task_id, entry.task_name, attempt)
        return ReceivedTask(task_id=entry.task_id, task_name=entry.task_name, meta=meta, data=data, attempt=attempt)

    def parse(self, stream: str, entry_id: str, fields: list[bytes]) -> Entry:
        entry = super().parse(stream, entry_id, fields)
        if entry.blob is not None and not names_payload(self.federation.namespace, entry.blob.prefix):
            raise DecodeError(
                f"{stream} entry {entry_id}: field blobs: prefix {entry.blob.prefix!r} is that of no payload"
            )
        return entry

    def _refuse(self, task_id: str, rc: str, reason: str) -> None:
        logger.error("%s: task %s is refused, %s: %s", self.label, task_id, rc, reason)
        self.step(lambda connection, lease: self.scripts.refuse(connection, lease, task_id, rc, reason))

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
        """Hand a result in and wait for the verdict: ACCEPTED, REJECTED, ABORTED, DUPLICATE, UNKNOWN, or "" given up.

        Args:
            task_id: "" for the open task (a restarted agent does not know its id).
            encoded: what ``encode_result`` made.
            resend_interval: seconds after which the submission is repeated; it is safe to repeat.
            answer_timeout: seconds without Redis knowing the task after which UNKNOWN is believed.
            give_up: asked after every wake-up; True leaves what was submitted to the CJ.
            on_send: called at each submission.

        A submission that was interrupted (Ctrl-C) when the result was sent already goes on, with that result, when it
        is called again for the same task.

        Raises:
            Fenced: a newer instance has taken over.
        """
        sending = self._interrupted
        if sending is None or task_id not in ("", sending.task_id):
            sending = ResultSubmission(self, task_id, task_name, rc, encoded)
        self._interrupted = None
        known_until = time.monotonic() + answer_timeout
        failures = 0
        try:
            while True:
                # an old wake-up would end every wait below at once; the flags are looked at after it is forgotten
                self._told.clear()
                if give_up():
                    break
                if self._verdicts.get(sending.task_id) == ABORTED:
                    return sending.end(ABORTED)
                try:
                    on_send()
                    word = sending.once()
                except Unavailable as exc:
                    failures += 1
                    logger.log(
                        logging.INFO if failures == 1 else logging.DEBUG, "%s: submit waits: %s", self.label, exc
                    )
                    self._told.wait(min(resend_interval, 0.05 * 2 ** min(failures, 6)))
                    continue
                failures = 0
                if word == UNKNOWN and time.monotonic() < known_until:
                    self._told.wait(resend_interval)
                elif word == SUBMITTED:
                    known_until = time.monotonic() + answer_timeout
                    if verdict := self._verdict(sending.task_id, resend_interval, give_up):
                        return sending.end(verdict)
                elif word != RESEND:
                    return sending.end(word)
            return self._last_look(sending)
        except ServerError:
            sending.refused()
            raise
        except KeyboardInterrupt:
            self._interrupted = sending if sending.sent else None
            raise
        finally:
            self._verdicts.clear()

    def _verdict(self, task_id: str, patience: float, give_up: Callable[[], bool]) -> str:
        """What the listener hears of a task within ``patience`` seconds; "" when it is time to ask again."""
        deadline = time.monotonic() + patience
        while True:
            self._told.clear()
            # the verdict first: a CJ that accepts and then says bye has accepted
            if verdict := self._verdicts.pop(task_id, ""):
                return verdict if verdict != RESEND else ""
            left = deadline - time.monotonic()
            if left <= 0 or give_up() or not self._told.wait(left):
                return ""

    def _last_look(self, sending: ResultSubmission) -> str:
        """The verdict of a CJ that has left, should its message have been lost; "" when there is none."""
        if self.peer is Peer.CLOSED and sending.task_id:
            try:
                status = self.open_connection().call("HGET", self.keys.task(sending.task_id), "status")
            except Unavailable:
                return ""
            if status in (b"ACCEPTED", b"REJECTED", b"ABORTED"):
                return sending.end(status.decode())
        return ""

    def wake_submit(self) -> None:
        """From any thread: ``submit`` asks ``give_up`` again at once."""
        self._told.set()

    # -- what the other threads hear -----------------------------------------------------------------------------------

    def on_message(self, words: list[str]) -> None:
        """A message of the abort or notice channel; the scripts change the ledger before they publish."""
        match words:
            case ["abort", task_id]:
                self._aborted(task_id)
            case ["accepted" | "rejected" | "resend" as word, task_id]:
                self._verdicts[task_id] = word.upper()
                self._told.set()
            case ["hello", "agent", epoch] if epoch.isdecimal() and int(epoch) <= self.lease.epoch:
                pass
            case _:
                self.look_now()
                self._told.set()

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
            self._verdicts[task_id] = status
            self._told.set()

    def _aborted(self, task_id: str) -> None:
        self._verdicts[task_id] = ABORTED
        self._on_abort(task_id)
        self._told.set()

    def _retake(self, task_id: str) -> None:
        """Redis lost who has the task, or its payload was sent again: it is still in this agent's hands."""
        with self.server.borrow(self.keys.link) as connection:
            self.scripts.take(connection, self.lease, task_id)

    def was_aborted(self, task_id: str) -> bool:
        """An abort of this task was heard."""
        return self._verdicts.get(task_id) == ABORTED

    def forget_task(self) -> None:
        """The current task is no longer this agent's."""
        self.work_on(None)
        self._verdicts.clear()
        if self._interrupted is not None:
            # its task was aborted before the submission was taken up again: nobody reads its payload
            self._interrupted.end(ABORTED)
            self._interrupted = None


def encode_result(meta: dict[str, Any], data: object, settings: LinkSettings) -> Encoded:
    """Bytes of a result; raises EncodeError, which names what cannot be sent, before anything is written."""
    return encode(meta, data, settings.limits)
