"""``ConnectedSites``: which sites are connected to the server: their client parents, as the roll in Redis tells."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from redflare_broker.cell.cell import Cell
from redflare_broker.errors import RedflareError
from redflare_broker.job_state.members import Member, MemberList, Members
from redflare_broker.keys import Keys
from redflare_broker.scripts.script import OK
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.ipc.shared_connection import SharedConnection
from redflare_workers.server.shared.job_registration import JobRegistration
from redflare_workers.server.shared.membership_poll import MembershipPoller

from .job_scheduler import SchedulableSite

logger = logging.getLogger(__name__)


class ConnectedSites:
    """Open it when the cell has started, and close it; the heartbeat thread keeps it up to date.

    Args:
        hub: the server's connection and heartbeats.
        cell: the parent's; holds the roll.
        pool: for what may block.
        on_change: a site has come, or is gone.
        on_beat: the roll was called.
        over: whether the server is being stopped.
    """

    def __init__(
        self,
        hub: SharedConnection,
        cell: Cell,
        pool: ElasticThreadPool,
        on_change: Callable[[], object],
        on_beat: Callable[[], object],
        over: Callable[[], bool],
    ) -> None:
        self._hub = hub
        self._cell = cell
        self._pool = pool
        self._on_change = on_change
        self._on_beat = on_beat
        self._guard = threading.Lock()
        self._entries: dict[str, Member] = {}
        self._keys = Keys(cell.settings.namespace).job(cell.fqcn)
        self._over = over
        self._life: JobRegistration | None = None
        self._caller: MembershipPoller | None = None

    def open(self) -> None:
        """Take the roll over, and read it.

        Raises:
            Fenced: another server has.
            Unavailable, JobLost: the server was stopped before Redis was there.
        """
        beats, cell = self._hub.heartbeats, self._cell
        roll = Members(self._keys, cell.settings.policy)
        run = uuid.uuid4().hex
        life = self._life = JobRegistration(self._hub.server, roll, cell, run, lambda: beats.beat_now(cell), self._over)
        life.begin(resume=True)
        self._take_in(life.list_members().members)
        self._caller = MembershipPoller(self._keys, roll, life.lease, cell.settings.heartbeat_interval, self._on_roll)
        beats.add(self._caller)

    def close(self) -> None:
        """Read it no more. It stands: sites wait for the next server."""
        if self._caller is not None:
            self._hub.heartbeats.remove(self._caller)

    def places(self) -> list[SchedulableSite]:
        """All sites that are known."""
        with self._guard:
            entries = list(self._entries.values())
        return [
            SchedulableSite(name=entry.name, capacity=_capacity(entry.props), alive=entry.alive) for entry in entries
        ]

    def is_alive(self, site: str) -> bool:
        """Whether a site's client parent is there."""
        entry = self._entries.get(site)
        return entry is not None and entry.alive

    def cell_of(self, site: str) -> str:
        """FQCN of a site's cell, whether it is there or not."""
        entry = self._entries.get(site)
        return entry.cell if entry is not None else site

    def _on_roll(self, call: MemberList) -> None:
        if call.status == OK:
            self._take_in(call.members)
            self._on_beat()
        elif call.status == "LOST":
            self._pool.submit(self._begin_again)

    def _begin_again(self) -> None:
        try:
            if self._life is not None:
                self._life.begin_again()
        except RedflareError as error:
            logger.debug("the roll of sites is not begun again: %s", error)

    def _take_in(self, entries: tuple[Member, ...]) -> None:
        with self._guard:
            before = {name: _sign(entry) for name, entry in self._entries.items()}
            self._entries = {entry.name: entry for entry in entries}
            after = {entry.name: _sign(entry) for entry in entries}
        if before == after:
            return
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name), after.get(name)
            if was != now:
                logger.info("site %s %s", name, "is connected" if now and now[0] else "is not connected any more")
        self._on_change()

    def __repr__(self) -> str:
        return f"<ConnectedSites of {len(self._entries)} sites>"


def _sign(entry: Member) -> tuple[bool, str]:
    return entry.alive, entry.instance


def _capacity(props: Mapping[str, Any]) -> dict[str, float] | None:
    """What a site says that it has; None: nothing, and it takes whatever comes."""
    told = props.get("resources")
    if not isinstance(told, Mapping) or not told:
        return None
    return {
        str(name): amount
        for name, amount in told.items()
        if isinstance(amount, int | float) and not isinstance(amount, bool)
    }
