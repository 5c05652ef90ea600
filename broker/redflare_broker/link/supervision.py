"""``Supervision``: what the supervisor of an agent's process tells of itself, in a key beside the link."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

import orjson

from redflare_broker.errors import DecodeError
from redflare_broker.scripts.lease import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How long the agent's process may take to end, and which one the supervisor has ended last."""

    #: seconds in which the process ends when its task is aborted
    within: float
    #: instance of the agent whose process was ended last, and when, in ms of Redis's clock; "" and 0: none was
    ended: str = ""
    ended_at: int = 0

    def to_entry(self, lease: Lease, interval: float, ttl_ms: int) -> bytes:
        """Encode the value of the key; arguments as of ``Lease.heartbeat``."""
        return lease.heartbeat(interval, ttl_ms, **asdict(self))

    @classmethod
    def read(cls, entry: bytes) -> Self:
        """Read what ``to_entry`` has written.

        Raises:
            DecodeError: it is none.
        """
        try:
            fields = orjson.loads(entry)
            ended, at = str(fields["ended"]), int(fields["ended_at"])
            return cls(within=float(fields["within"]), ended=ended, ended_at=at)
        except (ValueError, KeyError, TypeError) as error:
            raise DecodeError(f"{entry!r:.200} is not what a supervisor writes: {error}") from None
