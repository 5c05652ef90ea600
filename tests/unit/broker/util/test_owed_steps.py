"""Steps that are owed are tried until they are done, or refused for good."""

from __future__ import annotations

import threading

from redflare_broker.errors import ServerError, Unavailable
from redflare_broker.util.owed_steps import OwedSteps

from tests.support.waiting import wait_until


class Step:
    """A step that fails so many times."""

    def __init__(self, error: Exception, failures: int) -> None:
        self.tried = 0
        self.failures = failures
        self._error = error

    def __call__(self) -> None:
        self.tried += 1
        if self.tried <= self.failures:
            raise self._error


def settle(owed: OwedSteps) -> None:
    """Try all once."""
    owed.begin()
    wait_until(lambda: not owed._working)


def test_a_step_is_tried_until_its_server_is_back() -> None:
    owed, step, other = OwedSteps(), Step(Unavailable("away"), 2), Step(Unavailable("away"), 0)
    owed.add("a", step)
    owed.add("b", other)
    for _ in range(4):
        settle(owed)
    assert (step.tried, other.tried, len(owed)) == (3, 1, 0)


def test_a_step_that_is_refused_is_given_up() -> None:
    owed, step = OwedSteps(), Step(ServerError("no permission"), 9)
    owed.add("a", step)
    settle(owed)
    assert (step.tried, len(owed)) == (1, 0)


def test_the_same_step_is_owed_once() -> None:
    owed, step = OwedSteps(), Step(Unavailable("away"), 0)
    owed.add("a", step)
    owed.add("a", step)
    settle(owed)
    assert step.tried == 1


def test_steps_that_take_long_are_not_begun_again_meanwhile() -> None:
    owed, begun, end = OwedSteps(), threading.Semaphore(0), threading.Event()

    def step() -> None:
        begun.release()
        assert end.wait(10)

    owed.add("a", step)
    owed.begin()
    assert begun.acquire(timeout=10)
    owed.begin()
    end.set()
    wait_until(lambda: not len(owed))
    assert not begun.acquire(blocking=False)
