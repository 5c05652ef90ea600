"""How long a refused login is waited out, by a clock of the test's own."""

from __future__ import annotations

import pytest
from redflare_broker.errors import ConfigError
from redflare_broker.transport.lockouts import Lockouts
from redflare_broker.transport.url import ConnectionOptions

from tests.support.clock import Clock


def test_a_refusal_is_final_until_a_login_was_accepted() -> None:
    lockouts = Lockouts(60.0, Clock())
    assert lockouts.refused(None) == 0
    lockouts.accepted(None)
    assert lockouts.refused(None) == 60


def test_refusals_are_waited_out_from_the_first_one_on() -> None:
    clock = Clock()
    lockouts = Lockouts(60.0, clock)
    lockouts.accepted(None)
    left = []
    for _ in range(4):
        left.append(lockouts.refused(None))
        clock.now += 20
    assert left == [60, 40, 20, 0]
    lockouts.accepted(None)
    assert lockouts.refused(None) == 60


def test_a_refusal_long_after_another_is_a_new_one() -> None:
    clock = Clock()
    lockouts = Lockouts(60.0, clock)
    lockouts.accepted(None)
    lockouts.refused(None)
    clock.now += 61
    assert lockouts.refused(None) == 60


def test_a_patience_that_is_shorter_than_the_pauses_between_attempts_ends() -> None:
    clock = Clock()
    lockouts = Lockouts(0.3, clock)
    lockouts.accepted(None)
    assert lockouts.refused(None) == pytest.approx(0.3)
    clock.now += 1.0
    assert lockouts.refused(None) == 0


def test_each_node_is_waited_for_on_its_own() -> None:
    clock = Clock()
    lockouts = Lockouts(60.0, clock)
    lockouts.accepted(("a", 1))
    lockouts.refused(("a", 1))
    clock.now += 50
    lockouts.accepted(("b", 1))
    assert lockouts.refused(("b", 1)) == 60
    assert lockouts.refused(("a", 1)) == 10


def test_without_patience_a_refusal_is_final_at_once() -> None:
    lockouts = Lockouts(0.0)
    lockouts.accepted(None)
    assert lockouts.refused(None) == 0


@pytest.mark.parametrize("patience", [-1, True, "60", float("nan")])
def test_a_patience_that_is_none_is_refused(patience: object) -> None:
    with pytest.raises(ConfigError, match="login_patience must be a number of seconds >= 0"):
        ConnectionOptions(login_patience=patience)  # type: ignore[arg-type]
