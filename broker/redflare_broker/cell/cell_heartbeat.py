"""``CellHeartbeat``: the content of a cell's heartbeat key, by which others see whether it is alive.

``living_holder`` tells a cell whose process is alive from one whose process was killed a moment ago.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson

from redflare_broker.errors import NameTaken, Unavailable
from redflare_broker.keys import CellKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import RedisReply

#: Intervals without a heartbeat, and seconds more, after which the holder of a cell counts as gone.
_MISSED_BEATS: Final = 2.0
_MARGIN: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CellHeartbeat:
    """The last heartbeat of a cell."""

    #: ``<host>:<pid>:<8 hex digits>``
    instance: str
    #: Seconds since that heartbeat.
    age: float
    #: Seconds between two of them.
    interval: float


def read_heartbeat(connection: Connection, keys: CellKeys) -> CellHeartbeat | None:
    """Read the last heartbeat of a cell; None: the cell was stopped, or its heartbeat has expired.

    Raises:
        Unavailable: Redis is away.
    """
    beat, left = connection.pipeline([["GET", keys.heartbeat], ["PTTL", keys.heartbeat]])
    return parse_heartbeat(beat, left)


def parse_heartbeat(beat: RedisReply, left: RedisReply) -> CellHeartbeat | None:
    """Read a heartbeat, of a cell or of an agent, from the replies of GET and PTTL; None: there is none."""
    if not isinstance(beat, bytes) or not isinstance(left, int):
        return None
    try:
        fields = orjson.loads(beat)
        ttl, interval, instance = float(fields["ttl_ms"]), float(fields["interval"]), str(fields["instance"])
    except (ValueError, TypeError, KeyError):
        return None
    return CellHeartbeat(instance=instance, age=max(ttl - left, 0.0) / 1000, interval=interval)


def living_holder(
    read: Callable[[], CellHeartbeat | None], pause: Callable[[float], bool], *, gone: str = ""
) -> CellHeartbeat | None:
    """Watch a cell until it is clear whether its holder is alive; return a heartbeat of the one that is.

    A process that was killed has left a heartbeat, too. So only one that comes while it is watched counts.

    Args:
        read: reads the cell's heartbeat.
        pause: waits for so many seconds, or less; True ends the watch.
        gone: an instance that is known to have ended.

    Raises:
        Unavailable: ``pause`` ended the watch, or ``read`` raised it.
    """
    seen, at = read(), time.monotonic()
    while seen is not None and seen.instance != gone:
        silent = seen.age + time.monotonic() - at
        if (left := _MISSED_BEATS * seen.interval + _MARGIN - silent) <= 0:
            return None
        # the next beat is due when the interval is over
        due = 1.1 * seen.interval - silent
        if pause(min(left, due if due > 0 else 0.3 * seen.interval)):
            raise Unavailable("it was stopped while it watched whether another process has its name")
        found, now = read(), time.monotonic()
        if found is None or found.instance != seen.instance:
            seen, at = found, now
        elif seen.age + now - at - found.age > seen.interval / 4:
            return found
    return None


def name_taken(what: str, holder: CellHeartbeat) -> NameTaken:
    """Make the error that says who has a name; ``what``: "site site-1"."""
    host, pid, _ = holder.instance.rsplit(":", 2)
    return NameTaken(f"{what} runs already: process {pid} on {host}, last heartbeat {holder.age:.1f} s ago")
