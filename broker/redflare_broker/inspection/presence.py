"""Whether a side of a link, a job's server or a site is alive, judged by its heartbeat key.

The age of a heartbeat is its ttl minus the key's PTTL, all by Redis's own clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import orjson

from redflare_broker.job_state.members import Member
from redflare_broker.scripts.lease import Role
from redflare_broker.util import humanize

from .redis_read import number

#: connected; silent: some heartbeats are missing; gone: the heartbeat has expired; left: it said bye; never: nobody
#: has connected yet.
PresenceState = Literal["connected", "silent", "gone", "left", "never"]

#: Heartbeats that may be missing before the state is silent.
_MISSED_BEATS: Final = 3
#: Seconds after connecting in which the first heartbeat may be missing.
_FIRST_BEAT: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """The state of a process in Redis: one side of a link, a job's server, or one of its sites."""

    state: PresenceState
    instance: str = ""
    epoch: int = 0
    host: str = ""
    pid: int = 0
    #: when it connected, in ms of Redis's clock; 0: never
    since_ms: int = 0
    #: seconds since it was last known to be alive; None: unknown
    beat_age: float | None = None
    interval: float | None = None

    @property
    def connected(self) -> bool:
        return self.state == "connected"

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "connected": self.connected}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPresence(Presence):
    """The state of one side of a link."""

    role: Role
    version: str = ""

    @property
    def label(self) -> str:
        return "agent" if self.role == "agent" else "CJ"

    @property
    def place(self) -> str:
        """Where it runs, "host:pid"; taken from the instance's name when the heartbeat is missing."""
        return f"{self.host}:{self.pid}" if self.host else self.instance.rpartition(":")[0] or self.instance

    @property
    def absence(self) -> str:
        """Why this side cannot act now; "" when it is connected."""
        last = "" if self.beat_age is None else f" (last heartbeat {humanize.age(self.beat_age)} ago)"
        nobody = "no agent is connected" if self.role == "agent" else "the CJ is not connected"
        match self.state:
            case "connected":
                return ""
            case "silent":
                return f"the {self.label} is silent{last}"
            case "gone":
                return f"{nobody}{last}"
            case "left":
                return f"{nobody} (it left)"
            case _:
                return f"{nobody} (none seen yet)"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPresence(Presence):
    """The state of a job's server, or of one of its sites."""

    #: when it left, in ms of Redis's clock; 0: it has not
    left_ms: int = 0
    #: how long its heartbeats live, in seconds, so that an expired one is at least this old; None: unknown
    beat_ttl: float | None = None
    #: when this was read, in ms of Redis's clock
    now: int = 0

    @property
    def place(self) -> str:
        """Where it runs, "host:pid"."""
        return f"{self.host}:{self.pid}" if self.host else ""

    @property
    def absence(self) -> str:
        """Why it cannot act now, such as "silent for 40 s"; "" when it is connected."""
        match self.state:
            case "connected":
                return ""
            case "silent":
                return f"silent for {humanize.age(self.beat_age or 0)}"
            case "gone":
                return f"no heartbeat for more than {humanize.age(self.beat_ttl)}" if self.beat_ttl else _NO_HEARTBEAT
            case "left":
                return f"left {humanize.age((self.now - self.left_ms) / 1000)} ago"
            case _:
                return _NO_HEARTBEAT


_NO_HEARTBEAT: Final = "no heartbeat found"


def side_of_link(
    role: Role, link: Mapping[str, str], beat: bytes | None, pttl_ms: int, now_ms: int, seen_ms: int = 0
) -> LinkPresence:
    """Judge a side by the link's hash, its heartbeat with PTTL, and when ``ns:agents`` last saw it (0: unknown)."""
    instance, epoch, since = link.get(role, ""), number(link.get(f"{role}_epoch")), number(link.get(f"{role}_since"))
    if not instance:
        seen_age = (now_ms - seen_ms) / 1000 if seen_ms else None
        return LinkPresence(role=role, state="gone" if seen_ms else "never", beat_age=seen_age)
    facts = _facts(beat, instance)
    beat_ms = now_ms - max(0, number(facts.get("ttl_ms")) - pttl_ms) if facts and pttl_ms >= 0 else 0
    silence = max(0, now_ms - max(since, beat_ms, 0 if facts else seen_ms)) / 1000
    interval = _seconds(facts.get("interval"))
    left = link.get(f"{role}_closed", "0") != "0"
    return LinkPresence(
        role=role,
        state=_state(left, now_ms - since, silence if beat_ms else None, interval),
        instance=instance,
        epoch=epoch,
        since_ms=since,
        beat_age=silence,
        interval=interval,
        host=str(facts.get("host", "")),
        pid=number(facts.get("pid")),
        version=str(facts.get("version", "")),
    )


def site_of_job(member: Member, now_ms: int) -> JobPresence:
    """Judge a site by its entry in the job's member list."""
    age = max(0.0, (member.ttl_ms - member.heartbeat_ms) / 1000) if member.heartbeat_ms >= 0 else None
    return JobPresence(
        state=_state(bool(member.left), now_ms - member.joined, age, member.interval),
        instance=member.instance,
        epoch=member.epoch,
        host=member.host,
        pid=member.pid,
        since_ms=member.joined,
        left_ms=member.left,
        beat_age=age,
        beat_ttl=member.ttl_ms / 1000,
        interval=member.interval,
        now=now_ms,
    )


def server_of_job(cell: Mapping[str, str], beat: bytes | None, pttl_ms: int, now_ms: int) -> JobPresence:
    """Judge a job's server by the hash of its cell, and its heartbeat with PTTL."""
    instance, since, left = cell.get("instance", ""), number(cell.get("since")), number(cell.get("closed"))
    if not instance:
        return JobPresence(state="never", now=now_ms)
    facts = _facts(beat, instance)
    interval = _seconds(facts.get("interval"))
    age = max(0.0, (number(facts.get("ttl_ms")) - pttl_ms) / 1000) if facts and pttl_ms >= 0 else None
    return JobPresence(
        state=_state(bool(left), now_ms - since, age, interval),
        instance=instance,
        epoch=number(cell.get("epoch")),
        host=cell.get("host", ""),
        pid=number(cell.get("pid")),
        since_ms=since,
        left_ms=left,
        beat_age=age,
        interval=interval,
        now=now_ms,
    )


def _state(left: bool, since_ms: int, beat_age: float | None, interval: float | None) -> PresenceState:
    if left:
        return "left"
    if beat_age is None:
        return "connected" if since_ms < _FIRST_BEAT * 1000 else "gone"
    return "silent" if interval and beat_age > _MISSED_BEATS * interval else "connected"


def _facts(beat: bytes | None, instance: str) -> dict[str, Any]:
    """Return the heartbeat's fields; empty when it is not valid JSON or belongs to an older instance."""
    try:
        facts = orjson.loads(beat or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) and facts.get("instance") == instance else {}


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
