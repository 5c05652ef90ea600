"""Pauses between attempts."""

from __future__ import annotations

import threading
import time

from redflare_workers.util.backoff import Backoff


def test_each_pause_is_longer_up_to_a_limit_until_something_succeeds() -> None:
    backoff = Backoff(first=0.001, longest=0.004)
    pauses = []
    for _ in range(4):
        pauses.append(backoff._next)
        backoff.wait()
    assert pauses == [0.001, 0.002, 0.004, 0.004]
    backoff.reset()
    assert backoff._next == 0.001


def test_the_end_ends_a_pause_at_once_and_all_later_ones() -> None:
    backoff = Backoff(first=20.0, longest=20.0)
    thread = threading.Thread(target=backoff.wait)
    started = time.monotonic()
    thread.start()
    backoff.end()
    thread.join(10)
    backoff.wait()
    assert time.monotonic() - started < 5
