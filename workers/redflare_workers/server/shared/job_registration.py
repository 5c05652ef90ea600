"""A job as its server has registered it in Redis; registers it again after a loss. And the job's heartbeat."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from redflare_broker.errors import JobLost, RedflareError
from redflare_broker.job_state.awaited_sites import AwaitedSites
from redflare_broker.job_state.members import JobStart, MemberList, Members
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import OK
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.transport.server import Server

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds until the next try while Redis does not know the cell yet.
_PAUSE: Final = 0.05


@dataclass(slots=True, eq=False)
class JobRegistration:
    """One run of a job in Redis. Thread-safe."""

    server: Server
    members: Members
    #: the server's: whoever holds its cell holds the job
    lease: Lease
    #: makes the cell send its heartbeat, so that Redis knows the cell
    beat_now: Callable[[], object]
    #: whether this run is over; then nothing is registered again
    over: Callable[[], bool]
    #: called, in the thread that found it out, when Redis had lost the job and knows it again
    on_loss: Callable[[], object] = lambda: None
    #: How often the job was registered again.
    generation: int = field(default=0, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _changed: threading.Event = field(default_factory=threading.Event, init=False)

    def begin(self, *, resume: bool) -> JobStart:
        """Take the job over.

        Raises:
            Fenced: a newer server has it.
            JobEnded: this very run has ended.
            Unavailable, JobLost: the run was over before Redis was reached.
        """
        while True:
            try:
                return self.server.run(
                    self.members.keys.job,
                    lambda connection: self.members.begin(connection, self.lease, resume=resume),
                    stop=self.over,
                )
            except JobLost:
                if self.over():
                    raise
            self.beat_now()
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
                if self.over():
                    raise
                self.begin_again(generation)

    def begin_again(self, generation: int | None = None) -> None:
        """Register the job again if Redis has lost it, and nobody has since the ``generation`` that found the loss.

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
        logger.warning("%s: Redis had lost this job, it was registered again", self.members.keys.fqcn)
        self.on_loss()

    def list_members(self) -> MemberList:
        """Read the member list, which is a heartbeat for the job, too."""
        return self.server.run(
            self.members.keys.job,
            lambda connection: self.members.list_members(connection, self.lease),
            stop=self.over,
        )

    def note_awaited(self, awaited: AwaitedSites | None) -> None:
        """Note for which sites the controller waits before it begins; None: it waits no longer.

        Raises:
            Fenced, JobEnded, Unavailable, JobLost: it cannot be noted.
        """
        self.server.run(
            self.members.keys.job,
            lambda connection: self.members.note_awaited(connection, self.lease, awaited),
            stop=self.over,
        )

    def __repr__(self) -> str:
        return f"<JobRegistration {self.generation} of {self.members.keys.fqcn}>"


@dataclass(slots=True, eq=False)
class MembershipPoller:
    """The server's heartbeat for its job, which reads the member list as well; a client of the heartbeat thread."""

    registration: JobRegistration
    #: seconds between two heartbeats
    interval: float
    #: called with the member list, from the heartbeat thread
    on_members: Callable[[MemberList], None]
    _asked: float = field(default=0.0, init=False)

    @property
    def route(self) -> str:
        return self.registration.members.keys.job

    def beat(self) -> list[Arg]:
        """Return the heartbeat as a command."""
        self._asked = time.monotonic()
        return self.registration.members.list_members_command(self.registration.lease)

    def on_beat(self, reply: RedisReply) -> None:
        """Pass on the member list that Redis answered with."""
        self.on_members(replace(self.registration.members.read_members(reply), asked=self._asked))

    def on_silence(self, error: RedflareError) -> None:
        """Note that Redis is away; heartbeats of clients that are missed meanwhile do not count."""
        logger.debug("%s: the member list cannot be read: %s", self.registration.members.keys.fqcn, error)

    def __repr__(self) -> str:
        return f"<MembershipPoller of {self.registration.members.keys.fqcn}>"
