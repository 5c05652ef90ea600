"""A process of ``redflare up``: what its end means, and the reason that is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
from redflare_workers.up.events import CannotRun, Died, Event, Over, Ready, Said, Started
from redflare_workers.up.up_process import UpProcess, reason_of

READY = "print('loading ... ', end=''); print('redflare: ready: here it is', flush=True)"
Make = Callable[[str], UpProcess]


@pytest.fixture
def events() -> SimpleQueue[Event]:
    return SimpleQueue()


@pytest.fixture
def make(tmp_path: Path, events: SimpleQueue[Event]) -> Iterator[Make]:
    made: list[UpProcess] = []

    def process(program: str) -> UpProcess:
        log = tmp_path / "logs" / "site.log"
        log.parent.mkdir()
        made.append(UpProcess("site-1", [sys.executable, "-c", program], log, events.put))
        return made[-1]

    yield process
    for each in made:
        each.stop()


def next_of(events: SimpleQueue[Event], kind: type[Event]) -> Event:
    """The next event of a kind."""
    while not isinstance(event := events.get(timeout=30), kind):
        pass
    return event


def test_one_that_was_never_connected_cannot_run_and_is_not_started_again(
    make: Make, events: SimpleQueue[Event]
) -> None:
    make("import sys; print('redflare: no such thing'); sys.exit(2)").start()
    assert next_of(events, CannotRun) == CannotRun(name="site-1", code=2, reason="no such thing")
    assert events.get(timeout=30) == Over(name="site-1")


@pytest.mark.parametrize("program", ["pass", "import os; os.kill(os.getpid(), 9)"])
def test_one_that_ends_without_an_error_before_it_was_connected_is_a_failure(
    make: Make, events: SimpleQueue[Event], program: str
) -> None:
    make(program).start()
    cannot = next_of(events, CannotRun)
    assert isinstance(cannot, CannotRun)
    assert cannot.code == 1
    assert cannot.reason


def test_one_that_dies_after_it_was_connected_is_started_again_after_a_pause(
    make: Make, events: SimpleQueue[Event]
) -> None:
    make(f"import os; {READY}; os.kill(os.getpid(), 9)").start()
    next_of(events, Ready)
    assert next_of(events, Died) == Died(name="site-1", how="killed by SIGKILL", pause=1.0)
    next_of(events, Started)
    assert next_of(events, Died) == Died(name="site-1", how="killed by SIGKILL", pause=2.0)


def test_one_whose_name_was_taken_is_left_alone(make: Make, events: SimpleQueue[Event]) -> None:
    make(f"import sys; {READY}; print('redflare: another one has taken over'); sys.exit(4)").start()
    died = next_of(events, Died)
    assert died == Died(name="site-1", how="exit code 4: another one has taken over", pause=None)
    assert events.get(timeout=30) == Over(name="site-1")


def test_a_stop_interrupts_the_pause(make: Make, events: SimpleQueue[Event]) -> None:
    process = make(f"import sys; {READY}; sys.exit(1)")
    process.start()
    next_of(events, Died)
    process.stop()
    assert events.get(timeout=30) == Over(name="site-1")
    assert events.empty()


def test_one_that_cannot_be_started_again_is_tried_again(
    make: Make, events: SimpleQueue[Event], tmp_path: Path
) -> None:
    make(f"import shutil, sys; {READY}; shutil.rmtree({str(tmp_path / 'logs')!r}); sys.exit(1)").start()
    next_of(events, Died)
    failed = next_of(events, Died)
    assert isinstance(failed, Died)
    assert failed.how.startswith("it cannot be started: ")
    assert failed.pause == 2.0
    (tmp_path / "logs").mkdir()
    next_of(events, Started)


def test_lines_are_passed_on(make: Make, events: SimpleQueue[Event]) -> None:
    make("print('one'); print('two')").start()
    lines: list[str] = []
    while len(lines) < 2:
        said = next_of(events, Said)
        assert isinstance(said, Said)
        lines += said.lines
    assert lines == ["one", "two"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], ""),
        (["redflare: started: site site-1, process 7"], ""),
        (["redflare: started: server", "redflare: process 7 serves x already"], "process 7 serves x already"),
        (["redflare: no module 'x'", "redflare: process 7 ended: exit code 103 (CONFIG)"], "no module 'x'"),
        (["Traceback (most recent call last):", "ValueError: bad", ""], "ValueError: bad"),
    ],
)
def test_the_reason_is_the_error_that_the_service_has_written(lines: list[str], reason: str) -> None:
    assert reason_of(lines) == reason
