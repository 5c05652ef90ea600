"""A signal becomes an event, and an early one keeps the demo from starting anything."""

from __future__ import annotations

import os
import signal
import threading
import time
from io import StringIO
from pathlib import Path
from queue import SimpleQueue

import pytest
from redflare_workers.demo.display import Display
from redflare_workers.demo.errors import DemoStopped
from redflare_workers.demo.events import Event
from redflare_workers.demo.run import DemoOptions, DemoRun
from redflare_workers.util.signals import Signalled, signals_to, stopping_signals
from rich.console import Console


@pytest.mark.parametrize("number", stopping_signals())
def test_a_signal_becomes_an_event_and_interrupts_nothing(number: signal.Signals) -> None:
    events: SimpleQueue[Event] = SimpleQueue()
    with signals_to(lambda received: events.put(Signalled(number=received)), *stopping_signals()):
        os.kill(os.getpid(), number)
    assert events.get_nowait() == Signalled(number=number)
    assert events.empty()


def test_the_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in stopping_signals()]
    with signals_to(lambda received: None, *stopping_signals()):
        assert [signal.getsignal(number) for number in stopping_signals()] != before
    assert [signal.getsignal(number) for number in stopping_signals()] == before


def test_a_signal_that_came_first_stops_the_demo_before_anything_starts(tmp_path: Path) -> None:
    options = DemoOptions(
        rounds=1,
        sites=2,
        seed=7,
        kill_agents=False,
        kill_server=False,
        url=None,
        out=tmp_path / "out",
        began=time.monotonic(),
    )
    events: SimpleQueue[Event] = SimpleQueue()
    events.put(Signalled(number=signal.SIGINT))
    threads = threading.active_count()
    with pytest.raises(DemoStopped, match="signal 2"):
        DemoRun(options, events).carry_out(Display(Console(file=StringIO()), 1, kills=False))
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []
