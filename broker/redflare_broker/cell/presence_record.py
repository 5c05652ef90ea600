"""The last sign of life of a cell, as its heartbeat key tells it."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from redflare_broker.constants import PROTOCOL_VERSION
from redflare_broker.keys import CellKeys
from redflare_broker.transport.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class CellHeartbeat:
    """What the heartbeat of a cell says."""

    #: ``<host>:<pid>:<8 hex digits>``
    instance: str
    #: Seconds since that heartbeat.
    age: float
    #: Seconds between two of them.
    interval: float


def pack_sign(*, instance: str, epoch: int, host: str, pid: int, interval: float, ttl_ms: int) -> bytes:
    """What a heartbeat says."""
    sign = {
        "instance": instance,
        "epoch": epoch,
        "host": host,
        "pid": pid,
        "interval": interval,
        "ttl_ms": ttl_ms,
        "version": PROTOCOL_VERSION,
    }
    return orjson.dumps(sign)


def read_sign(connection: Connection, keys: CellKeys) -> CellHeartbeat | None:
    """The last sign of a cell; None: it was stopped, or is silent for so long that it counts as dead.

    Raises:
        Unavailable: the server is away.
    """
    beat, left = connection.pipeline([["GET", keys.heartbeat], ["PTTL", keys.heartbeat]])
    if not isinstance(beat, bytes) or not isinstance(left, int):
        return None
    try:
        facts = orjson.loads(beat)
        ttl, interval, instance = float(facts["ttl_ms"]), float(facts["interval"]), str(facts["instance"])
    except (ValueError, TypeError, KeyError):
        return None
    return CellHeartbeat(instance=instance, age=max(ttl - left, 0.0) / 1000, interval=interval)
