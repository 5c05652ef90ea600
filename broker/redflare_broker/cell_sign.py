"""The last sign of life of a cell, as its heartbeat key tells it."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from .defs import PROTOCOL_VERSION
from .keys import CellKeys
from .lane import Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSign:
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


def read_sign(lane: Lane, keys: CellKeys) -> CellSign | None:
    """The last sign of a cell; None: it was stopped, or is silent for so long that it counts as dead.

    Raises:
        Unavailable: the server is away.
    """
    beat, left = lane.pipeline([["GET", keys.heartbeat], ["PTTL", keys.heartbeat]])
    if not isinstance(beat, bytes) or not isinstance(left, int):
        return None
    try:
        facts = orjson.loads(beat)
        ttl, interval, instance = float(facts["ttl_ms"]), float(facts["interval"]), str(facts["instance"])
    except (ValueError, TypeError, KeyError):
        return None
    return CellSign(instance=instance, age=max(ttl - left, 0.0) / 1000, interval=interval)
