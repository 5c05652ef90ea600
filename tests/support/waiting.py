"""Waiting for something to become true, instead of sleeping for as long as it may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

#: Seconds for what should happen at once.
SOON: Final = 20.0


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Return the first true value of ``predicate``; fail when there is none within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    never = threading.Event()
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or predicate} did not become true within {timeout:g} s, it is {value!r}")
        never.wait(pause)
        pause = min(pause * 1.5, 0.05)
    return value
