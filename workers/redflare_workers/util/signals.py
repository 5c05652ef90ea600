"""Signals as calls, which interrupt nothing that is being started or ended."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

#: Those that ask a process to stop.
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """An event: this process got a signal to stop; ``number`` 0: it should stop without one."""

    number: int


def stopping_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to stop; without SIGHUP if it is ignored: nohup has asked for that."""
    return tuple(
        each for each in _STOPPING if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN
    )


@contextmanager
def signals_to(call: Callable[[int], object], *numbers: signal.Signals) -> Iterator[None]:
    """Call ``call`` with the number of each of these signals, instead of raising in the middle of something.

    An exception from a signal handler could come between the start of a process and the record that it was started; an
    event is read where the program is ready for it, and a second Ctrl-C cannot interrupt the cleaning up. ``call`` must
    be safe in a handler, as ``SimpleQueue.put`` is. Only for the main thread.
    """
    before = {number: signal.signal(number, lambda received, _frame: call(received)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
