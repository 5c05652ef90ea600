"""``LinkEndpoint``: what both ends of a link share besides their session: what heartbeats tell, and dead letters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import orjson

from redflare_broker.errors import RedflareError
from redflare_broker.scripts.script import BURIED, FENCED, LOST, ScriptReply, parse_reply
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.util.fault_log import FaultLog

from .liveness import Liveness, Peer
from .payloads import LinkPayloads
from .session import Session

logger = logging.getLogger(__name__)


#: What the log says when the other side is found to be in another state.
_NEWS: Final = {
    Peer.NEVER: "has not connected yet",
    Peer.CONNECTED: "is connected",
    Peer.SILENT: "is silent, no heartbeat for {silence:.0f} s",
    Peer.GONE: "is gone, no heartbeat for {silence:.0f} s",
    Peer.LEFT: "has left",
}


class LinkEndpoint:
    """One end of a link; base of ``CJLink`` and ``AgentLink``.

    The heartbeat thread calls ``beat``, ``on_beat`` and ``on_silence``; they set flags, and nudge the working thread.

    Args:
        liveness: judges the other end.
        on_news: called from the heartbeat thread after each beat; check ``session.fenced`` and ``peer``.
        interval: seconds between two heartbeats, or less so that a short timeout of ``liveness`` is noticed in time;
            None: as the settings have it.
    """

    def __init__(
        self, session: Session, liveness: Liveness, on_news: Callable[[], None], *, interval: float | None = None
    ) -> None:
        self.session = session
        self.payloads = LinkPayloads(session)
        self.liveness = liveness
        self.interval = liveness.beat_interval(session.settings.heartbeat_interval if interval is None else interval)
        #: The task this end works on.
        self.task_id: str | None = None
        #: The task that the heartbeat on its way asks about, and what the last one reported: a task and its status.
        self._asked = ""
        self._seen = ("", "")
        self.peer_instance = ""
        self._other = "CJ" if session.lease.name == "agent" else "agent"
        self._on_news = on_news
        self._silent = False
        #: What the other end writes that cannot be used.
        self.faults = FaultLog(logger, session.label)

    @property
    def peer(self) -> Peer:
        return self.liveness.state

    @property
    def task_status(self) -> str:
        """The status of this end's task at the last heartbeat; "" when none has reported it yet."""
        task_id, status = self._seen
        return status if task_id == self.task_id else ""

    def work_on(self, task_id: str | None) -> None:
        """Work on this task from now on, or on none."""
        self._seen = ("", "")
        self.task_id = task_id

    def close(self, *, bye: bool, failed: bool = False) -> None:
        """Leave, and with ``bye`` tell the other end; ``failed``: by a fault. Safe to call twice."""
        self.session.nudge()
        self.faults.flush(final=True)
        if bye:
            self.session.bye(failed=failed)

    # -- dead letters --------------------------------------------------------------------------------------------------

    def is_current(self, task_id: str, field: str, entry_id: str) -> bool:
        """Whether the ledger of a task names this entry in ``field`` (entry or result)."""
        session = self.session
        return session.open_connection().call("HGET", session.keys.task(task_id), field) == entry_id.encode()

    def bury(self, stream: str, entry_id: str, reason: str) -> None:
        """Move an entry to the dead-letter stream."""
        session = self.session
        reply = session.step(
            lambda connection, lease: session.scripts.bury(connection, lease, stream, entry_id, reason)
        )
        if reply.status == BURIED:
            text = f"entry {entry_id} of {stream} is now in {session.keys.dead}: {reason}"
            self.faults.note(f"the {self._other}", "entry that cannot be used", text, logging.ERROR)

    # -- heartbeat thread ----------------------------------------------------------------------------------------------

    @property
    def route(self) -> str:
        return self.session.keys.link

    def beat(self) -> list[Arg]:
        """Make the command of a heartbeat."""
        session = self.session
        # the interval of this end may be another than the one that the settings were checked with
        ttl_ms = round(max(session.settings.heartbeat_ttl, 2 * self.interval) * 1000)
        self.liveness.begin_look(self.interval)
        # the reply may come when this end has gone on to another task
        self._asked = self.task_id or ""
        beat = session.lease.heartbeat(self.interval, ttl_ms, task=self._asked)
        return session.scripts.beat_command(session.lease, beat, ttl_ms, self._asked)

    def on_beat(self, reply: RedisReply) -> None:
        """Take in Redis's reply to a heartbeat, judge the other end, and tell the owner."""
        decoded = parse_reply("link/beat", reply)
        if decoded.status == FENCED:
            self.session.fenced = True
        elif decoded.status == LOST:
            self.session.resume()
        else:
            self._seen = (self._asked, decoded.text(1))
            self._update_peer(decoded)
            try:
                self._maintain()
            except RedflareError as exc:
                # what the heartbeat has reported must be heeded all the same
                logger.warning(
                    "%s: could not renew the registration or payloads; the next heartbeat tries again: %s",
                    self.session.label,
                    exc,
                )
        if self._silent:
            # what broke this connection may have broken the one of a blocked read too, and nothing else would tell it
            self._silent = False
            self.session.nudge()
        self.faults.flush()
        self.liveness.end_look(self.interval)
        self._judge()

    def on_silence(self, error: RedflareError) -> None:
        """Note that a heartbeat could not be sent: time passes all the same."""
        self._silent = True
        logger.debug("%s: no heartbeat: %s", self.session.label, error)
        self.liveness.end_look(self.interval, failed=True)
        self._judge()

    def _judge(self) -> None:
        """Recompute the peer's state, log a change, and tell the owner."""
        if self.liveness.judge():
            news = _NEWS[self.liveness.state].format(silence=self.liveness.silence)
            logger.info("%s: the %s %s", self.session.label, self._other, news)
        self._on_news()

    def _update_peer(self, reply: ScriptReply) -> None:
        """``reply``: open task id, status, peer's beat, its PTTL, peer's instance, when it said bye."""
        instance, left = reply.text(4), reply.number(3)
        if beat := reply.text(2):
            try:
                ttl_ms = int(orjson.loads(beat)["ttl_ms"])
            except (ValueError, KeyError, TypeError):
                logger.warning("%s: cannot read the heartbeat of the %s: %.200r", self.session.label, self._other, beat)
            else:
                self.liveness.heard((ttl_ms - left) / 1000)
        if instance and instance != self.peer_instance:
            if self.peer_instance:
                logger.info(
                    "%s: the %s is now %s, was %s", self.session.label, self._other, instance, self.peer_instance
                )
            self.peer_instance = instance

    def _maintain(self) -> None:
        """Do what is due from time to time."""
        self.payloads.renew()

    def __repr__(self) -> str:
        session = self.session
        return f"<{type(self).__name__} {session.keys.fqcn} epoch {session.lease.epoch}, peer {self.peer.value}>"
