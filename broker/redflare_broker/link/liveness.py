"""Whether the other side of a link is there: pure decisions over the ages of its heartbeats.

The age comes from Redis's own clock (ttl minus PTTL); between two heartbeats, and once the key is gone, it grows by
this process's monotonic clock. No clocks of two hosts are compared.

A side *looks* with each of its own heartbeats, whose reply tells of the peer. Time counts as the peer's silence only
while this side looks at its interval: not while its process was stopped or too busy to look, and not while Redis did
not answer, when the peer could not be heard either. Redis away for as long as a timeout counts as silence of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

#: No heartbeats are more frequent, in seconds.
_SHORTEST_INTERVAL: Final = 0.05


class Peer(Enum):
    """The state of the other side, as far as is known; ``redflare status`` uses the same words."""

    #: Not heard of since this side started.
    NEVER = "never"
    CONNECTED = "connected"
    #: Silent for the connection timeout; it may come back.
    SILENT = "silent"
    #: Silent for the heartbeat timeout, where one is set.
    GONE = "gone"
    #: It said bye.
    LEFT = "left"


@dataclass(slots=True, eq=False, repr=False)
class Liveness:
    """Turns what each heartbeat reports of the peer into its state."""

    #: Seconds of silence after which the peer counts as silent.
    connection_timeout: float
    #: Seconds of silence after which it counts as gone; None: never.
    heartbeat_timeout: float | None = None
    #: Monotonic seconds.
    clock: Callable[[], float] = time.monotonic
    state: Peer = field(default=Peer.NEVER, init=False)
    _heard: float = field(init=False)
    _heard_once: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    #: When the look that is under way began, when the one before it ended, and the last one that Redis answered.
    _begun: float | None = field(default=None, init=False)
    _ended: float = field(init=False)
    _answered: float = field(init=False)
    #: Seconds that do not count as silence, and those of them that the look under way has added.
    _unwatched: float = field(default=0.0, init=False)
    _pause: float = field(default=0.0, init=False)
    #: Seconds for which every look has failed.
    _away: float = field(default=0.0, init=False)
    _failed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._heard = self._ended = self._answered = self.clock()

    def beat_interval(self, interval: float) -> float:
        """Seconds between two heartbeats: ``interval``, or less so that a short timeout is noticed in time."""
        timeouts = [timeout for timeout in (self.connection_timeout, self.heartbeat_timeout) if timeout is not None]
        return min(interval, max(_SHORTEST_INTERVAL, min(timeouts) / 2))

    @property
    def silence(self) -> float:
        """Seconds since the peer's last heartbeat, or since this side began to listen, as far as they count."""
        return max(self._now() - self._heard, self._away)

    def begin_look(self, interval: float) -> None:
        """Note that this side begins to look; ``interval``: seconds in which it means to do so again."""
        now = self._begun = self.clock()
        if self._failed:
            self._away += min(now - self._ended, interval)
        self._pause = max(now - self._answered - interval, 0.0)
        self._unwatched += self._pause

    def end_look(self, interval: float, *, failed: bool = False) -> None:
        """Note that the look has ended; ``failed``: Redis did not answer. What it showed held when it began."""
        now = self.clock()
        begun, self._begun = now if self._begun is None else self._begun, None
        if not failed:
            self._unwatched += now - begun
            self._answered, self._away = now, 0.0
        else:
            self._unwatched -= self._pause
            # the first failure says nothing yet: it may be the end of a pause of this process
            self._away += min(now - begun, interval) if self._failed else 0.0
        self._ended, self._pause, self._failed = now, 0.0, failed

    def _now(self) -> float:
        """Return the time as far as it counts: that of the look under way, or of the last one that was answered."""
        if self._begun is not None:
            return self._begun - self._unwatched
        return (self._answered if self._failed else self.clock()) - self._unwatched

    def heard(self, age: float) -> None:
        """Note a heartbeat of the peer that is ``age`` seconds old."""
        self._heard = max(self._heard, self._now() - max(0.0, age))
        self._heard_once = True

    def closed(self, closed: bool) -> None:
        """Note whether the peer has said bye; False: it has not, or a new instance of it came."""
        self._closed = closed

    def judge(self) -> bool:
        """Recompute ``state``; True when it changed."""
        before, self.state = self.state, self._judged()
        return self.state is not before

    def _judged(self) -> Peer:
        if self._closed:
            return Peer.LEFT
        silence = self.silence
        if self.heartbeat_timeout is not None and silence >= self.heartbeat_timeout:
            return Peer.GONE
        if silence >= self.connection_timeout:
            return Peer.SILENT
        return Peer.CONNECTED if self._heard_once else Peer.NEVER

    def __repr__(self) -> str:
        return f"<Liveness {self.state.value}, no heartbeat for {self.silence:.1f} s>"
