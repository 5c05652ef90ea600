"""A timeout that does not run out while the process is stopped, on a clock that the test sets."""

from __future__ import annotations

import pytest
from redflare_broker.util.patience import Patience

from tests.support.clock import Clock


def waited(patience: Patience, clock: Clock, longest: float, took: float | None = None) -> float:
    """Wait as long as is meant, or for ``took`` seconds; return what was meant."""
    with patience.wait(longest) as seconds:
        clock.now += seconds if took is None else took
    return seconds


def test_waits_use_it_up() -> None:
    clock = Clock()
    patience = Patience(5.0, clock)
    assert [waited(patience, clock, 2.0) for _ in range(3)] == [2.0, 2.0, 1.0]
    assert patience.left == 0


def test_a_wait_that_ends_early_counts_as_long_as_it_was() -> None:
    clock = Clock()
    patience = Patience(5.0, clock)
    waited(patience, clock, 5.0, took=2.0)
    assert patience.left == 3.0


def test_of_a_wait_that_was_overslept_only_what_was_meant_counts() -> None:
    clock = Clock()
    patience = Patience(5.0, clock)
    waited(patience, clock, 2.0, took=60.0)
    assert patience.left == 3.0


@pytest.mark.parametrize("times", [1, 3])
def test_after_an_overslept_end_there_is_time_for_a_look(times: int) -> None:
    clock = Clock()
    patience = Patience(5.0, clock)
    for _ in range(times):
        waited(patience, clock, 5.0, took=60.0)
    assert patience.left == 1.0
    waited(patience, clock, 5.0)
    assert patience.left == 0


def test_a_wait_that_raises_counts() -> None:
    clock = Clock()
    patience = Patience(5.0, clock)

    def interrupted() -> None:
        with patience.wait(5.0):
            clock.now += 2.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert patience.left == 3.0


def test_without_a_timeout_it_has_no_end() -> None:
    clock = Clock()
    patience = Patience(None, clock)
    assert waited(patience, clock, 3600.0) == 3600.0
    assert patience.left == float("inf")


def test_a_timeout_that_is_over_is_over() -> None:
    assert Patience(-1.0).left == 0
