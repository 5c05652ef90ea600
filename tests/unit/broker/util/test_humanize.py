"""Ages, sizes, times and lists in readable form."""

from __future__ import annotations

import pytest
from redflare_broker.util import humanize


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (-1, "0 s"),
        (0.04, "0 s"),
        (0.4, "0.4 s"),
        (0.97, "1 s"),
        (12.3, "12 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (150, "2 min"),
        (3599.9, "59 min"),
        (7300, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_ages_are_short(seconds: float, written: str) -> None:
    assert humanize.age(seconds) == written


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (2_102_152, "2.1 MB"),
        (4 << 30, "4.3 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_sizes_have_three_digits(count: int, written: str) -> None:
    assert humanize.size(count) == written


def test_times_are_in_utc() -> None:
    assert humanize.iso(1_763_806_515_432) == "2025-11-22T10:15:15.432Z"
    assert humanize.iso(0) == ""


@pytest.mark.parametrize(
    ("texts", "written"), [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c", "d"], "a, b and 2 more")]
)
def test_a_list_names_the_first_and_counts_the_rest(texts: list[str], written: str) -> None:
    assert humanize.first(texts, 2) == written


def test_reasons_are_separated_as_they_are_counted() -> None:
    assert humanize.first(["a: x", "b: y", "c: z"], 2, "; ", "; ") == "a: x; b: y; and 1 more"
