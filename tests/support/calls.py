"""Calls in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[..., object], *args: object) -> threading.Thread:
    """Run a function in a thread, which the test must join."""
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make all calls at once, and return what each returns; none begins before every thread is there."""
    barrier = threading.Barrier(len(calls))

    def make(call: Callable[[], T]) -> T:
        barrier.wait(20)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(make, calls))
