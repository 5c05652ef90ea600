"""Delays between attempts."""

from __future__ import annotations

import logging

import pytest
from redflare_broker.errors import ServerError, Unavailable
from redflare_broker.util.backoff import Backoff


def test_each_delay_is_longer_up_to_a_limit_until_something_succeeds() -> None:
    backoff = Backoff(first=0.001, longest=0.004, jitter=0.0)
    assert [backoff.next_delay() for _ in range(4)] == [0.001, 0.002, 0.004, 0.004]
    assert backoff.failures == 4
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next_delay() == 0.001


def test_up_to_half_of_a_delay_is_random() -> None:
    delays = {Backoff(first=8.0, longest=8.0).next_delay() for _ in range(100)}
    assert len(delays) > 1
    assert all(4.0 <= delay <= 8.0 for delay in delays)


@pytest.mark.parametrize("failures", [0, 5000])
def test_no_delay_is_longer_than_the_longest_however_often_it_failed(failures: int) -> None:
    backoff = Backoff(first=5.0, longest=2.0)
    for _ in range(failures):
        backoff.next_delay()
    assert backoff.next_delay() <= 2.0


def test_each_cause_is_told_once_until_something_succeeds() -> None:
    backoff = Backoff()
    full, away = Unavailable("the memory is full", cause="OOM"), Unavailable("no answer")
    levels = [backoff.level(error, logging.INFO) for error in (away, full, away, full)]
    assert levels == [logging.INFO, logging.WARNING, logging.DEBUG, logging.DEBUG]
    assert backoff.level(ServerError("no"), logging.ERROR) == logging.ERROR
    backoff.reset()
    assert backoff.level(full, logging.DEBUG) == logging.WARNING
