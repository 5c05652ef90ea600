"""``RefusedMessages``: what others send that is refused, as entries of the audit log, which they must not fill.

The first message of a kind and a sender is an entry, as long as there are few of them; all others are counted, and
become one entry for each kind and hour.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final

from .audit import Audit
from .entry import Action

#: Seconds between two entries with numbers of one kind.
_EVERY: Final = 3600.0
#: Pairs of sender and kind that get an entry of their own, in the life of a process.
_MOST: Final = 200
#: Senders that an entry with numbers names.
_NAMED: Final = 5
_OTHERS: Final = "others"


class RefusedMessages:
    """Also told what a ``FaultLog`` is told; thread-safe.

    Args:
        every: seconds between two entries with numbers.
        clock: seconds, as ``time.monotonic``.
    """

    def __init__(self, audit: Audit, *, every: float = _EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._every = every
        self._clock = clock
        self._guard = threading.Lock()
        self._known: set[tuple[str, str]] = set()
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._since = clock()

    def note(self, sender: str, kind: str, text: str) -> None:
        """Note a message that was refused.

        Args:
            sender: as it says.
            kind: one of a few, not the sender's.
            text: what is wrong, for people.
        """
        key = (sender, kind)
        with self._guard:
            known = key in self._known
            first = not known and len(self._known) < _MOST
            if first:
                self._known.add(key)
            else:
                self._counts[kind][sender if known else _OTHERS] += 1
        if first:
            self._audit.record(Action.FAULT, {}, by=sender, reason=text[:500], kind=kind, count=1)

    def flush(self, *, final: bool = False) -> None:
        """Write the numbers if they are due; ``final``: in any case."""
        with self._guard:
            if not final and self._clock() - self._since < self._every:
                return
            counts, self._counts, self._since = self._counts, defaultdict(Counter), self._clock()
        for kind, senders in counts.items():
            named = dict(senders.most_common(_NAMED))
            reason = f"{senders.total()} more of {len(senders)} senders"
            self._audit.record(Action.FAULT, {}, reason=reason, kind=kind, count=senders.total(), senders=named)
