"""Signal handlers of a test's own, in the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from redflare_workers.apis.signal import Signal

#: Handled in ``handling``.
NUMBER: Final = signal.SIGUSR1


@contextmanager
def handling(call: Callable[[], object]) -> Iterator[None]:
    """Call something from a signal handler, for ``signal.raise_signal(NUMBER)``."""
    before = signal.signal(NUMBER, lambda number, frame: call())
    try:
        yield
    finally:
        signal.signal(NUMBER, before)


def aborting_thread(abort: Signal) -> threading.Thread:
    """Interrupt this thread by the signal that is handled; return the thread in which ``abort`` is triggered then.

    This thread waits for it, as work does that holds a lock.
    """
    threads: list[threading.Thread] = []
    triggered = threading.Event()

    def note() -> None:
        threads.append(threading.current_thread())
        triggered.set()

    abort.add_callback(note)
    signal.raise_signal(NUMBER)
    assert triggered.wait(20)
    return threads[0]
