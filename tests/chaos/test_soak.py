"""The soak in its short form, and its sequence of injections."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.federation_soak import FederationSoak
from tests.chaos.plan import KINDS, plan
from tests.chaos.soak import Soak

pytestmark = pytest.mark.serial


def test_no_promise_breaks_in_a_short_soak(tmp_path: Path) -> None:
    outcome = Soak(tmp_path, seed=1, tasks=150, injections=2 * len(KINDS)).run()
    assert not outcome.broken, outcome.table()
    assert set(outcome.injected) == set(KINDS)
    assert len([task_id for task_id, results in outcome.results.items() if results]) + len(outcome.aborted) == 150


def test_the_same_seed_gives_the_same_injections() -> None:
    first = plan(7, 2_000, 8, 100)
    assert first == plan(7, 2_000, 8, 100)
    assert first != plan(8, 2_000, 8, 100)
    assert {injection.kind for injection in first} == set(KINDS)


def test_no_promise_breaks_in_a_short_soak_of_a_federation(tmp_path: Path) -> None:
    outcome = FederationSoak(tmp_path, seed=1, rounds=12, deaths=6, cuts=3).run()
    assert not outcome.broken, outcome.table()
    assert outcome.injected.total() >= 15, outcome.table()
