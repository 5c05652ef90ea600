"""``AgentExecutor``: what holds the client job's (CJ's) end of the link to one agent, whoever's executor it is.

It starts and stops, has one task in progress at a time, and learns from the heartbeat thread that the agent is dead or
another CJ has taken over. What many holders of a process have in common, they share (``hub``).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ConfigError, Unavailable
from redflare_broker.fqcn import agent_site_fqcn
from redflare_broker.link.cj_link import CJLink
from redflare_broker.link.exchange import ExchangeOutcome
from redflare_broker.link.liveness import Liveness, Peer
from redflare_broker.link.session import Session

from .shared_connection import SharedConnection, close_hub, open_hub

logger = logging.getLogger(__name__)

#: Seconds between two looks at an abort signal that cannot call back (one of NVFlare's own).
_LOOK_AT_SIGNAL: Final = 0.5


class AgentExecutor:
    """Holds the link to one agent; base of the executors that exchange tasks with it.

    Args:
        agent_id, site_name: None: to be set before the start.
        job_id: the agent belongs to this one job.
        redis_url: "" when there is a client.
        agent_connection_timeout, agent_heartbeat_timeout, agent_heartbeat_interval: as ``IPCExchanger``'s.
        client: a redis-py or fakeredis client to use instead of the URL.
    """

    agent_id: str | None

    def __init__(
        self,
        *,
        agent_id: str | None,
        site_name: str | None,
        job_id: str | None,
        redis_url: str,
        agent_connection_timeout: float,
        agent_heartbeat_timeout: float | None,
        agent_heartbeat_interval: float,
        settings: LinkSettings | None,
        client: Any,
    ) -> None:
        self.agent_id = agent_id
        self.agent_connection_timeout = agent_connection_timeout
        self.agent_heartbeat_timeout = agent_heartbeat_timeout
        self.agent_heartbeat_interval = agent_heartbeat_interval
        self._site_name = site_name
        self._job_id = job_id
        self._redis_url = redis_url
        self._settings = settings or LinkSettings()
        self._client = client
        self._hub: SharedConnection | None = None
        self._link: CJLink | None = None
        self._busy = threading.Lock()
        #: Why no task can be run any more; "" while it can.
        self._done = ""
        #: Why the task in progress is to be aborted; None while there is none.
        self._aborts: list[str] | None = None
        #: The thread of the task in progress, 0 while there is none; and whether a stop is left to its end.
        self._worker = 0
        self._stop_owed = False

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open this side of the link; an older CJ of the same agent is fenced from now on. A second start warns.

        Raises:
            ConfigError: a ValueError; site, agent or URL is missing or wrong.
            PreflightError: the server is not fit to hold tasks.
            ServerError: the server refuses this user.
        """
        if self._link is not None:
            logger.warning("%r was started before; this start has no effect", self)
            return
        if not self.agent_id or not self._site_name:
            raise ConfigError(f"site_name and agent_id are needed, but are {self._site_name!r} and {self.agent_id!r}")
        fqcn = agent_site_fqcn(self._site_name, self.agent_id, self._job_id)
        hub = open_hub(self._redis_url, self._settings.connection, self._client)
        liveness = Liveness(self.agent_connection_timeout, self.agent_heartbeat_timeout)
        session = Session(
            hub.server, fqcn, "cj", self._settings, lambda keys: hub.preflight(self._settings.allow_eviction, keys)
        )
        link = CJLink(session, liveness, self._on_news, interval=self.agent_heartbeat_interval)
        self._done = ""
        try:
            session.open_connection()
        except Unavailable as exc:
            logger.warning("%s waits for its server: %s", session.label, exc)
        except BaseException:
            session.drop_connection()
            close_hub(hub)
            raise
        self._hub, self._link = hub, link
        hub.heartbeats.add(link)
        logger.info("%s started at %s", session.label, hub.server.url)

    def stop(self) -> None:
        """Abort the task in progress, say bye to the agent, and close. A stop without a start has no effect.

        A signal handler that breaks into ``run`` or ``execute`` may call it: they then close at their end. In a forked
        child it only forgets what belongs to the parent.
        """
        hub, link = self._hub, self._link
        if hub is None or link is None:
            return
        if hub.pid != os.getpid():
            self._hub = self._link = None
            return
        self._done = self._done or "the client job was stopped"
        link.session.nudge()
        if self._worker == threading.get_ident():
            self._stop_owed = True
            return
        with self._busy:
            if self._link is not link:
                return
            self._stop_owed = False
            hub.heartbeats.remove(link)
            link.close(bye=True)
            link.session.drop_connection()
            self._hub = self._link = None
        close_hub(hub)
        logger.info("%s stopped", link.session.label)

    @property
    def fqcn(self) -> str:
        """Name of the agent this exchanger works with; "" before the start."""
        return self._link.session.keys.fqcn if self._link else ""

    @property
    def agent_connected(self) -> bool:
        """The agent gave a sign of life within the connection timeout."""
        return self._link is not None and self._link.peer is Peer.CONNECTED

    # -- one task at a time --------------------------------------------------------------------------------------------

    def abort(self, reason: str = "abort was called") -> None:
        """From any thread: abort the task in progress, if there is one."""
        aborts, link = self._aborts, self._link
        if aborts is not None and link is not None:
            aborts.append(reason)
            link.session.nudge()

    def _begin(self) -> bool:
        """Be busy from now on; False when there is a task in progress."""
        if not self._busy.acquire(blocking=False):
            return False
        self._worker = threading.get_ident()
        self._aborts = []
        return True

    def _end(self) -> None:
        self._aborts = None
        self._worker = 0
        self._busy.release()
        if self._stop_owed:
            self.stop()

    def _exchange(
        self,
        task_id: str,
        task_name: str,
        meta: dict[str, Any],
        data: Any,
        aborted: Callable[[], str],
        deadline: float | None,
        poll_interval: float | None = None,
        encoded_result: bool = False,
    ) -> ExchangeOutcome:
        link = self._link
        if link is None:
            raise RuntimeError(f"{self!r} is not started; call start() or use it as a context manager")
        aborts = self._aborts
        return link.exchange(
            task_id,
            task_name,
            meta,
            data,
            give_up=lambda: self._done or (aborts[0] if aborts else aborted()),
            deadline=deadline,
            poll_interval=poll_interval,
            encoded_result=encoded_result,
        )

    def _carry_out(
        self, task_id: str, task_name: str, meta: dict[str, Any], data: Any, abort_signal: Any, encoded_result: bool
    ) -> ExchangeOutcome:
        """``_exchange`` for an executor: without a deadline, given up when the signal is triggered.

        Args:
            abort_signal: ours wakes at once; one of NVFlare's own, which cannot, is looked at twice a second.
        """
        link = self._link
        can_wake = link is not None and hasattr(abort_signal, "add_callback")
        with abort_signal.add_callback(link.session.nudge) if link is not None and can_wake else nullcontext():
            return self._exchange(
                task_id,
                task_name,
                meta,
                data,
                lambda: "the job was aborted" if abort_signal.triggered else "",
                None,
                None if can_wake else _LOOK_AT_SIGNAL,
                encoded_result,
            )

    # -- what the heartbeat thread learns ------------------------------------------------------------------------------

    def _on_news(self) -> None:
        link = self._link
        if link is None or self._done:
            return
        if link.session.fenced:
            self._done = "another client job has taken over this agent"
        elif link.peer is Peer.DEAD:
            self._done = f"agent {link.session.keys.fqcn} is dead: no sign of it for {link.liveness.silence:.0f} s"
        if self._done:
            logger.error("%s: %s", link.session.label, self._done)
            link.session.nudge()
        # last: whoever hears of it may wait for the task in progress to end, or fail
        if self._done and not link.session.fenced:
            self._panic(self._done)

    def _panic(self, reason: str) -> None:
        """The agent is dead for good; called from the heartbeat thread."""

    def __repr__(self) -> str:
        state = f"done ({self._done})" if self._done else "running" if self._link else "new"
        return f"<{type(self).__name__} {self._site_name}/{self.agent_id} {state}>"
