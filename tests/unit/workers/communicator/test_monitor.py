"""The monitor thread: it sweeps when it is woken, when something is due, and after failures."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from redflare_workers.communicator.task_sweeper import Monitor

from tests.support.waiting import wait_until


class Sweeps:
    """Counts its calls."""

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


def test_it_sweeps_once_at_the_start_and_then_only_when_it_is_woken() -> None:
    sweeps = Sweeps(None)
    monitor = Monitor("monitor")
    monitor.start(sweeps)
    wait_until(lambda: sweeps.count == 1)
    for _ in range(3):
        seen = sweeps.count
        monitor.wake()
        wait_until(partial(sweeps.more_than, seen))
    assert monitor.stop()
    assert sweeps.count == 4
    assert not monitor.running


def test_it_sweeps_again_when_the_pause_is_over() -> None:
    sweeps = Sweeps(0.001)
    monitor = Monitor("monitor")
    monitor.start(sweeps)
    wait_until(lambda: sweeps.count > 5)
    assert monitor.stop()


def test_after_a_pause_of_the_process_what_has_come_meanwhile_is_dealt_with_before_deadlines_are_judged() -> None:
    moments = itertools.chain([0.0, 100.0], itertools.repeat(100.0))
    sweeps = Sweeps(0.001)
    at: list[float] = []
    sweeps.during = lambda: at.append(time.monotonic())
    monitor = Monitor("monitor", clock=lambda: next(moments))
    monitor.start(sweeps)
    wait_until(lambda: sweeps.count > 2)
    assert monitor.stop()
    assert at[1] - at[0] >= 1.0, "it had slept for 100 s instead of a millisecond"


def test_a_monitor_that_looks_after_a_pause_ends_at_once() -> None:
    moments = itertools.chain([0.0, 100.0], itertools.repeat(100.0))
    late = threading.Event()

    def clock() -> float:
        moment = next(moments)
        if moment:
            late.set()
        return moment

    monitor = Monitor("monitor", clock)
    sweeps = Sweeps(0.001)
    monitor.start(sweeps)
    assert late.wait(10)
    assert monitor.stop()
    assert sweeps.count == 1


def test_a_wake_during_a_sweep_is_not_lost() -> None:
    sweeps = Sweeps(None)
    monitor = Monitor("monitor")
    inside, go_on = threading.Event(), threading.Event()

    def linger() -> None:
        inside.set()
        assert go_on.wait(10)

    sweeps.during = linger
    monitor.start(sweeps)
    assert inside.wait(10)
    monitor.wake()
    monitor.wake()
    go_on.set()
    wait_until(lambda: sweeps.count == 2)
    assert monitor.stop()
    assert sweeps.count == 2


def test_a_wake_before_the_start_is_not_lost() -> None:
    sweeps = Sweeps(None)
    monitor = Monitor("monitor")
    monitor.wake()
    monitor.start(sweeps)
    wait_until(lambda: sweeps.count)
    assert monitor.stop()


class CountingMonitor(Monitor):
    """Notes when it is woken."""

    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__(name, clock)
        self.wakes: list[float] = []

    def wake(self) -> None:
        self.wakes.append(time.monotonic())
        super().wake()


def test_it_is_not_woken_for_what_its_next_sweep_is_in_time_for() -> None:
    waits = threading.Event()

    def clock() -> float:
        waits.set()
        return 0.0

    sweeps = Sweeps(100.0)
    monitor = CountingMonitor("monitor", clock)
    monitor.start(sweeps)
    assert waits.wait(10)
    monitor.wake_within(1000.0)
    assert not monitor.wakes, "its next sweep comes before that"
    monitor.wake_within(1.0)
    assert len(monitor.wakes) == 1
    wait_until(lambda: sweeps.count == 2)
    assert monitor.stop()


def test_one_that_waits_without_end_is_woken_for_whatever_is_due() -> None:
    sweeps = Sweeps(None)
    monitor = CountingMonitor("monitor")
    monitor.start(sweeps)
    wait_until(lambda: sweeps.count == 1)
    monitor.wake_within(1000.0)
    assert len(monitor.wakes) == 1
    wait_until(lambda: sweeps.count == 2)
    assert monitor.stop()


def test_a_sweep_that_fails_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    sweeps = Sweeps(None)
    sweeps.fail = True
    monitor = Monitor("the-monitor")
    monitor.start(sweeps)
    wait_until(lambda: sweeps.count >= 2)
    sweeps.fail = False
    assert monitor.stop()
    assert "the-monitor: a sweep of the open tasks failed" in caplog.text
    assert "on purpose" in caplog.text


def test_stopping_one_that_was_never_started_is_fine() -> None:
    assert Monitor("monitor").stop()


def test_it_may_be_stopped_by_its_own_sweep() -> None:
    sweeps = Sweeps(0.001)
    monitor = Monitor("monitor")
    sweeps.during = monitor.stop
    monitor.start(sweeps)
    wait_until(lambda: sweeps.count and not monitor.running)
    assert sweeps.count == 1


def test_stopping_warns_when_a_sweep_does_not_end() -> None:
    sweeps = Sweeps(None)
    monitor = Monitor("monitor")
    inside, go_on = threading.Event(), threading.Event()

    def linger() -> None:
        inside.set()
        assert go_on.wait(10)

    sweeps.during = linger
    monitor.start(sweeps)
    assert inside.wait(10)
    began = time.monotonic()
    assert not monitor.stop(timeout=0.01)
    assert time.monotonic() - began < 5
    go_on.set()
    assert monitor.stop()
