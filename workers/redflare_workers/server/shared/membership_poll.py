"""``MembershipPoller``: the server's heartbeat for its job, which reads the member list as well."""

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
    """A client of the heartbeat thread.

    Args:
        members: of the job.
        lease: the server's on it.
        interval: seconds between two heartbeats.
        on_members: called with the member list, from the heartbeat thread.
    """

    def __init__(
        self,
        keys: JobKeys,
        members: Members,
        lease: Lease,
        interval: float,
        on_members: Callable[[MemberList], None],
    ) -> None:
        self.interval = interval
        self._keys = keys
        self._members = members
        self._lease = lease
        self._on_members = on_members

    @property
    def route(self) -> str:
        return self._keys.job

    def beat(self) -> list[Arg]:
        """The heartbeat as a command."""
        return self._members.list_members_command(self._lease)

    def on_beat(self, reply: RedisReply) -> None:
        """Pass on the member list that Redis answered with."""
        self._on_members(self._members.read_members(reply))

    def on_silence(self, error: RedflareError) -> None:
        """Note that Redis is away; heartbeats of clients that are missed meanwhile do not count."""
        logger.debug("%s: the member list cannot be read: %s", self._keys.fqcn, error)

    def __repr__(self) -> str:
        return f"<MembershipPoller of {self._keys.fqcn}>"
