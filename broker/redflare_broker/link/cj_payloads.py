"""``CJPayloads``: the payloads that a CJ answers for: its tasks', those of results, and what a predecessor has left."""

from __future__ import annotations

import logging

from redflare_broker.errors import Unavailable
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, REJECTED
from redflare_broker.wire.task_entry import BlobRef

from .exchange import OutgoingTask
from .ledger_payloads import LedgerPayloads
from .payloads import LinkPayloads
from .session import Session

logger = logging.getLogger(__name__)


class CJPayloads(LinkPayloads):
    """The payloads of a CJ's side. At the end of a task all of them go, whoever made them."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        #: payload of the last accepted result
        self._accepted: BlobRef | None = None
        #: payload of the last accepted result, when that was given out encoded, until ``release``
        self._lent: BlobRef | None = None
        #: what a predecessor has left on this link was read
        self._inherited = False
        #: a predecessor's tasks, which end with the next one
        self._replaced: set[str] = set()

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def inherit(self, task: OutgoingTask) -> None:
        """Read, before the first task, what a predecessor has left: its chunks of this task are adopted.

        Those of other tasks go when this one has taken their place.

        Raises:
            Fenced, Unavailable: as ``Session.open_connection``.
        """
        if self._inherited:
            return
        session = self._session
        connection = session.open_connection()
        reply = connection.call("HMGET", session.keys.link, "task", "kept_task")
        names = {name.decode() for name in reply if isinstance(name, bytes)} if isinstance(reply, list) else set()
        for task_id in names - {""}:
            found = LedgerPayloads.read(connection, session.keys, task_id)
            if task_id == task.task_id:
                task.inherited = found.task
                if found.task is not None:
                    self.keep(found.task)
                continue
            self._replaced.add(task_id)
            for ref in found:
                # in case this process dies before it deletes them
                self.expire(ref, session.settings.heartbeat_ttl)
        self._inherited = True

    def delete_replaced(self, expected: str) -> None:
        """Delete what belongs to tasks in whose place a new one is.

        Args:
            expected: the task that was open; "" for none.
        """
        accepted, self._accepted = self._accepted, None
        self.delete(accepted)
        replaced, self._replaced = self._replaced, set()
        for task_id in replaced | ({expected} if expected else set()):
            self.delete_of(task_id, accepted=True)

    def delete_of(self, task_id: str, *, accepted: bool = False) -> None:
        """Delete the payloads that the ledger of a task names, if it has ended without a result.

        Args:
            accepted: or with one, which nobody asks for any more.
        """
        session = self._session

        def delete() -> None:
            with session.server.borrow(session.keys.link) as connection:
                found = LedgerPayloads.read(connection, session.keys, task_id)
            # one whose abort was not written yet may have been taken up again
            if found.status in (ABORTED, REJECTED) or (accepted and found.status == ACCEPTED):
                for ref in found:
                    self.delete(ref)

        try:
            delete()
        except Unavailable as exc:
            logger.warning("%s: payloads of task %s are deleted later: %s", session.label, task_id, exc)
            session.server.owed.add(f"deleting the payloads of task {task_id} on {session.keys.fqcn}", delete)

    def end(self, task: OutgoingTask) -> None:
        """Delete a task's own payload, unless it is in the hands of a newer CJ now."""
        for ref in (task.blob, task.inherited):
            if ref is not None and self._session.fenced:
                self.hand_over(ref)
            else:
                self.delete(ref)

    # -- results -------------------------------------------------------------------------------------------------------

    def look_after(self, blob: BlobRef | None, data: object) -> None:
        """Keep the payload of an accepted result: for the caller if it is encoded, else for a successor."""
        if blob is None:
            return
        if isinstance(data, EncodedPayload):
            self._lent = blob
            self._accepted = None if self._accepted == blob else self._accepted
            self.keep(blob)
        else:
            self._keep_accepted(blob)

    def release(self, handed_over: bool) -> None:
        """Release the payload that ``look_after`` keeps for the caller, as ``CJLink.release_result`` describes."""
        blob, self._lent = self._lent, None
        if blob is None:
            return
        self.hand_over(blob)
        if not handed_over and not self._session.fenced:
            self._keep_accepted(blob)

    def delete_kept(self) -> None:
        """Delete the payload that is kept for a successor."""
        self.delete(self._accepted)

    def _keep_accepted(self, blob: BlobRef) -> None:
        """Leave an accepted payload for a CJ that takes over, until the next task or for ``result_keep``."""
        self._accepted = blob
        self.expire(blob, self._session.settings.policy.result_keep)
