"""How long links and their tasks are kept in Redis."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RetentionPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long things are kept in Redis; seconds unless the name says otherwise."""

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
