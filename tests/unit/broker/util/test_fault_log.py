"""What is logged of faults that come in thousands."""

from __future__ import annotations

import logging

import pytest
from redflare_broker.util.fault_log import FaultLog

from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def faults(clock: Clock, caplog: pytest.LogCaptureFixture) -> FaultLog:
    caplog.set_level(logging.INFO)
    return FaultLog(logging.getLogger("faults"), "server", every=30.0, clock=clock)


def test_the_first_fault_is_logged_at_once_and_the_others_are_counted(
    faults: FaultLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        faults.note("site-1", "unknown topic", f"no topic {number}")
    assert caplog.messages == ["server: no topic 0"]
    clock.now = 31.0
    faults.flush()
    assert caplog.messages[1:] == [
        "server: 999 more faults of the kind 'unknown topic' by site-1 in 31 s; the last: no topic 999"
    ]
    assert faults.totals == {"unknown topic": 1000}


def test_a_flood_that_goes_on_writes_one_line_in_each_interval(
    faults: FaultLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(91):
        clock.now = float(second)
        faults.note("site-1", "unknown topic", "no topic")
    assert len(caplog.messages) == 4
    faults.flush(final=True)
    assert len(caplog.messages) == 4


def test_each_sender_and_each_kind_has_its_own_line(faults: FaultLog, caplog: pytest.LogCaptureFixture) -> None:
    for sender in ("site-1", "site-2"):
        for kind in ("unknown topic", "unreadable"):
            faults.note(sender, kind, f"{kind} of {sender}")
    assert len(caplog.messages) == 4


def test_senders_without_number_share_a_line(faults: FaultLog, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(10_000):
        faults.note(f"site-{number}", "unknown topic", "no topic")
    assert len(caplog.messages) < 300
    faults.flush(final=True)
    assert "by other senders" in caplog.messages[-1]
    assert faults.totals == {"unknown topic": 10_000}


def test_after_a_quiet_interval_the_next_fault_is_a_first_one(
    faults: FaultLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    faults.note("site-1", "unknown topic", "no topic a")
    clock.now = 31.0
    faults.flush()
    faults.note("site-1", "unknown topic", "no topic b")
    assert caplog.messages == ["server: no topic a", "server: no topic b"]


def test_the_worst_level_and_the_first_traceback_are_kept(
    faults: FaultLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ZeroDivisionError("oh")
    except ZeroDivisionError as error:
        for level in (logging.WARNING, logging.ERROR, logging.INFO):
            faults.note("site-1", "failed", "it failed", level, exc_info=error)
    faults.flush(final=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]


def test_a_listener_is_told_of_each_fault_and_of_each_flush(faults: FaultLog) -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard: list[object] = []

        def note(self, sender: str, kind: str, text: str) -> None:
            self.heard.append((sender, kind, text))

        def flush(self, *, final: bool = False) -> None:
            self.heard.append(final)

    listener = faults.listener = Listener()
    for _ in range(2):
        faults.note("site-1", "unknown topic", "no topic")
    faults.flush()
    faults.flush(final=True)
    assert listener.heard == [("site-1", "unknown topic", "no topic")] * 2 + [False, True]
