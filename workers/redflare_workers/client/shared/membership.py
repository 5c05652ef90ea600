"""``Membership``: one site's place on the roll of a job; joins, beats, and learns what became of the job."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.job_state.members import Members
from redflare_broker.keys import Keys
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import ENDED, FENCED, LOST
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply

from redflare_workers.protocol.job_messages import CLIENT, EPOCH, INSTANCE

from .cell_host import CellHost

logger = logging.getLogger(__name__)

#: Beats of the server that may be missing before it counts as silent.
_MISSED_BEATS: Final = 4


class Membership:
    """A site's place on the roll; the heartbeat thread beats for it.

    Args:
        host: this process's connection, heartbeat thread and cell.
        server_cell: FQCN of the cell of the job's server.
        name: the site's.
        props: public properties of the site, for the server's controllers.
        on_news: called after each beat; look at ``fenced`` and ``ended``.
    """

    def __init__(
        self,
        host: CellHost,
        server_cell: str,
        name: str,
        props: Mapping[str, Any],
        on_news: Callable[[Membership], None],
    ) -> None:
        self.fenced = False
        #: Why the job has ended; None while it goes on.
        self.ended: str | None = None
        self.interval = host.settings.heartbeat_interval
        self._ttl_ms = round(max(host.settings.heartbeat_ttl, 2 * self.interval) * 1000)
        self._host = host
        self._props = props
        self._on_news = on_news
        self._keys = Keys(host.settings.namespace).job(server_cell)
        self._roll = Members(self._keys, host.settings.policy)
        self._lease = Lease(name=name, instance=host.cell.instance)
        self._joining = threading.Lock()
        self._gone = False
        #: whether the server was there at the last look; None: there was none yet
        self._server_seen: bool | None = None

    @property
    def route(self) -> str:
        return self._keys.job

    @property
    def credentials(self) -> dict[str, Any]:
        """What the server knows this site by; part of the meta of every request."""
        return {CLIENT: self._lease.name, INSTANCE: self._lease.instance, EPOCH: self._lease.epoch}

    def join(self, given_up: Callable[[], str]) -> None:
        """Enter the roll, or enter it again after Redis lost it; as long as it takes.

        Raises:
            ServerError: the server refuses this user.
            Unavailable: it was given up before the server was there.
        """
        with self._joining:
            self._host.server.run(self._keys.job, self._enter, stop=lambda: bool(given_up()))
        self._on_news(self)
        if not self.fenced and self.ended is None:
            self._host.heartbeats.add(self)

    def _enter(self, connection: Connection) -> None:
        said = self._roll.join(
            connection,
            self._lease,
            self._host.fqcn,
            self._props,
            interval=self.interval,
            ttl_ms=self._ttl_ms,
            beating=True,
        )
        if said.status == FENCED:
            self.fenced = True
        elif said.status == ENDED:
            self.ended = said.text()
        else:
            self._lease = replace(self._lease, epoch=said.number())
            logger.info("%s has joined %s", self._lease.name, self._keys.fqcn)

    def leave(self) -> None:
        """Leave the roll; what cannot be told now, the silence will tell."""
        self._host.heartbeats.remove(self)
        with self._joining:
            # the heartbeat thread may be about to join again
            self._gone = True
        if not self._lease.epoch or self.fenced:
            return
        try:
            with self._host.server.borrow(self._keys.job) as connection:
                self._roll.leave(connection, self._lease)
        except RedflareError as error:
            logger.warning("%s could not leave %s, its heartbeat will expire: %s", self._lease.name, self.route, error)

    # -- heartbeat thread ----------------------------------------------------------------------------------------------

    def beat(self) -> list[Arg]:
        """The heartbeat as a command."""
        return self._roll.beat_command(self._lease, interval=self.interval, ttl_ms=self._ttl_ms)

    def on_beat(self, reply: RedisReply) -> None:
        """What Redis answered to a heartbeat."""
        beat = self._roll.read_beat(reply)
        if beat.status == FENCED:
            self.fenced = True
        elif beat.status == ENDED:
            self.ended = beat.reason
        elif beat.status == LOST:
            self._join_again()
        else:
            self._look_at_server(beat.server_age)
        self._on_news(self)

    def on_silence(self, error: RedflareError) -> None:
        """A heartbeat could not be sent; what waits for the server goes on to wait."""
        logger.debug("%s: no heartbeat: %s", self._lease.name, error)

    def _join_again(self) -> None:
        with self._joining:
            if self._gone:
                return
            try:
                with self._host.server.borrow(self._keys.job) as connection:
                    self._enter(connection)
            except Unavailable as error:
                logger.debug("%s: not joined again: %s", self._lease.name, error)
                return
        logger.warning("%s: Redis had lost %s; joined it again", self._lease.name, self._keys.fqcn)
        # the requests that wait at the server were lost with it
        self._host.cell.resync()

    def _look_at_server(self, age: float | None) -> None:
        seen = age is not None and age < _MISSED_BEATS * self.interval
        before = self._server_seen
        if seen is not before:
            self._server_seen = seen
            if seen:
                logger.info("%s: the server of %s is there", self._lease.name, self._keys.fqcn)
            elif before is None:
                logger.info("%s: the server of %s is waited for", self._lease.name, self._keys.fqcn)
            else:
                logger.warning("%s: the server of %s is away; it is waited for", self._lease.name, self._keys.fqcn)

    def __repr__(self) -> str:
        return f"<Membership of {self._lease.name} in {self._keys.fqcn}, epoch {self._lease.epoch}>"
