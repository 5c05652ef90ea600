"""Signals that ask the demo to stop, turned into events."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .events import Emit, Signalled

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_signals(emit: Emit) -> Iterator[None]:
    """While this is entered, Ctrl-C and the like emit ``Signalled`` and interrupt nothing.

    An exception out of a signal handler could strike between the start of a process and the note that it was started;
    an event is read where the demo is ready for it, and a second Ctrl-C cannot break off the cleaning up. ``emit`` must
    be safe to call from a handler, as ``SimpleQueue.put`` is.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        emit(Signalled(number=number))

    before = {number: signal.signal(number, handle) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
