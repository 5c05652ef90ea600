"""A row for each step that sets TTLs: which keys get which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from redflare_broker.config.retention import RetentionPolicy

#: What every key is shortened to before a step, in ms.
SHORT: Final = 5_000
#: The life of a heartbeat, and what is left to a record when its log is written to, in ms.
BEAT: Final = 60_000
RECORD: Final = 50_000

POLICY: Final = RetentionPolicy()
#: The scripts' names of TTLs, in ms.
TTLS: Final = {
    "retention_ms": POLICY.retention_ms,
    "settled_ms": POLICY.settled_ms,
    "beat_ttl_ms": BEAT,
    "the record's": RECORD,
}

#: Prepares a state in its first half, and takes the step in its second.
Run: TypeAlias = Callable[[Any], Iterator[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one step does to TTLs."""

    script: str
    run: Run
    #: The TTL of each key that gets one, by the names that the script has for both.
    ttls: dict[str, str]


def sets(rows: list[Row], script: str, **ttls: str) -> Callable[[Run], Run]:
    """Add a row of a step to ``rows``; the suffix of TTLs, ``_ms``, is left out."""

    def add(run: Run) -> Run:
        named = {key: f"{ttl}_ms" if f"{ttl}_ms" in TTLS else ttl for key, ttl in ttls.items()}
        rows.append(Row(script=script, run=run, ttls=named))
        return run

    return add
