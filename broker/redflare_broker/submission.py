"""One result on its way from an agent to its CJ."""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace

from .codec import Encoded
from .defs import TOPIC_SUBMIT_RESULT
from .entry import BlobRef, Entry
from .link import Link
from .scripts import ACCEPTED, DUPLICATE, OPEN, RESEND, Answer

logger = logging.getLogger(__name__)


class Submission:
    """One result on its way: keeps its submit id, so that it is handed in once however often it is sent."""

    def __init__(self, link: Link, task_id: str, task_name: str, rc: str, encoded: Encoded) -> None:
        self.task_id = task_id
        self._link = link
        self._encoded = encoded
        self._entry = Entry(
            topic=TOPIC_SUBMIT_RESULT,
            task_id=task_id,
            task_name=task_name,
            rc=rc,
            sender=link.me.name,
            meta=encoded.meta,
            data=encoded.data,
        )
        self._submit_id = ""
        self._blob: BlobRef | None = None

    def once(self) -> str:
        """Send, and return the word of the answer."""
        if not self._submit_id:
            submit_id = uuid.uuid4().hex
            buffers, self._blob = self._link.payload(self._encoded, self._link.keys.result_blob(submit_id))
            self._entry = replace(self._entry, buffers=buffers, blob=self._blob)
            self._submit_id = submit_id
        while True:
            said = self._step()
            if said.word != OPEN:
                break
            self.task_id = said.text()
            self._entry = replace(self._entry, task_id=self.task_id)
        if said.word == RESEND:
            self._submit_id = ""
        return said.word

    def _step(self) -> Answer:
        link = self._link
        # the entry carries the epoch it is submitted under, which a resumed link may have changed
        return link.step(
            lambda lane, me: link.scripts.submit(
                lane, me, replace(self._entry, epoch=me.epoch), submit_id=self._submit_id, size=self._encoded.nbytes
            )
        )

    def end(self, word: str) -> str:
        """A payload that the CJ will not read is deleted; an accepted one is the CJ's to delete."""
        if word != ACCEPTED:
            self._link.release_blob(self._blob)
        elif self._blob is not None:
            self._link.hand_over_blob(self._blob)
        if word == DUPLICATE:
            logger.warning("%s: task %s has another result already", self._link.label, self.task_id)
        return word
