"""The table of transitions of a task's status."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import pytest
from redflare_broker.scripts import task_states
from redflare_broker.scripts.task_states import (
    ABORTED,
    ACCEPTED,
    FETCHED,
    NEW,
    REJECTED,
    STATUSES,
    SUBMITTED,
    TRANSITIONS,
    may,
)

STEPS = sorted({row.step for row in TRANSITIONS})


def test_the_three_ends_are_settled_and_nothing_else_is() -> None:
    assert [status for status in STATUSES if task_states.settled(status)] == [ACCEPTED, REJECTED, ABORTED]
    assert not task_states.settled(None)
    assert not task_states.settled("")


def test_no_transition_is_in_the_table_twice() -> None:
    rows = [(row.step, row.source, row.target) for row in TRANSITIONS]
    assert len(rows) == len(set(rows))
    assert all(row.reason for row in TRANSITIONS)


def test_every_status_can_be_reached_from_nothing() -> None:
    reached: set[str | None] = {None}
    for _ in STATUSES:
        reached |= {row.target for row in TRANSITIONS if row.source in reached}
    assert reached == {None, *STATUSES}


def test_every_open_task_can_still_be_accepted() -> None:
    hopeful = {ACCEPTED}
    for _ in STATUSES:
        hopeful |= {row.source for row in TRANSITIONS if row.target in hopeful and row.source}
    assert hopeful == {NEW, FETCHED, SUBMITTED, ACCEPTED}


@pytest.mark.parametrize("final", [REJECTED, ABORTED])
def test_a_rejected_or_aborted_task_stays_so_for_ever(final: str) -> None:
    leads_to = [target for step, target in itertools.product(STEPS, STATUSES) if may(step, final, target)]
    assert set(leads_to) == {final}


def test_an_accepted_task_is_reopened_by_assign_alone() -> None:
    leads_to = [(row.step, row.target) for row in TRANSITIONS if row.source == ACCEPTED]
    assert sorted(leads_to) == [("assign", NEW), ("settle", REJECTED)]


def test_only_a_submitted_result_is_accepted() -> None:
    assert [(row.step, row.source) for row in TRANSITIONS if row.target == ACCEPTED] == [("settle", SUBMITTED)]


def test_the_scripts_use_the_same_statuses() -> None:
    lua = resources.files("redflare_broker.scripts") / "lua" / "link"
    source = "".join(file.read_text("utf-8") for file in lua.iterdir())
    assert set(re.findall(r"'status', '([A-Z]+)'", source)) <= set(STATUSES)
    assert [status for status in STATUSES if f"'{status}'" in source] == list(STATUSES)
