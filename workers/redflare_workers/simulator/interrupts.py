"""Handle Ctrl-C as an event, so that it interrupts nothing that is being started or ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_to(call: Callable[[], object]) -> Iterator[None]:
    """Call ``call`` on Ctrl-C instead of raising KeyboardInterrupt; it must be safe in a signal handler.

    Has no effect outside the main thread, or if the signal has another handler already.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        call()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
