"""Turn signals that stop the demo into events."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .events import Emit, Signalled

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_signals(emit: Emit) -> Iterator[None]:
    """Emit ``Signalled`` on Ctrl-C and similar signals, instead of raising in the middle of something.

    An exception from a signal handler could come between the start of a process and the record that it was started; an
    event is read where the demo is ready for it, and a second Ctrl-C cannot interrupt the cleaning up. ``emit`` must be
    safe to call from a handler, as ``SimpleQueue.put`` is.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        emit(Signalled(number=number))

    before = {number: signal.signal(number, handle) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
