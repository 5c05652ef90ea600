"""``CellHeartbeat``: the content of a cell's heartbeat key, by which others see whether it is alive."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from redflare_broker.keys import CellKeys
from redflare_broker.transport.connection import Connection


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
        Unavailable: the server is away.
    """
    beat, left = connection.pipeline([["GET", keys.heartbeat], ["PTTL", keys.heartbeat]])
    if not isinstance(beat, bytes) or not isinstance(left, int):
        return None
    try:
        fields = orjson.loads(beat)
        ttl, interval, instance = float(fields["ttl_ms"]), float(fields["interval"]), str(fields["instance"])
    except (ValueError, TypeError, KeyError):
        return None
    return CellHeartbeat(instance=instance, age=max(ttl - left, 0.0) / 1000, interval=interval)
