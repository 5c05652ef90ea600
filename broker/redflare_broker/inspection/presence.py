"""Whether one side of a link is there, as its hash and the side's heartbeat key tell it.

The age of a beat is its ttl minus the key's PTTL, all by Redis's own clock. Where the key is gone, ``ns:agents`` still
knows when an agent was last seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

import orjson

from redflare_broker.scripts.lease import Role
from redflare_broker.util import humanize

#: connected; silent: some beats are missing, its key still stands; gone: the key has expired; left: it said bye;
#: never: nobody has said hello on this side.
PresenceState = Literal["connected", "silent", "gone", "left", "never"]

#: Beats that may be missing before a side is called silent.
_MISSED_BEATS: Final = 3
#: Seconds between hello and the first beat in which a side without a beat counts as connected.
_FIRST_BEAT: Final = 5.0

_LABELS: Final[dict[Role, str]] = {"agent": "agent", "cj": "CJ"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPresence:
    """One side of a link."""

    role: Role
    state: PresenceState
    instance: str = ""
    epoch: int = 0
    #: when it said hello, in ms of Redis's clock; 0: never
    since_ms: int = 0
    #: seconds since its last sign of life; None: nothing is known
    beat_age: float | None = None
    interval: float | None = None
    host: str = ""
    pid: int = 0
    version: str = ""

    @property
    def connected(self) -> bool:
        return self.state == "connected"

    @property
    def label(self) -> str:
        return _LABELS[self.role]

    @property
    def place(self) -> str:
        """Where it runs, "host:pid"; an instance is called so, with a word of its own behind."""
        return f"{self.host}:{self.pid}" if self.host else self.instance.rpartition(":")[0] or self.instance

    @property
    def absence(self) -> str:
        """Why nothing is to be expected of this side now; "" when it is connected."""
        last = "" if self.beat_age is None else f" (last beat {humanize.age(self.beat_age)} ago)"
        match self.state:
            case "connected":
                return ""
            case "silent":
                return f"the {self.label} is silent{last}"
            case "gone":
                return f"{self._nobody}{last}"
            case "left":
                return f"{self._nobody} (it said bye)"
            case _:
                return f"{self._nobody} (there has never been one)"

    @property
    def _nobody(self) -> str:
        return "no agent is connected" if self.role == "agent" else "the CJ is not connected"

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "connected": self.connected}


def read_presence(
    role: Role, link: Mapping[str, str], beat: bytes | None, pttl_ms: int, now_ms: int, seen_ms: int = 0
) -> LinkPresence:
    """Judge a side by the link's hash, its heartbeat with PTTL, and when ``ns:agents`` last saw it (0: unknown)."""
    instance, epoch, since = link.get(role, ""), _number(link.get(f"{role}_epoch")), _number(link.get(f"{role}_since"))
    if not instance:
        seen_age = (now_ms - seen_ms) / 1000 if seen_ms else None
        return LinkPresence(role=role, state="gone" if seen_ms else "never", beat_age=seen_age)
    facts = _facts(beat, instance)
    ttl_ms = _number(facts.get("ttl_ms"))
    beat_ms = now_ms - max(0, ttl_ms - pttl_ms) if facts and pttl_ms >= 0 else 0
    silence = max(0, now_ms - max(since, beat_ms, 0 if facts else seen_ms)) / 1000
    interval = facts.get("interval")
    return LinkPresence(
        role=role,
        state=_state(link, role, bool(beat_ms), silence, _seconds(interval), (now_ms - since) / 1000),
        instance=instance,
        epoch=epoch,
        since_ms=since,
        beat_age=silence,
        interval=_seconds(interval),
        host=str(facts.get("host", "")),
        pid=_number(facts.get("pid")),
        version=str(facts.get("version", "")),
    )


def _state(
    link: Mapping[str, str], role: Role, beating: bool, silence: float, interval: float | None, held: float
) -> PresenceState:
    if link.get(f"{role}_closed", "0") != "0":
        return "left"
    if not beating:
        return "connected" if held < _FIRST_BEAT else "gone"
    return "silent" if interval and silence > _MISSED_BEATS * interval else "connected"


def _facts(beat: bytes | None, instance: str) -> dict[str, object]:
    """What the heartbeat says; nothing when it is not JSON of ours or an older instance's."""
    try:
        facts = orjson.loads(beat or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) and facts.get("instance") == instance else {}


def _number(value: object) -> int:
    try:
        return int(value) if isinstance(value, int | float | str) else 0
    except ValueError:
        return 0


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
