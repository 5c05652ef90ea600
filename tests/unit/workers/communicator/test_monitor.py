"""The thread that looks: when it is woken, when something is due, and after failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from redflare_workers.communicator.monitor import Monitor

from tests.support.waiting import wait_until


class Looks:
    """Counts the looks."""

    def __init__(self, pause: float | None) -> None:
        self.count = 0
        self.pause = pause
        self.fail = False
        self.during: Callable[[], object] = lambda: None

    def more_than(self, seen: int) -> bool:
        return self.count > seen

    def __call__(self) -> float | None:
        self.count += 1
        self.during()
        if self.fail:
            raise RuntimeError("on purpose")
        return self.pause


def test_it_looks_once_at_the_start_and_then_only_when_it_is_woken() -> None:
    looks = Looks(None)
    monitor = Monitor("monitor", looks)
    monitor.start()
    wait_until(lambda: looks.count == 1)
    for _ in range(3):
        seen = looks.count
        monitor.wake()
        wait_until(partial(looks.more_than, seen))
    assert monitor.stop()
    assert looks.count == 4
    assert not monitor.running


def test_it_looks_again_when_the_pause_is_over() -> None:
    looks = Looks(0.001)
    monitor = Monitor("monitor", looks)
    monitor.start()
    wait_until(lambda: looks.count > 5)
    assert monitor.stop()


def test_a_wake_during_a_look_is_not_lost() -> None:
    looks = Looks(None)
    monitor = Monitor("monitor", looks)
    inside, go_on = threading.Event(), threading.Event()

    def linger() -> None:
        inside.set()
        assert go_on.wait(10)

    looks.during = linger
    monitor.start()
    assert inside.wait(10)
    monitor.wake()
    monitor.wake()
    go_on.set()
    wait_until(lambda: looks.count == 2)
    assert monitor.stop()
    assert looks.count == 2


def test_a_wake_before_the_start_is_not_lost() -> None:
    looks = Looks(None)
    monitor = Monitor("monitor", looks)
    monitor.wake()
    monitor.start()
    wait_until(lambda: looks.count)
    assert monitor.stop()


def test_a_look_that_fails_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    looks = Looks(None)
    looks.fail = True
    monitor = Monitor("the-monitor", looks)
    monitor.start()
    wait_until(lambda: looks.count >= 2)
    looks.fail = False
    assert monitor.stop()
    assert "the-monitor: a look at the standing tasks failed" in caplog.text
    assert "on purpose" in caplog.text


def test_stopping_one_that_was_never_started_is_fine() -> None:
    assert Monitor("monitor", Looks(None)).stop()


def test_it_may_be_stopped_by_its_own_look() -> None:
    looks = Looks(0.001)
    monitor = Monitor("monitor", looks)
    looks.during = monitor.stop
    monitor.start()
    wait_until(lambda: looks.count and not monitor.running)
    assert looks.count == 1


def test_stopping_says_when_a_look_does_not_end() -> None:
    looks = Looks(None)
    monitor = Monitor("monitor", looks)
    inside, go_on = threading.Event(), threading.Event()

    def linger() -> None:
        inside.set()
        assert go_on.wait(10)

    looks.during = linger
    monitor.start()
    assert inside.wait(10)
    began = time.monotonic()
    assert not monitor.stop(timeout=0.01)
    assert time.monotonic() - began < 5
    go_on.set()
    assert monitor.stop()
