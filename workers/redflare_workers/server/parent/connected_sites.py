"""``ConnectedSites``: the sites whose client parents are connected to the server, from the member list in Redis."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from redflare_broker.cell.cell import Cell
from redflare_broker.errors import RedflareError
from redflare_broker.job_state.members import Member, MemberList, Members
from redflare_broker.keys import Keys
from redflare_broker.runtime.shared_connection import SharedConnection
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import OK
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.audit.entry import AUDIT_HEAD
from redflare_workers.server.shared.job_registration import JobRegistration, MembershipPoller

from .job_scheduler import SchedulableSite
from .site_heads import SiteHeads

logger = logging.getLogger(__name__)

#: Intervals after which a look at the sites is so late that their heartbeats may have expired meanwhile.
_PAUSE: Final = 3


@dataclass(slots=True, eq=False)
class ConnectedSites:
    """Open it when the cell has started, and close it; the heartbeat thread keeps it up to date."""

    connection: SharedConnection
    #: the parent's; the sites are its members
    cell: Cell
    #: for what may block
    pool: ElasticThreadPool
    #: called when a site has connected, or disconnected
    on_change: Callable[[], object]
    #: called after each poll of the member list
    on_beat: Callable[[], object]
    #: whether the server is being stopped
    over: Callable[[], bool]
    #: takes what sites tell of their audit logs when they connect
    heads: SiteHeads = field(default_factory=SiteHeads)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _members: dict[str, Member] = field(default_factory=dict, init=False)
    _registration: JobRegistration | None = field(default=None, init=False)
    _poller: MembershipPoller | None = field(default=None, init=False)
    #: when the member list that was applied last was asked for
    _asked: float = field(default_factory=time.monotonic, init=False)

    def open(self) -> None:
        """Take the member list over from an earlier server, read it, and begin to poll it.

        Raises:
            Fenced: another server has.
            Unavailable, JobLost: the server was stopped before Redis was there.
        """
        beats, cell = self.connection.heartbeats, self.cell
        members = Members(Keys(cell.settings.namespace).job(cell.fqcn), cell.settings.policy)
        lease = Lease(instance=cell.instance, epoch=cell.epoch, run=uuid.uuid4().hex)
        registration = self._registration = JobRegistration(
            self.connection.server, members, lease, lambda: beats.beat_now(cell), self.over
        )
        registration.begin(resume=True)
        self._update(registration.list_members().members)
        self._poller = MembershipPoller(registration, cell.settings.heartbeat_interval, self._on_members)
        beats.add(self._poller)

    def close(self) -> None:
        """Stop polling. The member list stays in Redis: sites wait for the next server."""
        if self._poller is not None:
            self.connection.heartbeats.remove(self._poller)

    def schedulable(self) -> list[SchedulableSite]:
        """All sites that are known."""
        with self._guard:
            members = list(self._members.values())
        return [SchedulableSite(name=each.name, capacity=_capacity(each.props), alive=each.alive) for each in members]

    def connected(self) -> list[Member]:
        """The sites that are connected."""
        with self._guard:
            return [member for member in self._members.values() if member.alive]

    def is_alive(self, site: str) -> bool:
        """Whether a site's client parent is connected."""
        member = self._members.get(site)
        return member is not None and member.alive

    def has_left(self, site: str) -> bool:
        """Whether a site's client parent has said bye, and is not back."""
        member = self._members.get(site)
        return member is not None and bool(member.left)

    def cell_of(self, site: str) -> str:
        """Return the FQCN of a site's cell, whether it is connected or not."""
        member = self._members.get(site)
        return member.cell if member is not None else site

    def _on_members(self, members: MemberList) -> None:
        if members.status == OK:
            # this process was stopped, or Redis was away: sites may have had no chance to beat either
            paused = members.asked - self._asked > _PAUSE * self.cell.settings.heartbeat_interval
            self._asked = members.asked
            self._update(tuple(map(self._spared, members.members)) if paused else members.members)
            self.on_beat()
        elif members.status == "LOST":
            self.pool.submit(self._begin_again)

    def _spared(self, member: Member) -> Member:
        """Return a member without a heartbeat that had one before: the next look decides."""
        before = self._members.get(member.name)
        known = before is not None and before.alive and before.instance == member.instance
        return replace(member, heartbeat_ms=0) if known and not member.alive and not member.left else member

    def _begin_again(self) -> None:
        try:
            if self._registration is not None:
                self._registration.begin_again()
        except RedflareError as error:
            logger.debug("cannot register the server again: %s", error)

    def _update(self, members: tuple[Member, ...]) -> None:
        """Apply the current member list."""
        with self._guard:
            before = {name: _connection_of(member) for name, member in self._members.items()}
            self._members = {member.name: member for member in members}
            after = {member.name: _connection_of(member) for member in members}
        if before == after:
            return
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name), after.get(name)
            if was != now:
                if now is not None:
                    self.heads.note(name, self._members[name].props.get(AUDIT_HEAD))
                logger.info("site %s %s", name, "connected" if now and now[0] else "disconnected")
        self.on_change()

    def __repr__(self) -> str:
        return f"<ConnectedSites of {len(self._members)} sites>"


def _connection_of(member: Member) -> tuple[bool, str]:
    return member.alive, member.instance


def _capacity(props: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the resources that a site declares; None: it declares none, and takes any job."""
    resources = props.get("resources")
    if not isinstance(resources, Mapping) or not resources:
        return None
    return {
        str(name): amount
        for name, amount in resources.items()
        if isinstance(amount, int | float) and not isinstance(amount, bool)
    }
