"""The mean of models: equal to numpy's in any order of arrival; invalid updates are refused before any addition."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from redflare_workers.workflow.aggregator import Aggregator
from redflare_workers.workflow.model_tree import SLICE, Model


def model(seed: int, dtype: Any = np.float32, spread: int = 12) -> Model:
    """Numbers of many magnitudes, in a tree."""
    rng = np.random.default_rng(seed)

    def array(*shape: int) -> Any:
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-spread // 2, spread // 2, shape)).astype(dtype)

    return {"layers": [{"w": array(40, 30), "b": array(30)}, {"w": array(SLICE + 7)}], "scale": array()}


def mean_of(updates: list[Model], weights: list[float], like: Model | None = None) -> Model:
    aggregator = Aggregator(like or updates[0])
    for update, weight in zip(updates, weights, strict=True):
        aggregator.add(update, weight)
    return aggregator.result()


def arrays(tree: Model) -> list[Any]:
    return [tree["layers"][0]["w"], tree["layers"][0]["b"], tree["layers"][1]["w"], tree["scale"]]


def test_the_weighted_mean_equals_numpys() -> None:
    updates, weights = [model(seed) for seed in range(7)], [3, 1.5, 20, 100, 7, 1, 0.25]
    mean = mean_of(updates, weights)
    for actual, *parts in zip(arrays(mean), *map(arrays, updates), strict=True):
        expected = np.average(np.array(parts, np.float64), axis=0, weights=weights)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-12)
        assert (actual.dtype, actual.shape) == (np.float32, parts[0].shape)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_order_of_arrival_does_not_change_a_bit(dtype: Any) -> None:
    updates = [model(seed, dtype, spread=6) for seed in range(8)]
    weights = [float(1 + 37 * index % 11) for index in range(8)]
    pairs = list(zip(updates, weights, strict=True))
    first = mean_of(updates, weights)
    for seed in range(6):
        random.Random(seed).shuffle(pairs)
        again = mean_of([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        for one, other in zip(arrays(first), arrays(again), strict=True):
            np.testing.assert_array_equal(one, other)


def test_small_addends_between_large_numbers_are_kept() -> None:
    numbers = [1e17, 1.0, -1e17, 1.0]
    for order in itertools.permutations(numbers):
        assert mean_of([{"w": np.array([number])} for number in order], [1] * 4)["w"] == 0.5


def test_equal_models_have_themselves_as_mean() -> None:
    one = model(1)
    for actual, expected in zip(arrays(mean_of([one] * 3, [5, 11, 200])), arrays(one), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_whole_numbers_are_rounded_and_keep_their_type() -> None:
    updates: list[Model] = [
        {"n": np.array([1, 10], np.int64), "mask": np.array([True, False]), "k": 3, "x": 0.5},
        {"n": np.array([2, 20], np.int64), "mask": np.array([True, True]), "k": 4, "x": 1.5},
    ]
    mean = mean_of(updates, [1, 3])
    assert mean["n"].dtype == np.int64
    assert (mean["n"].tolist(), mean["mask"].tolist(), mean["k"], mean["x"]) == ([2, 18], [True, True], 4, 1.25)
    assert (type(mean["k"]), type(mean["x"])) == (int, float)


def test_extension_dtypes_have_a_mean_too() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    updates = [{"w": np.array([number], ml_dtypes.bfloat16)} for number in (1, 2)]
    mean = mean_of(updates, [1, 1])["w"]
    assert (mean.dtype, float(mean[0])) == (ml_dtypes.bfloat16, 1.5)


def test_tensors_have_a_tensor_as_mean() -> None:
    torch: Any = pytest.importorskip("torch")
    updates = [{"w": torch.tensor([1.0, float(number)], dtype=torch.bfloat16)} for number in (2, 4)]
    mean = mean_of(updates, [1, 1])["w"]
    assert (mean.dtype, mean.tolist()) == (torch.bfloat16, [1.0, 3.0])
    mixed = Aggregator(updates[0])
    mixed.add({"w": np.array([1.0, 7.0], np.float32)})
    assert type(mixed.result()["w"]) is torch.Tensor


def test_numbers_of_another_dtype_and_layout_are_read_all_the_same() -> None:
    aggregator = Aggregator({"w": np.zeros((3, 2), np.float32)})
    aggregator.add({"w": np.asfortranarray(np.arange(6.0).reshape(3, 2))})
    aggregator.add({"w": np.arange(12, dtype=np.int16).reshape(3, 4)[:, ::2]})
    np.testing.assert_array_equal(aggregator.result()["w"], np.array([[0, 1.5], [3, 4.5], [6, 7.5]], np.float32))


def test_a_difference_counts_as_the_model_it_leads_to() -> None:
    base, trained = model(0), model(1)
    difference: Model = {
        "layers": [
            {"w": trained["layers"][0]["w"] - base["layers"][0]["w"], "b": np.zeros(30, np.float32)},
            {"w": np.zeros(SLICE + 7, np.float32)},
        ],
        "scale": np.float32(0),
    }
    aggregator = Aggregator(base)
    aggregator.add(difference, 2, plus=base)
    aggregator.add(base, 1)
    mean = aggregator.result()
    expected = base["layers"][0]["w"] + 2 / 3 * difference["layers"][0]["w"]
    np.testing.assert_allclose(mean["layers"][0]["w"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mean["layers"][1]["w"], base["layers"][1]["w"])


def test_a_factor_scales_an_update_without_changing_the_weight_of_others() -> None:
    base = {"w": np.array([10.0])}
    aggregator = Aggregator(base)
    aggregator.add({"w": np.array([12.0])}, minus=base, factor=0.5)
    aggregator.add({"w": np.array([14.0])}, minus=base)
    assert aggregator.result(plus=base, scale=2.0)["w"] == 15.0


def test_infinities_are_numbers() -> None:
    for dtype in (np.float32, np.float64):
        updates = [{"w": np.array([np.inf, -np.inf, 1], dtype)}, {"w": np.array([np.inf, 3, 1], dtype)}]
        assert mean_of(updates, [1, 1])["w"].tolist() == [np.inf, -np.inf, 1.0]


@pytest.mark.parametrize(
    ("update", "text"),
    [
        ({"w": np.zeros(3)}, "update.w: has shape (3,), but the model's is (2,)"),
        ({}, "update.w: is missing"),
        ({"w": np.zeros(2), "v": np.zeros(2)}, "update.v: the model has nothing of this name"),
        ({"w": np.array([1, np.nan])}, "update.w: holds NaN"),
        ({"w": "none"}, "update.w: a str has no mean"),
        ({"w": None}, "update.w: a NoneType has no mean"),
        ({"w": np.zeros(2, complex)}, "update.w: a ndarray of dtype complex128 has no mean"),
        ({"w": np.array(["a", "b"])}, "update.w: a ndarray of dtype <U1 has no mean"),
        ({"w": {"deeper": np.zeros(2)}}, "update.w: is missing"),
        ([np.zeros(2)], "update.w: is missing"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_and_nothing_of_it_counts(update: Any, text: str) -> None:
    aggregator = Aggregator({"w": np.zeros(2)})
    aggregator.add({"w": np.ones(2)})
    with pytest.raises(ValueError, match=text.replace("(", r"\(").replace(")", r"\)")):
        aggregator.add(update)
    assert aggregator.count == 1
    assert aggregator.result()["w"].tolist() == [1, 1]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "5", True, None])
def test_a_weight_that_is_no_number_above_zero_is_refused(weight: Any) -> None:
    aggregator = Aggregator({"w": np.zeros(2)})
    with pytest.raises(ValueError, match=r"weight must be a number > 0, but is"):
        aggregator.add({"w": np.zeros(2)}, weight)


def test_a_weight_may_be_a_number_of_numpy() -> None:
    aggregator = Aggregator({"w": np.zeros(1)})
    aggregator.add({"w": np.ones(1)}, np.int64(3))  # type: ignore[arg-type]
    aggregator.add({"w": np.zeros(1)}, np.float32(1))  # type: ignore[arg-type]
    assert (aggregator.total_weight, aggregator.result()["w"][0]) == (4, 0.75)


def test_there_is_no_mean_of_nothing_and_only_one_of_something() -> None:
    aggregator = Aggregator({"w": np.zeros(1)})
    with pytest.raises(RuntimeError, match="nothing to take the mean of"):
        aggregator.result()
    aggregator.add({"w": np.ones(1)})
    aggregator.result()
    with pytest.raises(RuntimeError, match="taken already"):
        aggregator.result()
    with pytest.raises(ValueError, match="holds no numbers"):
        Aggregator({"layers": []})


def test_the_updates_are_left_as_they_are() -> None:
    updates = [model(1, np.float64), model(2, np.float64)]
    mean_of(updates, [2, 3], like=model(0, np.float64))
    for update, seed in zip(updates, (1, 2), strict=True):
        for actual, expected in zip(arrays(update), arrays(model(seed, np.float64)), strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    size = 4_000_000
    one = {"w": np.ones(size, np.float32)}
    tracemalloc.start()
    try:
        aggregator = Aggregator(one)
        for _ in range(20):
            aggregator.add(one, 2)
        assert tracemalloc.get_traced_memory()[1] < 2 * one["w"].nbytes + (6 << 20)
        tracemalloc.reset_peak()
        aggregator.result()
        assert tracemalloc.get_traced_memory()[1] < 3 * one["w"].nbytes + (6 << 20)
    finally:
        tracemalloc.stop()
