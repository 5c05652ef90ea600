"""``JobRegistration``: a job as its server has registered it in Redis; registers it again when Redis has lost it."""

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

#: Seconds until the next try while Redis does not know the cell yet.
_PAUSE: Final = 0.05


class JobRegistration:
    """Thread-safe.

    Args:
        server: the federation's Redis.
        members: of the job.
        cell: the server's; whoever holds the cell holds the job.
        run: id of this run.
        beat_now: makes the cell send its heartbeat, so that Redis knows the cell.
        over: whether this run is over; then nothing is registered again.
        on_loss: called, in the thread that found it out, when Redis had lost the job and knows it again.
    """

    def __init__(
        self,
        server: Server,
        members: Members,
        cell: Cell,
        run: str,
        beat_now: Callable[[], object],
        over: Callable[[], bool],
        on_loss: Callable[[], object] = lambda: None,
    ) -> None:
        #: How often the job was registered again.
        self.generation = 0
        self.lease = Lease(instance=cell.instance, epoch=cell.epoch, run=run)
        self._server = server
        self._members = members
        self._beat_now = beat_now
        self._over = over
        self._on_loss = on_loss
        self._guard = threading.Lock()
        self._changed = threading.Event()

    def begin(self, *, resume: bool) -> JobStart:
        """Take the job over.

        Raises:
            Fenced: a newer server has it.
            JobEnded: this very run has ended.
            Unavailable, JobLost: the run was over before Redis was reached.
        """
        while True:
            try:
                return self._server.run(
                    self._members.keys.job,
                    lambda connection: self._members.begin(connection, self.lease, resume=resume),
                    stop=self._over,
                )
            except JobLost:
                if self._over():
                    raise
            self._beat_now()
            self._changed.wait(_PAUSE)

    def retry_after_loss(self, step: Callable[[], T]) -> T:
        """Take a step of this run, and repeat it if Redis had lost the job.

        Raises:
            Fenced, JobEnded, Unavailable, JobLost: as ``begin``.
        """
        while True:
            generation = self.generation
            try:
                return step()
            except JobLost:
                if self._over():
                    raise
                self.begin_again(generation)

    def begin_again(self, generation: int | None = None) -> None:
        """Register the job again if Redis has lost it.

        Args:
            generation: the one in which the loss was found.

        Raises:
            Fenced, JobEnded, Unavailable, JobLost: as ``begin``.
        """
        with self._guard:
            if generation is not None and self.generation != generation:
                return
            if self.list_members().status == OK:
                return
            self.begin(resume=True)
            self.generation += 1
        logger.warning("%s: Redis had lost this job, it was registered again", self._members.keys.fqcn)
        self._on_loss()

    def list_members(self) -> MemberList:
        """Read the member list, which is a heartbeat for the job, too."""
        return self._server.run(
            self._members.keys.job,
            lambda connection: self._members.list_members(connection, self.lease),
            stop=self._over,
        )

    def __repr__(self) -> str:
        return f"<JobRegistration {self.generation} of {self._members.keys.fqcn}>"
