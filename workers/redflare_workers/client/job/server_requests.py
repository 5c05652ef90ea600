"""``ServerRequests``: a site's requests to the server of its job: get a task, submit a result.

They survive a server that restarts and a Redis that is away or has lost its data: each is repeated until it is
answered, or not wanted any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from secrets import token_hex
from typing import Any, Final

from redflare_broker.cell.request import Reply
from redflare_broker.errors import DecodeError, EncodeError, ServerError, Unavailable
from redflare_broker.keys import Keys
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload
from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.util.backoff import Backoff
from redflare_broker.wire.message_entry import pack_meta
from redflare_broker.wire.task_entry import BlobRef

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership
from redflare_workers.protocol.job_messages import (
    RC_FENCED,
    RC_JOB_ENDED,
    RC_NOT_JOINED,
    GetTask,
    Refusal,
    Submit,
    SubmitReply,
    TaskReply,
)
from redflare_workers.protocol.job_outcome import FAILED, TAKEN_OVER, JobOutcome, ended_with
from redflare_workers.protocol.shareable_codec import encoded_data, from_message, to_message

logger = logging.getLogger(__name__)

#: Replies to a submission that another attempt would not change.
_FINAL: Final = frozenset({ReturnCode.EXECUTION_EXCEPTION, ReturnCode.BAD_REQUEST_DATA})


class Submitted(Enum):
    """What became of a submission."""

    #: The server has it, or will never take it.
    DONE = "done"
    #: Its payload was gone when the server wanted to read it.
    PAYLOAD_LOST = "payload lost"
    #: It is not wanted any more.
    GIVEN_UP = "given up"


@dataclass(slots=True, eq=False)
class ServerRequests:
    """Used by the thread of one client job."""

    #: this process's connection and cell
    host: CellHost
    #: FQCN of the cell of the job's server
    server_cell: str
    #: of this site
    membership: Membership
    #: set when this site's part ends, which ends pauses between attempts
    over: threading.Event
    #: why the request that waits now is not wanted any more; "": it is
    give_up: Callable[[], str]
    #: called with the outcome when a reply tells that the job is over for this site
    end: Callable[[JobOutcome], None]
    _backoff: Backoff = field(default_factory=lambda: Backoff(longest=5.0), init=False)
    #: The task whose payload was not found, and the prefix of that payload.
    _lost: tuple[str, str] = field(default=("", ""), init=False)
    #: Return code of the server's last reply.
    _rc: str = field(default="", init=False)

    def __repr__(self) -> str:
        return f"<ServerRequests of {self.membership!r}>"

    def get_task(self) -> tuple[TaskReply, Shareable] | None:
        """Wait for a task; None: there was none to go on with, check the flags and ask again."""
        lost, payload = self._lost
        request = GetTask(credentials=self.membership.credentials, lost=lost, payload=payload)
        reply = self._ask(GetTask.TOPIC, request.to_meta(), None)
        if reply is None:
            return None
        self._lost = ("", "")
        try:
            task = TaskReply.from_meta(reply.meta)
            return task, from_message(task.message, reply.encoded)
        except (TypeError, DecodeError) as error:
            reason = f"the server's reply is no task: {error!r}"
            logger.error("%s: %s", self, reason)
            self.end(JobOutcome(status=FAILED, reason=reason))
            return None

    def report_lost(self, task_id: str, data: Shareable) -> None:
        """Have the next ``get_task`` tell the server that the payload of a task was not found."""
        payload = encoded_data(data)
        blob = payload.blob if payload is not None else None
        self._lost = task_id, blob.prefix if blob is not None else ""

    def submit(self, task: TaskReply, result: Shareable, props: dict[str, Any]) -> Submitted:
        """Submit the result of a task; its payload is deleted here if the server does not take it over.

        Raises:
            Unavailable: the cell was stopped although the result is wanted.
        """
        passed_on = encoded_data(result) is not None
        taken, payload = False, None
        try:
            message, payload = self._stored(task, result)
            while not taken and not self.give_up():
                # with the credentials of now: it may have joined again meanwhile
                request = Submit(
                    credentials=self.membership.credentials,
                    task_name=task.task_name,
                    task_id=task.task_id,
                    message=message,
                    props=props,
                )
                reply = self._ask(Submit.TOPIC, request.to_meta(), payload)
                taken = reply is not None or self._rc in _FINAL
                if self._rc == BLOB_MISSING:
                    return Submitted.PAYLOAD_LOST
                if reply is not None:
                    verdict = SubmitReply.from_meta(reply.meta).verdict
                    logger.debug("%s: the result of task %s %r: %s", self, task.task_id, task.task_name, verdict)
        except Unavailable:
            # it was given up while Redis was away
            if not self.give_up():
                raise
        finally:
            if not passed_on and not taken and payload is not None and payload.blob is not None:
                self._delete(payload.blob)
        return Submitted.DONE if taken else Submitted.GIVEN_UP

    # -- inside --------------------------------------------------------------------------------------------------------

    def _ask(self, topic: str, meta: dict[str, Any], data: object) -> Reply | None:
        """Send a request and wait for the reply; None: it was refused or given up, check the flags."""
        reply = self.host.cell.send_request(
            GetTask.CHANNEL, topic, self.server_cell, meta, data, timeout=None, give_up=self.give_up
        )
        self._rc = reply.rc
        if reply.ok:
            self._backoff.reset()
            return reply
        reason = Refusal.from_meta(reply.meta).reason
        if reply.rc == RC_JOB_ENDED:
            self.end(ended_with(reason))
        elif reply.rc == RC_FENCED:
            self.end(TAKEN_OVER)
        elif not self.give_up():
            if reply.rc == RC_NOT_JOINED:
                self.membership.join(self.give_up)
            else:
                logger.warning(
                    "%s: the server answered %s with %s, asking again: %s", self, topic, reply.rc, reply.error or reason
                )
            # the cause may last for a while
            self.over.wait(self._backoff.next_delay())
        return None

    def _stored(self, task: TaskReply, result: Shareable) -> tuple[dict[str, Any], EncodedPayload]:
        """Store a result; one that cannot be sent is replaced by an EXECUTION_RESULT_ERROR.

        Raises:
            Unavailable: it is not wanted any more, and Redis is away.
        """
        while True:
            try:
                return self._store(result)
            except EncodeError as error:
                # the workflow would wait for it forever
                logger.error(
                    "%s: the result of task %s %r cannot be sent: %s", self, task.task_id, task.task_name, error
                )
                why = f"the result cannot be sent: {error}"
                return self._store(make_reply(ReturnCode.EXECUTION_RESULT_ERROR, {ReservedHeaderKey.ERROR: why}))
            except ServerError as error:
                # Redis may have room later
                logger.error(
                    "%s: Redis refused the result of task %s %r: %s", self, task.task_id, task.task_name, error
                )
                if self.give_up():
                    raise Unavailable(str(error)) from error
                self.over.wait(self._backoff.next_delay())

    def _store(self, result: Shareable) -> tuple[dict[str, Any], EncodedPayload]:
        """Return the message that carries a result; a large payload is stored, and is the server's once it answers."""
        host, settings = self.host, self.host.settings
        meta, data = to_message(result)
        pack_meta(meta)
        prefix = Keys(settings.namespace).cell(host.fqcn).blob(token_hex(16))
        payload = encode_payload(data, settings.limits)
        return meta, host.cell.payloads.store(payload, prefix, lambda: bool(self.give_up()))

    def _delete(self, blob: BlobRef) -> None:
        self.host.cell.payloads.discard(blob)
