"""The server's heartbeat for its job: keeps what the job has in Redis, and reads the roll."""

from __future__ import annotations

import logging
from collections.abc import Callable

from redflare_broker.errors import RedflareError
from redflare_broker.job_state.members import MemberList, Members
from redflare_broker.keys import JobKeys
from redflare_broker.scripts.lease import Lease
from redflare_broker.transport.replies import Arg, RedisReply

logger = logging.getLogger(__name__)


class MembershipPoller:
    """Something the heartbeat thread beats for.

    Args:
        roll: of the job.
        lease: the server's on it.
        interval: seconds between two calls.
        on_roll: what the roll tells; called from the heartbeat thread.
    """

    def __init__(
        self, keys: JobKeys, roll: Members, lease: Lease, interval: float, on_roll: Callable[[MemberList], None]
    ) -> None:
        self.interval = interval
        self._keys = keys
        self._roll = roll
        self._lease = lease
        self._on_roll = on_roll

    @property
    def route(self) -> str:
        return self._keys.job

    def beat(self) -> list[Arg]:
        """The call as a command."""
        return self._roll.list_members_command(self._lease)

    def on_beat(self, reply: RedisReply) -> None:
        """What Redis answered."""
        self._on_roll(self._roll.read_members(reply))

    def on_silence(self, error: RedflareError) -> None:
        """The roll could not be called; clients that are silent meanwhile are not known to be."""
        logger.debug("%s: the roll is not called: %s", self._keys.fqcn, error)

    def __repr__(self) -> str:
        return f"<MembershipPoller of {self._keys.fqcn}>"
