"""Federated averaging: every site counts by its number of samples."""

from __future__ import annotations

import numpy as np
import pytest
from redflare_workers.demo.federation import Update, average


def update(value: float, samples: int) -> Update:
    return Update(weights={"w": np.full((2, 3), value, np.float32)}, samples=samples, loss=0.0)


def test_a_site_counts_by_its_number_of_samples() -> None:
    mean = average([update(1.0, 300), update(5.0, 100)])
    np.testing.assert_array_equal(mean["w"], np.full((2, 3), 2.0, np.float32))


def test_one_site_alone_keeps_its_weights() -> None:
    assert average([update(0.1, 17)])["w"].tolist() == np.full((2, 3), 0.1, np.float32).tolist()


def test_every_layer_is_averaged_by_its_name() -> None:
    one = Update(weights={"a": np.zeros(1, np.float32), "b": np.ones(2, np.float32)}, samples=1, loss=0.0)
    other = Update(weights={"b": np.zeros(2, np.float32), "a": np.ones(1, np.float32)}, samples=3, loss=0.0)
    mean = average([one, other])
    assert mean["a"].tolist() == [0.75]
    assert mean["b"].tolist() == [0.25, 0.25]


def test_small_differences_are_not_lost_to_single_precision() -> None:
    rng = np.random.default_rng(1)
    updates = [
        Update(weights={"w": rng.standard_normal(50).astype(np.float32)}, samples=int(n), loss=0.0)
        for n in rng.integers(1, 999, 50)
    ]
    exact = sum(u.samples * u.weights["w"].astype(np.longdouble) for u in updates) / sum(u.samples for u in updates)
    np.testing.assert_array_equal(average(updates)["w"], np.asarray(exact).astype(np.float32))


def test_the_result_is_single_precision_and_the_updates_stay_as_they_were() -> None:
    first, second = update(1.0, 1), update(2.0, 1)
    assert average([first, second])["w"].dtype == np.float32
    assert first.weights["w"].tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("kind", [list, tuple])
def test_equal_updates_give_equal_bits(kind: type) -> None:
    updates = [update(0.1 * n, 7 * n) for n in range(1, 5)]
    assert average(kind(updates))["w"].tobytes() == average(updates)["w"].tobytes()
