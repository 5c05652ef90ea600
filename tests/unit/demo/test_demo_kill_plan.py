"""Whom the demo kills: one agent a round, in turn, once."""

from __future__ import annotations

from redflare_workers.demo.kill_plan import KillPlan

SITES = ["site-1", "site-2", "site-3"]


def victims(plan: KillPlan, round_number: int) -> list[str]:
    return [site for site in SITES if plan.strikes(site, round_number)]


def test_every_round_has_one_victim_and_they_take_turns() -> None:
    plan = KillPlan(SITES)
    assert [victims(plan, n) for n in range(1, 5)] == [["site-1"], ["site-2"], ["site-3"], ["site-1"]]
    assert plan.kills == 4


def test_the_successor_of_a_victim_is_left_alone() -> None:
    plan = KillPlan(SITES)
    assert plan.strikes("site-2", 2)
    assert not plan.strikes("site-2", 2)
    assert plan.kills == 1
