"""``ResultSubmission``: one result that an agent hands in to its CJ; ``AgentLink.submit`` repeats it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from secrets import token_hex

from redflare_broker.constants import TOPIC_SUBMIT_RESULT
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import DUPLICATE, OPEN, RESEND, ScriptReply
from redflare_broker.scripts.task_states import ACCEPTED, SUBMITTED
from redflare_broker.transport.connection import Connection
from redflare_broker.wire.codec import Encoded
from redflare_broker.wire.task_entry import BlobRef, Entry

from .payloads import LinkPayloads
from .session import Session

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ResultSubmission:
    """One result that is being handed in: keeps its submit id, so that it counts once however often it is sent."""

    session: Session
    payloads: LinkPayloads
    task_id: str
    task_name: str
    rc: str
    encoded: Encoded
    #: It may be stored in Redis.
    sent: bool = False
    #: It is stored in Redis.
    handed_in: bool = False
    _submit_id: str = ""
    #: its payload is stored, or it has none
    _written: bool = False
    _buffers: tuple[memoryview, ...] = ()
    _blob: BlobRef | None = None

    def once(self) -> str:
        """Send the result, and return the status of the reply."""
        if not self._written:
            # the same after an attempt that failed: one result that waits for room is seen as one
            self._submit_id = self._submit_id or token_hex(16)
            prefix = self.session.keys.result_blob(self._submit_id)
            self._buffers, self._blob = self.payloads.write(self.encoded, prefix)
            self._written = True
        self.sent = True
        while (reply := self.session.step(self._send)).status == OPEN:
            self.task_id = reply.text()
        if reply.status == RESEND:
            self.payloads.delete(self._blob)
            self._submit_id, self._written = "", False
        self.handed_in = reply.status == SUBMITTED
        if self.handed_in and self._blob is not None:
            self.payloads.keep(self._blob)
        return reply.status

    def _send(self, connection: Connection, lease: Lease) -> ScriptReply:
        entry = Entry(
            topic=TOPIC_SUBMIT_RESULT,
            task_id=self.task_id,
            task_name=self.task_name,
            rc=self.rc,
            epoch=lease.epoch,
            sender=lease.instance,
            meta=self.encoded.meta,
            data=self.encoded.data,
            buffers=self._buffers,
            blob=self._blob,
        )
        size = self.encoded.nbytes
        # one that names chunks which went meanwhile is asked for again
        before = self.payloads.naming(self._blob)
        return self.session.scripts.submit(
            connection, lease, entry, submit_id=self._submit_id, size=size, before=before
        )

    def refused(self) -> None:
        """Delete the payload after Redis refused for good, unless the result is in nevertheless."""
        if not self.handed_in:
            self.payloads.delete(self._blob)

    def end(self, status: str) -> str:
        """Delete a payload that the CJ will not read, or leave an accepted one to the CJ; return the status."""
        if status != ACCEPTED:
            self.payloads.delete(self._blob)
        elif self._blob is not None:
            self.payloads.hand_over(self._blob)
        if status == DUPLICATE:
            logger.warning("%s: task %s has another result already", self.session.label, self.task_id)
        return status
