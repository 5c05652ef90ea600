"""``Membership``: one site as a member of a job: joins, sends heartbeats, and learns when the job has ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.job_state.members import Members
from redflare_broker.keys import Keys
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import ENDED, FENCED, LOST
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply

from redflare_workers.protocol.job_messages import Credentials

from .cell_host import CellHost

logger = logging.getLogger(__name__)

#: Heartbeats of the server that may be missing before it counts as silent.
_MISSED_BEATS: Final = 4


class Membership:
    """A site's membership; the heartbeat thread sends its heartbeats.

    Args:
        host: this process's connection, heartbeat thread and cell.
        server_cell: FQCN of the cell of the job's server.
        name: the site's.
        props: public properties of the site, for the server's controllers.
        on_news: called after each heartbeat; check ``fenced`` and ``ended``.
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
        #: Why the job has ended; None while it runs.
        self.ended: str | None = None
        self.interval = host.settings.heartbeat_interval
        self._ttl_ms = round(max(host.settings.heartbeat_ttl, 2 * self.interval) * 1000)
        self._host = host
        self._props = props
        self._on_news = on_news
        self._keys = Keys(host.settings.namespace).job(server_cell)
        self._members = Members(self._keys, host.settings.policy, may_keep=not host.server.functions)
        self._lease = Lease(name=name, instance=host.cell.instance)
        self._joining = threading.Lock()
        self._gone = False
        #: whether the server had a heartbeat at the last check; None: not checked yet
        self._server_seen: bool | None = None

    @property
    def route(self) -> str:
        return self._keys.job

    @property
    def credentials(self) -> Credentials:
        """How the server knows this site; part of every request."""
        return Credentials(client=self._lease.name, instance=self._lease.instance, epoch=self._lease.epoch)

    def join(self, given_up: Callable[[], str]) -> None:
        """Join the job, or join it again after Redis lost it; repeat until it succeeds.

        Raises:
            ServerError: Redis refuses this user.
            Unavailable: it was given up before Redis was reached.
        """
        with self._joining:
            self._host.server.run(self._keys.job, self._enter, stop=lambda: bool(given_up()))
        self._on_news(self)
        if not self.fenced and self.ended is None:
            self._host.heartbeats.add(self)

    def _enter(self, connection: Connection) -> None:
        reply = self._members.join(
            connection,
            self._lease,
            self._host.fqcn,
            self._props,
            interval=self.interval,
            ttl_ms=self._ttl_ms,
            beating=True,
        )
        if reply.status == FENCED:
            self.fenced = True
        elif reply.status == ENDED:
            self.ended = reply.text()
        else:
            self._lease = replace(self._lease, epoch=reply.number())
            logger.info("%s has joined %s", self._lease.name, self._keys.fqcn)

    def leave(self) -> None:
        """Leave the job; if Redis is away, the heartbeat expires instead."""
        self._host.heartbeats.remove(self)
        with self._joining:
            # the heartbeat thread may be about to join again
            self._gone = True
        if not self._lease.epoch or self.fenced:
            return
        try:
            with closing(self._host.server.connection(self._keys.job)) as connection:
                self._members.leave(connection, self._lease)
        except RedflareError as error:
            logger.warning("%s could not leave %s, its heartbeat will expire: %s", self._lease.name, self.route, error)

    # -- heartbeat thread ----------------------------------------------------------------------------------------------

    def beat(self) -> list[Arg]:
        """Return the heartbeat as a command."""
        return self._members.beat_command(self._lease, interval=self.interval, ttl_ms=self._ttl_ms)

    def on_beat(self, reply: RedisReply) -> None:
        """Handle the reply of Redis to a heartbeat."""
        beat = self._members.read_beat(reply)
        if beat.status == FENCED:
            self.fenced = True
        elif beat.status == ENDED:
            self.ended = beat.reason
        elif beat.status == LOST:
            self._join_again()
        else:
            self._note_server(beat.server_age)
        self._on_news(self)

    def on_silence(self, error: RedflareError) -> None:
        """Note a heartbeat that could not be sent; requests go on waiting."""
        logger.debug("%s: heartbeat not sent: %s", self._lease.name, error)

    def _join_again(self) -> None:
        with self._joining:
            if self._gone:
                return
            try:
                with self._host.server.borrow(self._keys.job) as connection:
                    self._enter(connection)
            except Unavailable as error:
                logger.debug("%s: could not join again, the next heartbeat tries it: %s", self._lease.name, error)
                return
        logger.warning("%s: Redis had lost %s, joined it again", self._lease.name, self._keys.fqcn)
        # the requests that wait at the server were lost with it
        self._host.cell.resync()

    def _note_server(self, age: float | None) -> None:
        """Log when the server of the job appears or disappears."""
        seen = age is not None and age < _MISSED_BEATS * self.interval
        before = self._server_seen
        if seen is not before:
            self._server_seen = seen
            if seen:
                logger.info("%s: its server %s is connected", self._lease.name, self._keys.fqcn)
            elif before is None:
                logger.info("%s: waiting for its server %s", self._lease.name, self._keys.fqcn)
            else:
                logger.warning("%s: no heartbeat of its server %s, waiting for it", self._lease.name, self._keys.fqcn)

    def __repr__(self) -> str:
        return f"<Membership of {self._lease.name} in {self._keys.fqcn}, epoch {self._lease.epoch}>"
