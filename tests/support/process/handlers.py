"""Signal handlers of a test's own, in the main thread."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

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
