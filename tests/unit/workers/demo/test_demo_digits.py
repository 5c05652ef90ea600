"""The digits at simulated sites: each site has its own, the same in every process, and learns."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from redflare_agent import MetaKey, Task
from redflare_workers.demo import digits
from redflare_workers.demo.model import fingerprint

from tests.support.calls import together


def task(name: str = "train", round_number: int = 0, data: object = None) -> Task:
    model = digits.initial_model() if data is None else data
    return Task(name, "task-1", {MetaKey.CURRENT_ROUND: round_number}, model)


def test_the_same_site_and_round_give_the_same_bits_and_others_do_not() -> None:
    first, again = (fingerprint(digits.train(task(), "site-1").data) for _ in range(2))
    assert first == again
    assert fingerprint(digits.train(task(), "site-2").data) != first
    assert fingerprint(digits.train(task(round_number=1), "site-1").data) != first


def test_sites_that_begin_at_the_same_time_read_the_digits_once() -> None:
    digits._read_digits.cache_clear()
    results = together([partial(digits.train, task(), f"site-{number}") for number in range(8)])
    assert len({fingerprint(result.data) for result in results}) == 8
    assert digits._read_digits.cache_info().misses == 1


def test_a_round_improves_the_model_and_reports_its_metrics() -> None:
    result = digits.train(task(), "site-1")
    assert result.meta[MetaKey.NUM_STEPS_CURRENT_ROUND] == 60
    assert 0 <= result.meta[MetaKey.INITIAL_METRICS]["accuracy"] < 0.5
    assert digits.evaluate(result.data) > digits.evaluate(digits.initial_model())


def test_a_model_is_measured_on_the_sites_own_images() -> None:
    trained = digits.train(task(), "site-1").data
    measured = [digits.train(task("validate", data=trained), site).data["accuracy"] for site in ("site-1", "site-2")]
    assert measured[0] > 0.8
    assert measured[0] != measured[1]


def test_without_a_model_a_site_begins_with_the_initial_one() -> None:
    result = digits.train(task("submit_model", data={}), "site-1")
    assert sorted(result.data) == sorted(digits.initial_model())


@pytest.mark.parametrize("site", ["site-1", "berlin"])
def test_a_site_sees_some_digits_much_more_than_others(site: str) -> None:
    counts = digits._samples(site).counts()
    assert sum(counts) == digits.IMAGES
    assert np.max(counts) > 2 * digits.IMAGES / 10
