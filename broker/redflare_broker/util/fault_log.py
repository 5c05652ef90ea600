"""``FaultLog``: logs what others do wrong, so that a hundred thousand faults do not become as many lines.

The first fault of a sender and kind is logged at once, with its text. Those that follow are counted, and become one
line every ``every`` seconds at most: how many there were, and the text of the last.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

#: Seconds between two lines about the same sender and kind.
_EVERY: Final = 30.0
#: Pairs of sender and kind that are told apart; faults of any further ones are counted together.
_MOST: Final = 200
_OTHERS: Final = "other senders"


@dataclass(slots=True)
class _Repeated:
    """The faults of one sender and kind since the last line about them."""

    since: float
    level: int
    count: int = 0
    last: str = ""


class FaultListener(Protocol):
    """Is told of each fault, too; from the thread that meets it."""

    def note(self, sender: str, kind: str, text: str) -> None:
        """Note a fault; as ``FaultLog.note``."""

    def flush(self, *, final: bool = False) -> None:
        """Do what is due; as ``FaultLog.flush``."""


class FaultLog:
    """The faults that one process, link or cell meets; thread-safe.

    Args:
        logger: of the module that meets them.
        who: what every line begins with.
        every: seconds between two lines about the same sender and kind.
        clock: seconds, as ``time.monotonic``.
    """

    def __init__(
        self, logger: logging.Logger, who: str, *, every: float = _EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._who = who
        self._every = every
        self._clock = clock
        self._guard = threading.Lock()
        self._repeated: dict[tuple[str, str], _Repeated] = {}
        #: Told of each fault, too; None: nobody is.
        self.listener: FaultListener | None = None
        #: by kind: how many there were in all
        self.totals: dict[str, int] = {}

    def note(
        self, sender: str, kind: str, text: str, level: int = logging.WARNING, *, exc_info: BaseException | None = None
    ) -> None:
        """Log a fault, or count it.

        Args:
            sender: whose fault it is; as the sender says, so it may be any.
            kind: a few words that go with "faults of the kind ..."; one of a few, not the sender's.
            text: what is wrong, for people.
            exc_info: an exception whose traceback the first line gets.
        """
        if self.listener is not None:
            self.listener.note(sender, kind, text)
        now = self._clock()
        with self._guard:
            self.totals[kind] = self.totals.get(kind, 0) + 1
            key = (sender, kind)
            if key not in self._repeated and len(self._repeated) >= _MOST:
                key = (_OTHERS, kind)
            known = self._repeated.get(key)
            if known is None:
                self._repeated[key] = _Repeated(now, level)
            else:
                known.count, known.last, known.level = known.count + 1, text, max(known.level, level)
        if known is None:
            self._logger.log(level, "%s: %s", self._who, text, exc_info=exc_info)
        elif now - known.since >= self._every:
            self.flush()

    def flush(self, *, final: bool = False) -> None:
        """Log the counts that are due; call it from time to time. ``final``: all of them, at the end."""
        if self.listener is not None:
            self.listener.flush(final=final)
        now, due = self._clock(), []
        with self._guard:
            for key, known in list(self._repeated.items()):
                if not final and now - known.since < self._every:
                    continue
                if known.count:
                    due.append((key, now - known.since, known.level, known.count, known.last))
                    known.since, known.count = now, 0
                else:
                    # the next one counts as the first
                    del self._repeated[key]
        for (sender, kind), seconds, level, count, last in due:
            text = "%s: %d more faults of the kind %r by %s in %.0f s; the last: %s"
            self._logger.log(level, text, self._who, count, kind, sender, seconds, last)

    def __repr__(self) -> str:
        return f"<FaultLog of {self._who}, {sum(self.totals.values())} faults>"
