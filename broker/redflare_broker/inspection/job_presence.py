"""Whether those who make a job are there: its server by the hash and heartbeat of its cell, a site by the roll.

Ages are by Redis's own clock, as those of a link's sides in ``presence.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from redflare_broker.job_state.members import Member
from redflare_broker.util import humanize

from .presence import PresenceState

#: Beats that may be missing before somebody is called silent.
_MISSED_BEATS: Final = 3
#: Milliseconds between hello and the first beat in which somebody without a beat counts as connected.
_FIRST_BEAT_MS: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPresence:
    """Of a job's server or of a site."""

    state: PresenceState
    instance: str = ""
    epoch: int = 0
    host: str = ""
    pid: int = 0
    #: When it said hello, and when it left, in ms by Redis's clock; 0: it has not.
    since_ms: int = 0
    left_ms: int = 0
    #: Seconds since its last heartbeat; None: none is known.
    beat_age: float | None = None
    #: How long a heartbeat of it stands, so that one that is gone is at least as old; None: not known.
    beat_ttl: float | None = None
    interval: float | None = None
    #: The time of this look in ms of Redis's clock.
    now: int = 0

    @property
    def connected(self) -> bool:
        return self.state == "connected"

    @property
    def place(self) -> str:
        """Where it runs."""
        return f"{self.host}:{self.pid}" if self.host else ""

    @property
    def absence(self) -> str:
        """What keeps it from doing anything now, to be put behind its name; "" when it is connected."""
        match self.state:
            case "connected":
                return ""
            case "silent":
                return f"has been silent for {humanize.age(self.beat_age or 0)}"
            case "gone":
                longer = f" for more than {humanize.age(self.beat_ttl)}" if self.beat_ttl else ""
                return f"has been silent{longer}, its heartbeat has expired"
            case "left":
                return f"left {humanize.age((self.now - self.left_ms) / 1000)} ago"
            case _:
                return "has never been there"

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "connected": self.connected}


def of_site(entry: Member, now_ms: int) -> JobPresence:
    """A site as the roll of its job tells it."""
    beating = entry.heartbeat_ms >= 0
    age = max(0.0, (entry.ttl_ms - entry.heartbeat_ms) / 1000) if beating else None
    return JobPresence(
        state=_state(entry.left, entry.joined, age, entry.interval, now_ms),
        instance=entry.instance,
        epoch=entry.epoch,
        host=entry.host,
        pid=entry.pid,
        since_ms=entry.joined,
        left_ms=entry.left,
        beat_age=age,
        beat_ttl=entry.ttl_ms / 1000,
        interval=entry.interval,
        now=now_ms,
    )


def of_server(cell: Mapping[str, str], beat: bytes | None, pttl_ms: int, now_ms: int) -> JobPresence:
    """A job's server by the hash of its cell, and its heartbeat with PTTL."""
    instance, since = cell.get("instance", ""), _number(cell.get("since"))
    if not instance:
        return JobPresence(state="never", now=now_ms)
    told = _told(beat, instance)
    interval, ttl_ms = told.get("interval"), _number(told.get("ttl_ms"))
    age = max(0.0, (ttl_ms - pttl_ms) / 1000) if told and pttl_ms >= 0 else None
    left = _number(cell.get("closed"))
    return JobPresence(
        state=_state(left, since, age, float(interval) if isinstance(interval, int | float) else None, now_ms),
        instance=instance,
        epoch=_number(cell.get("epoch")),
        host=cell.get("host", ""),
        pid=_number(cell.get("pid")),
        since_ms=since,
        left_ms=left,
        beat_age=age,
        interval=interval if isinstance(interval, int | float) else None,
        now=now_ms,
    )


def _state(left: int, since: int, age: float | None, interval: float | None, now: int) -> PresenceState:
    if left:
        return "left"
    if age is None:
        return "connected" if now - since < _FIRST_BEAT_MS else "gone"
    return "silent" if interval and age > _MISSED_BEATS * interval else "connected"


def _told(beat: bytes | None, instance: str) -> dict[str, Any]:
    """What the heartbeat says; nothing when it is not JSON of ours or an older instance's."""
    try:
        told = orjson.loads(beat or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) and told.get("instance") == instance else {}


def _number(value: object) -> int:
    try:
        return int(value) if isinstance(value, int | float | str) else 0
    except ValueError:
        return 0
