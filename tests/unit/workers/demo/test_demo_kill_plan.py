"""The processes that the demo kills: one agent each round, and the server in some rounds."""

from __future__ import annotations

from redflare_workers.demo.kill_plan import KillPlan, ServerKillPlan

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


def test_the_server_is_killed_once_in_every_fifth_round_whichever_agent_is_half_way_first() -> None:
    plan = ServerKillPlan()
    asked = [number for number in range(1, 13) for _site in SITES]
    assert [number for number in asked if plan.strikes(number)] == [2, 7, 12]
    assert plan.kills == 3
