"""``Lockouts``: how long a node that has let this process in may refuse its login or certificate until that counts.

A password is changed in Redis and in a file, a certificate is written anew: for a moment the two do not fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from .cluster_slots import Address

#: Seconds without an attempt after which a refusal is a new one. A loop that waits tries again within a few seconds.
_FORGOTTEN: Final = 60.0


class Lockouts:
    """Since when each node refuses. Thread-safe: each step is one of a dict.

    Args:
        patience: seconds for which a refusal is waited out.
        clock: monotonic seconds.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._accepted = False
        #: by node, when the refusals began, and when the last one was
        self._refusals: dict[Address | None, tuple[float, float]] = {}

    def accepted(self, node: Address | None) -> None:
        """Note that a node has let this process in."""
        self._accepted = True
        self._refusals.pop(node, None)

    def refused(self, node: Address | None) -> float:
        """Note a refusal; return for how many seconds it is still waited out; 0: it is final."""
        now = self._clock()
        began, last = self._refusals.get(node, (now, now))
        if now - last > _FORGOTTEN:
            began = now
        self._refusals[node] = began, now
        return max(began + self._patience - now, 0.0) if self._accepted else 0.0

    def __repr__(self) -> str:
        return f"<Lockouts of {len(self._refusals)} nodes>"
