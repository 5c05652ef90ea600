"""One result on its way from an agent to its CJ."""

from __future__ import annotations

import logging
from secrets import token_hex

from redflare_broker.constants import TOPIC_SUBMIT_RESULT
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import DUPLICATE, OPEN, RESEND, ScriptReply
from redflare_broker.scripts.task_states import ACCEPTED, SUBMITTED
from redflare_broker.wire.codec import Encoded
from redflare_broker.wire.task_entry import BlobRef, Entry

from .base_link import LinkEndpoint

logger = logging.getLogger(__name__)


class ResultSubmission:
    """One result on its way: keeps its submit id, so that it is handed in once however often it is sent."""

    def __init__(self, link: LinkEndpoint, task_id: str, task_name: str, rc: str, encoded: Encoded) -> None:
        self.task_id = task_id
        self._link = link
        self._encoded = encoded
        self._task_name = task_name
        self._rc = rc
        self._submit_id = ""
        self._buffers: tuple[memoryview, ...] = ()
        self._blob: BlobRef | None = None
        #: It may stand in Redis.
        self.sent = False
        #: It stands in Redis.
        self.handed_in = False

    def once(self) -> str:
        """Send, and return the word of the answer."""
        if not self._submit_id:
            submit_id = token_hex(16)
            self._buffers, self._blob = self._link.payload(self._encoded, self._link.keys.result_blob(submit_id))
            self._submit_id = submit_id
        while True:
            said = self._step()
            if said.status != OPEN:
                break
            self.task_id = said.text()
        if said.status == RESEND:
            self._link.release_blob(self._blob)
            self._submit_id = ""
        self.handed_in = said.status == SUBMITTED
        return said.status

    def _step(self) -> ScriptReply:
        self.sent = True
        size, scripts = self._encoded.nbytes, self._link.scripts
        return self._link.step(
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
        """The server refused for good: unless the result is in nevertheless, its payload is deleted."""
        if not self.handed_in:
            self._link.release_blob(self._blob)

    def end(self, word: str) -> str:
        """A payload that the CJ will not read is deleted; an accepted one is the CJ's to delete."""
        if word != ACCEPTED:
            self._link.release_blob(self._blob)
        elif self._blob is not None:
            self._link.hand_over_blob(self._blob)
        if word == DUPLICATE:
            logger.warning("%s: task %s has another result already", self._link.label, self.task_id)
        return word
