"""``Heartbeats``: one thread for all sources of heartbeats in a process that share a Redis.

Sources are links, cells and members of a job. Each has its interval; those that are due together go in one pipeline. A
beat renews the source's keys in Redis, with the TTLs that ``scripts/lua/*/beat.lua`` sets, and its reply reports what a
lost pub/sub message would have reported. The thread survives every failure: an unreachable Redis is reported to the
sources, whose own clocks then decide, and an exception of a source's callback is logged.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Final, Protocol

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.scripts.script import run_pipeline
from redflare_broker.transport.replies import Arg, RedisReply, ReplyError
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff

from .primary_watch import PrimaryWatch

logger = logging.getLogger(__name__)

#: Longest wait before Redis is tried again, in seconds.
_RETRY_AFTER: Final = 1.0


class HeartbeatSource(Protocol):
    """The part of a link, a cell or a member that the heartbeat thread needs."""

    @property
    def route(self) -> str:
        """A key on the node that the heartbeat goes to."""

    #: Seconds between two beats.
    interval: float

    def beat(self) -> list[Arg]:
        """Make the command to send."""

    def on_beat(self, reply: RedisReply) -> None:
        """Handle the reply to it."""

    def on_silence(self, error: RedflareError) -> None:
        """Note that no reply came; time passes all the same."""


class Heartbeats:
    """Sends the heartbeats of any number of sources from one thread. They may be added and removed at any time."""

    def __init__(self, server: Server, name: str = "redflare-heartbeat") -> None:
        self._server = server
        self._due: dict[HeartbeatSource, float] = {}
        self._changed = threading.Condition()
        self._started = False
        self._stopped = False
        self._failures = Backoff()
        self._primary_watch = PrimaryWatch(server)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin, and watch which server is the primary where Sentinels decide that; again without effect."""
        with self._changed:
            first, self._started = not self._started, True
        if first:
            self._thread.start()
            self._primary_watch.start()

    def stop(self) -> None:
        """End the thread; the sources' keys expire by themselves."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._primary_watch.stop()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=10.0)

    def add(self, link: HeartbeatSource) -> None:
        """Beat for this source from now on, the first time at once; the first source starts the thread."""
        self.start()
        self.beat_now(link, add=True)

    def remove(self, link: HeartbeatSource) -> None:
        """Beat no more for this source."""
        with self._changed:
            self._due.pop(link, None)

    def beat_now(self, link: HeartbeatSource, *, add: bool = False) -> None:
        """Beat at once: a message may have been missed, and the reply tells."""
        with self._changed:
            if add or link in self._due:
                self._due[link] = 0.0
                self._changed.notify()

    def _run(self) -> None:
        while (links := self._wait()) is not None:
            for group in [[link] for link in links] if self._server.cluster else [links]:
                self._beat(group)

    def _wait(self) -> list[HeartbeatSource] | None:
        """Wait until links are due, and return them; None when stopped."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                # links that are due almost together share a pipeline
                soon = now + 0.05
                if any(due <= now for due in self._due.values()):
                    return [link for link, due in self._due.items() if due <= soon]
                self._changed.wait(min(self._due.values(), default=now + 3600.0) - now)
            return None

    def _beat(self, links: list[HeartbeatSource]) -> None:
        for link in links:
            self._schedule(link, link.interval * random.uniform(0.95, 1.0))
        try:
            # before the connection is opened: a link notes when its heartbeat began
            commands = [link.beat() for link in links]
            with self._server.borrow(links[0].route) as connection:
                replies = run_pipeline(connection, commands)
        except RedflareError as exc:
            self._log_failure(exc, f"heartbeats cannot be sent, trying again: {exc}")
            for link in links:
                self._silent(link, exc)
            return
        except Exception:
            logger.exception("heartbeats failed; they go on")
            return
        if not any(isinstance(reply, ReplyError) for reply in replies):
            self._failures.reset()
        for link, reply in zip(links, replies, strict=True):
            if isinstance(reply, ReplyError):
                self._log_failure(reply.error(self._server.url), f"Redis refuses the heartbeat of {link!r}: {reply}")
                self._silent(link, reply)
            else:
                self._pass_on(link, reply)
        self._server.owed.begin()

    def _silent(self, link: HeartbeatSource, error: RedflareError) -> None:
        # many processes have lost the same Redis at the same moment
        self._schedule(link, min(_RETRY_AFTER, link.interval) * random.uniform(0.5, 1.0))
        self._pass_on(link, error)

    def _log_failure(self, error: RedflareError, text: str) -> None:
        """Log each cause once until all is well again."""
        first = logging.DEBUG if isinstance(error, Unavailable) else logging.ERROR
        logger.log(self._failures.level(error, first), text)

    def _schedule(self, link: HeartbeatSource, after: float) -> None:
        with self._changed:
            if link in self._due:
                self._due[link] = time.monotonic() + after

    def _pass_on(self, link: HeartbeatSource, reply: RedisReply | RedflareError) -> None:
        try:
            if isinstance(reply, RedflareError):
                link.on_silence(reply)
            else:
                link.on_beat(reply)
        except Exception:
            logger.exception("%r failed to handle its heartbeat; beats go on", link)

    def __repr__(self) -> str:
        return f"<Heartbeats of {len(self._due)} links at {self._server.url}>"
