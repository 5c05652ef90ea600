"""A Signal can be read, and calls callbacks when it is triggered, so that nobody has to poll it."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from redflare_workers.apis import Signal


def state(signal: Signal) -> tuple[bool, object, bool]:
    return signal.triggered, signal.value, signal.trigger_time is not None


def test_a_trigger_sets_value_and_time_and_reset_clears_them() -> None:
    signal = Signal()
    assert state(signal) == (False, None, False)
    before = time.time()
    signal.trigger("stop")
    assert state(signal) == (True, "stop", True)
    assert before <= (signal.trigger_time or 0) <= time.time()
    signal.reset("ready")
    assert state(signal) == (False, "ready", False)


def test_a_parent_triggers_its_children_and_not_the_other_way_round() -> None:
    run = Signal()
    job = Signal(parent=run)
    task = Signal(parent=job)
    job.trigger("abort")
    assert task.triggered
    assert task.value is None
    assert not run.triggered


def test_reset_does_not_hide_a_triggered_parent() -> None:
    parent = Signal()
    child = Signal(parent)
    parent.trigger(True)
    child.reset()
    assert child.triggered


def test_callbacks_run_once_in_the_order_they_were_added() -> None:
    signal, calls = Signal(), list[str]()
    signal.add_callback(lambda: calls.append("first"))
    signal.add_callback(lambda: calls.append("second"))
    signal.trigger(1)
    signal.trigger(2)
    signal.reset()
    signal.trigger(3)
    assert calls == ["first", "second"]


def test_a_callback_of_a_child_runs_when_a_grandparent_triggers() -> None:
    grandparent = Signal()
    child, calls = Signal(Signal(grandparent)), list[str]()
    child.add_callback(lambda: calls.append("called"))
    grandparent.trigger(True)
    child.trigger(True)
    assert calls == ["called"]


def test_a_callback_added_after_the_trigger_runs_at_once() -> None:
    parent, calls = Signal(), list[str]()
    parent.trigger(True)
    Signal(parent).add_callback(lambda: calls.append("called"))
    assert calls == ["called"]


def test_a_removed_callback_never_runs_and_leaves_nothing_with_the_parent() -> None:
    parent, calls = Signal(), list[str]()
    child = Signal(parent)
    callback = child.add_callback(lambda: calls.append("called"))
    callback.remove()
    callback.remove()
    assert repr(parent) == "Signal(triggered=False, value=None, callbacks=0)"
    parent.trigger(True)
    assert calls == []


def test_a_callback_lives_as_long_as_its_with_block() -> None:
    signal, calls = Signal(), list[str]()
    with signal.add_callback(lambda: calls.append("called")):
        pass
    signal.trigger(True)
    assert calls == []


def test_a_callback_that_has_run_is_removed_from_all_signals() -> None:
    parent = Signal()
    child = Signal(parent)
    callback = child.add_callback(lambda: None)
    child.trigger(True)
    assert "callbacks=0" in repr(parent)
    assert "spent" in repr(callback)


def test_a_callback_that_raises_is_logged_and_the_others_still_run(caplog: pytest.LogCaptureFixture) -> None:
    signal, calls = Signal(), list[str]()

    def broken() -> None:
        raise ZeroDivisionError

    signal.add_callback(broken)
    signal.add_callback(lambda: calls.append("called"))
    with caplog.at_level(logging.ERROR):
        signal.trigger(True)
    assert calls == ["called"]
    assert "a callback of a signal failed" in caplog.text


def test_a_callback_may_look_at_remove_and_reset_the_signal() -> None:
    signal, seen = Signal(), list[object]()
    other = signal.add_callback(lambda: None)

    def look() -> None:
        seen.append((signal.triggered, signal.value))
        other.remove()
        signal.reset()

    signal.add_callback(look)
    signal.trigger("now")
    assert seen == [(True, "now")]
    assert not signal.triggered


def test_it_wakes_a_thread_that_waits() -> None:
    signal, woken, stopped = Signal(), threading.Event(), list[bool]()
    signal.add_callback(woken.set)
    waiter = threading.Thread(target=lambda: stopped.append(woken.wait(10)))
    waiter.start()
    signal.trigger(True)
    waiter.join(10)
    assert stopped == [True]


def test_threads_that_trigger_and_add_at_once_run_every_callback_exactly_once() -> None:
    for _ in range(50):
        parent = Signal()
        child = Signal(parent)
        barrier, calls = threading.Barrier(4), list[int]()

        def add(child: Signal = child, barrier: threading.Barrier = barrier, calls: list[int] = calls) -> None:
            barrier.wait(10)
            for number in range(20):
                child.add_callback(lambda number=number: calls.append(number))  # type: ignore[misc]

        def trigger(signal: Signal, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(10)
            signal.trigger(True)

        threads = [threading.Thread(target=add), threading.Thread(target=add)]
        threads += [threading.Thread(target=trigger, args=(signal,)) for signal in (parent, child)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(calls) == sorted([*range(20), *range(20)])
        assert "callbacks=0" in repr(parent)
        assert "callbacks=0" in repr(child)
