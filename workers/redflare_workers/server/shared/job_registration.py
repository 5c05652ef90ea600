"""``JobRegistration``: a run's job in Redis: begun, and begun again whenever Redis has lost it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from redflare_broker.cell.cell import Cell
from redflare_broker.errors import JobLost
from redflare_broker.job_state.members import JobStart, MemberList, Members
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import OK
from redflare_broker.transport.server import Server

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds until the cell is looked at again that Redis does not know yet.
_PAUSE: Final = 0.05


class JobRegistration:
    """Thread-safe.

    Args:
        server: the federation's Redis.
        roll: of the job.
        cell: the server's; the job is held by who holds it.
        run: id of this run.
        look: has the cell look whether Redis still knows it.
        over: whether this run is over; then nothing is begun again.
    """

    def __init__(
        self,
        server: Server,
        roll: Members,
        cell: Cell,
        run: str,
        look: Callable[[], object],
        over: Callable[[], bool],
    ) -> None:
        #: How often the job was begun again.
        self.number = 0
        self.lease = Lease(instance=cell.instance, epoch=cell.epoch, run=run)
        #: Called, in the thread that found it out, when Redis had lost the job and knows it again.
        self.on_loss: Callable[[], object] = lambda: None
        self._server = server
        self._roll = roll
        self._look = look
        self._over = over
        self._guard = threading.Lock()
        self._changed = threading.Event()

    def begin(self, *, resume: bool) -> JobStart:
        """Take the job over.

        Raises:
            Fenced: a newer server is there.
            JobEnded: this very run has ended.
            Unavailable, JobLost: the run was over before Redis was there.
        """
        while True:
            try:
                return self._server.run(
                    self._roll.keys.job,
                    lambda connection: self._roll.begin(connection, self.lease, resume=resume),
                    stop=self._over,
                )
            except JobLost:
                if self._over():
                    raise
            self._look()
            self._changed.wait(_PAUSE)

    def surely(self, step: Callable[[], T]) -> T:
        """Take a step of this run; again, when Redis had lost the job.

        Raises:
            Fenced, JobEnded, Unavailable, JobLost: as ``begin``.
        """
        while True:
            life = self.number
            try:
                return step()
            except JobLost:
                if self._over():
                    raise
                self.begin_again(life)

    def begin_again(self, life: int | None = None) -> None:
        """If Redis has lost the job, begin it again.

        Args:
            life: the ``number`` in which the loss was found.

        Raises:
            Fenced, JobEnded, Unavailable, JobLost: as ``begin``.
        """
        with self._guard:
            if life is not None and self.number != life:
                return
            if self.call_roll().status == OK:
                return
            self.begin(resume=True)
            self.number += 1
        logger.warning("%s: Redis had lost this job; it goes on", self._roll.keys.fqcn)
        self.on_loss()

    def call_roll(self) -> MemberList:
        """The roll as it is now."""
        return self._server.run(
            self._roll.keys.job, lambda connection: self._roll.list_members(connection, self.lease), stop=self._over
        )

    def __repr__(self) -> str:
        return f"<JobRegistration {self.number} of {self._roll.keys.fqcn}>"
