"""The sites of a simulation, and how they are divided among processes."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_broker.errors import ConfigError
from redflare_workers.simulator.plan import divide, make_plan


def test_a_number_of_sites_gives_them_names() -> None:
    assert make_plan(3, 1, None).sites == ("site-1", "site-2", "site-3")


def test_names_are_taken_as_they_are() -> None:
    plan = make_plan(["berlin", "paris"], 2, "job-1")
    assert plan.parts == (("berlin",), ("paris",))
    assert plan.job_id == "job-1"


def test_every_simulation_has_a_job_of_its_own() -> None:
    assert make_plan(2, 1, None).job_id != make_plan(2, 1, None).job_id


def test_without_processes_all_sites_are_one_part() -> None:
    plan = make_plan(3, 0, None)
    assert (plan.processes, len(plan.parts)) == (0, 1)


def test_there_are_no_more_processes_than_sites() -> None:
    assert make_plan(2, 5, None).processes == 2
    assert make_plan(1, None, None).processes == 1


@pytest.mark.parametrize(("sites", "parts"), [(1, 1), (7, 2), (8, 3), (100, 7), (3, 3)])
def test_the_parts_differ_by_one_at_most_and_hold_everyone_in_order(sites: int, parts: int) -> None:
    names = [str(number) for number in range(sites)]
    divided = divide(names, parts)
    assert [name for part in divided for name in part] == names
    assert len(divided) == parts
    assert max(map(len, divided)) - min(map(len, divided)) <= 1


@pytest.mark.parametrize(
    ("sites", "processes", "job_id", "error", "message"),
    [
        (0, None, None, ConfigError, "at least one site"),
        ([], None, None, ConfigError, "at least one site"),
        (-1, None, None, ConfigError, "at least one site"),
        (["a", "b", "a"], None, None, ConfigError, "'a' is given more than once"),
        (["a.b"], None, None, ConfigError, "site name 'a.b' is not legal"),
        ("site-1", None, None, TypeError, "a list of their names, but is 'site-1'"),
        (True, None, None, TypeError, "but is True"),
        (2.0, None, None, TypeError, "but is 2.0"),
        ([1], None, None, TypeError, "site name must be a str"),
        (2, -1, None, ConfigError, "processes must be 0 (threads of this process) or more, but is -1"),
        (2, "2", None, TypeError, "processes must be an int, but is '2'"),
        (2, None, "a b", ConfigError, "job_id 'a b' is not legal"),
    ],
)
def test_a_wrong_argument_is_named(
    sites: Any, processes: Any, job_id: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        make_plan(sites, processes, job_id)
    assert message in str(raised.value)
