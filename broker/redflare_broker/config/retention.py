"""How long links, their tasks and jobs are kept in Redis, and how large jobs may be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

import orjson

from redflare_broker.errors import DecodeError

__all__ = ["JobRetentionPolicy", "RetentionPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long links and their tasks are kept; seconds unless the name says otherwise."""

    #: Unsettled work and its payload, after the last heartbeat of either side.
    retention: float = 86_400.0
    #: The ledger of a settled task.
    settled_retention: float = 3_600.0
    #: The payload of an accepted result, for a CJ that died before it used it.
    result_keep: float = 60.0
    #: Ledgers of settled tasks that one CJ keeps; beyond that the oldest goes with each new task.
    settled_tasks: int = 1_000
    #: Entries in a dead-letter stream; the oldest go first.
    dead_entries: int = 1_000
    #: Bytes of one value in a dead-letter entry; the rest is cut.
    dead_value_bytes: int = 65_536

    @property
    def retention_ms(self) -> int:
        return max(1, round(self.retention * 1000))

    @property
    def settled_ms(self) -> int:
        return max(1, round(self.settled_retention * 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRetentionPolicy:
    """Limits of the job store; seconds unless the name says otherwise."""

    #: A job after its end; an unfinished one after the server's last beat.
    job_retention: float = 604_800.0
    #: The chunks of a file that is being stored, after the last sign of progress.
    upload_keep: float = 3_600.0
    #: A message to a server that is away.
    event_retention: float = 86_400.0
    #: Deletions of jobs that are remembered, for sites that are away; the oldest go first.
    deletions: int = 1_000
    #: Lines of one job's log; the oldest go first.
    log_lines: int = 10_000
    #: Bytes of one line; the rest is cut.
    line_bytes: int = 8_192
    #: Bytes of an archive, and of a result.
    file_bytes: int = 4 << 30

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what ``to_json`` has written; limits that are unknown here are left out.

        Raises:
            DecodeError: somebody else has written it.
        """
        try:
            found = {name: value for name, value in orjson.loads(text).items() if name in cls.__slots__}
            if any(isinstance(value, bool) or not value > 0 for value in found.values()):
                raise ValueError("a limit is not a number > 0")
            return cls(**found)
        except (ValueError, TypeError, AttributeError) as error:
            raise DecodeError(f"{text!r:.200} does not say how long jobs are kept: {error}") from None

    @property
    def retention_ms(self) -> int:
        return max(1, round(self.job_retention * 1000))

    @property
    def upload_ms(self) -> int:
        return max(1, round(self.upload_keep * 1000))

    @property
    def event_ms(self) -> int:
        return max(1, round(self.event_retention * 1000))
