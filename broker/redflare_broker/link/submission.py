"""``ResultSubmission``: one result that an agent hands in to its CJ."""

from __future__ import annotations

import logging
from secrets import token_hex

from redflare_broker.constants import TOPIC_SUBMIT_RESULT
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import DUPLICATE, OPEN, RESEND, ScriptReply
from redflare_broker.scripts.task_states import ACCEPTED, SUBMITTED
from redflare_broker.wire.codec import Encoded
from redflare_broker.wire.task_entry import BlobRef, Entry

from .payloads import LinkPayloads
from .session import Session

logger = logging.getLogger(__name__)


class ResultSubmission:
    """One result that is being handed in: keeps its submit id, so that it counts once however often it is sent."""

    def __init__(
        self, session: Session, payloads: LinkPayloads, task_id: str, task_name: str, rc: str, encoded: Encoded
    ) -> None:
        self.task_id = task_id
        self._session = session
        self._payloads = payloads
        self._encoded = encoded
        self._task_name = task_name
        self._rc = rc
        self._submit_id = ""
        self._buffers: tuple[memoryview, ...] = ()
        self._blob: BlobRef | None = None
        #: It may be stored in Redis.
        self.sent = False
        #: It is stored in Redis.
        self.handed_in = False

    def once(self) -> str:
        """Send the result, and return the status of the reply."""
        if not self._submit_id:
            submit_id = token_hex(16)
            self._buffers, self._blob = self._payloads.write(self._encoded, self._session.keys.result_blob(submit_id))
            self._submit_id = submit_id
        while True:
            reply = self._step()
            if reply.status != OPEN:
                break
            self.task_id = reply.text()
        if reply.status == RESEND:
            self._payloads.delete(self._blob)
            self._submit_id = ""
        self.handed_in = reply.status == SUBMITTED
        return reply.status

    def _step(self) -> ScriptReply:
        self.sent = True
        size, scripts = self._encoded.nbytes, self._session.scripts
        return self._session.step(
            lambda connection, lease: scripts.submit(
                connection, lease, self._entry(lease), submit_id=self._submit_id, size=size
            )
        )

    def _entry(self, lease: Lease) -> Entry:
        return Entry(
            topic=TOPIC_SUBMIT_RESULT,
            task_id=self.task_id,
            task_name=self._task_name,
            rc=self._rc,
            epoch=lease.epoch,
            sender=lease.instance,
            meta=self._encoded.meta,
            data=self._encoded.data,
            buffers=self._buffers,
            blob=self._blob,
        )

    def refused(self) -> None:
        """Delete the payload after the server refused for good, unless the result is in nevertheless."""
        if not self.handed_in:
            self._payloads.delete(self._blob)

    def end(self, status: str) -> str:
        """Delete a payload that the CJ will not read, or leave an accepted one to the CJ; return the status."""
        if status != ACCEPTED:
            self._payloads.delete(self._blob)
        elif self._blob is not None:
            self._payloads.hand_over(self._blob)
        if status == DUPLICATE:
            logger.warning("%s: task %s has another result already", self._session.label, self.task_id)
        return status
