"""Whether a job may go on with the clients it has left; a pure decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, Final

#: Keys of a job's meta.
MIN_CLIENTS: Final = "min_clients"
MANDATORY_CLIENTS: Final = "mandatory_clients"


def violation(joined: Iterable[str], disconnected: Set[str], meta: Mapping[str, Any], most: int) -> str:
    """Why the job must be aborted; ``""``: it may go on.

    Args:
        joined: names of the clients that have joined the job.
        disconnected: names of those that are deemed disconnected.
        meta: the job's meta, with ``min_clients`` and ``mandatory_clients``.
        most: how many had joined when they were most. Too few alive counts only once there were enough: clients may
            come late.
    """
    names = set(joined)
    dead = names & disconnected
    if not dead:
        return ""
    alive = len(names) - len(dead)
    if not alive:
        return f"no client is alive: {', '.join(sorted(dead))} are disconnected"
    minimum = meta.get(MIN_CLIENTS)
    minimum = 1 if minimum is None else int(minimum)
    if alive < minimum <= most:
        return f"only {alive} clients are alive, {minimum} are needed: {', '.join(sorted(dead))} are disconnected"
    missing = sorted(dead & set(meta.get(MANDATORY_CLIENTS) or ()))
    return f"mandatory clients are disconnected: {', '.join(missing)}" if missing else ""
