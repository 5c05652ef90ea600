"""``LinkGuard``: the supervisor's eye on the link of its agent, whose process may be unable to look itself.

A trainer in C code that holds Python's lock stops every thread of its process: it hears of no abort, and sends no
heartbeats. The guard asks Redis in its place, tells when the process must be ended, and registers the supervisor, so
that the client parent waits for that end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

from redflare_broker.cell.cell_heartbeat import CellHeartbeat, living_holder, name_taken, parse_heartbeat
from redflare_broker.config.settings import load_settings
from redflare_broker.errors import RedflareError
from redflare_broker.fqcn import agent_site_fqcn
from redflare_broker.inspection.redis_read import now_of
from redflare_broker.keys import Keys
from redflare_broker.link.supervision import Supervision
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.link_scripts import LinkScripts
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import Server
from redflare_broker.util.patience import Patience

from .agent_process_args import AgentProcessArgs

logger = logging.getLogger(__name__)

#: Seconds beyond the grace of the function, in which its process ends itself if it can.
_MARGIN: Final = 2.0
#: Heartbeats of the process that must be missing.
_MISSED_BEATS: Final = 2
#: Intervals for which the supervisor counts as there.
_KEPT: Final = 4


class LinkGuard:
    """For the processes of one supervisor.

    Args:
        args: of the processes.

    Raises:
        ConfigError: a name, the URL or a setting is wrong.
    """

    def __init__(self, args: AgentProcessArgs) -> None:
        self._settings = load_settings(args.workspace, args.secure)
        self._server = Server.connect(args.url, self._settings.connection)
        self._keys = Keys(self._settings.namespace).link(agent_site_fqcn(args.site, args.agent_id, args.job_id))
        self._lease = Lease.of_this_process("supervisor")
        self._grace = args.abort_grace + _MARGIN
        within = self._grace + (_MISSED_BEATS + 2) * self._settings.heartbeat_interval
        self._supervision = Supervision(within=within)

    def claim(self, pause: Callable[[float], bool]) -> None:
        """Make sure that no other living agent has this name; wait for Redis, and until a heartbeat is overdue.

        Args:
            pause: as of ``living_holder``.

        Raises:
            NameTaken: one has; it says which.
            Unavailable: ``pause`` ended it.
            ServerError: Redis refuses this user.
        """

        def look(connection: Connection) -> None:
            holder = living_holder(lambda: self._holder(connection), pause)
            if holder is not None:
                raise name_taken(f"agent {self._keys.fqcn}", holder)

        self._server.run(self._keys.link, look, stop=lambda: pause(0.0))

    def _holder(self, connection: Connection) -> CellHeartbeat | None:
        """Read who has the name: a supervisor, also while its process is silent, or an agent without one."""
        heartbeat, supervisor = self._keys.heartbeat("agent"), self._keys.supervisor
        closed, *found = connection.pipeline(
            [
                ("HGET", self._keys.link, "agent_closed"),
                *(("GET", supervisor), ("PTTL", supervisor)),
                *(("GET", heartbeat), ("PTTL", heartbeat)),
            ]
        )
        agent = parse_heartbeat(*found[2:]) if closed == b"0" else None
        return parse_heartbeat(*found[:2]) or agent

    def watch(self, pid: int, over: threading.Event, end: Callable[[], object]) -> None:
        """Look at the link with each heartbeat until a process is over; call ``end`` when it must be ended.

        That is when nobody wants the work that it has in hand, and it is silent while the grace of its function passes.
        """
        patience, interval = None, self._settings.heartbeat_interval
        while not over.is_set():
            try:
                self._register()
                stuck = self._is_stuck(pid)
            except RedflareError as error:
                logger.debug("cannot look at the link of %s: %s", self._keys.fqcn, error)
                stuck = False
            patience = (patience or Patience(self._grace)) if stuck else None
            if patience is None:
                over.wait(interval)
            elif patience.left:
                with patience.wait(interval) as seconds:
                    over.wait(seconds)
            else:
                end()
                return

    def _is_stuck(self, pid: int) -> bool:
        """Whether a process sends no heartbeats, and has no task that is wanted."""
        heartbeat = self._keys.heartbeat("agent")
        with self._server.borrow(self._keys.link) as connection:
            task = connection.call("HGET", self._keys.link, "task")
            beat = parse_heartbeat(*connection.pipeline([("GET", heartbeat), ("PTTL", heartbeat)]))
        if task or self._lease_of(pid) is None:
            return False
        return beat is None or beat.age > _MISSED_BEATS * beat.interval

    def note_end(self, pid: int) -> None:
        """Say bye for a process that was ended in the middle of a task, so that all know that it is gone."""
        try:
            if (lease := self._lease_of(pid)) is None:
                return
            scripts = LinkScripts(keys=self._keys, publish=self._server.publish, policy=self._settings.policy)
            with self._server.borrow(self._keys.link) as connection:
                now = now_of(connection.call("TIME"))
                self._supervision = replace(self._supervision, ended=lease.instance, ended_at=now)
                self._register()
                scripts.bye(connection, lease)
        except RedflareError as error:
            logger.warning("cannot tell that the process of agent %s has ended: %s", self._keys.fqcn, error)

    def _lease_of(self, pid: int) -> Lease | None:
        """The lease by which a process of this host holds the agent's side of the link; None: it does not."""
        fields = ("agent", "agent_epoch", "agent_closed")
        with self._server.borrow(self._keys.link) as connection:
            found = cast("list[bytes | None]", connection.call("HMGET", self._keys.link, *fields))
        instance, epoch, closed = (each.decode() if each else "" for each in found)
        lease = Lease(name="agent", instance=instance, epoch=int(epoch or 0))
        return lease if closed == "0" and lease.is_of(pid) else None

    def close(self) -> None:
        """Take the registration back, and close the connection."""
        try:
            with self._server.borrow(self._keys.link) as connection:
                connection.call("DEL", self._keys.supervisor)
        except RedflareError as error:
            logger.debug("the registration of %s will expire: %s", self._keys.fqcn, error)
        self._server.close()

    def _register(self) -> None:
        interval = self._settings.heartbeat_interval
        ttl_ms = round(_KEPT * interval * 1000)
        entry = self._supervision.to_entry(self._lease, interval, ttl_ms)
        with self._server.borrow(self._keys.link) as connection:
            connection.call("SET", self._keys.supervisor, entry, "PX", ttl_ms)

    def __repr__(self) -> str:
        return f"<LinkGuard of {self._keys.fqcn}>"
