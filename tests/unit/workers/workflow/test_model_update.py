"""How workflows read results, and which model is the best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from redflare_workers.apis import DXO, DataKind, ReturnCode, Shareable, make_reply
from redflare_workers.apis.dxo import from_shareable
from redflare_workers.workflow.best_model import BestModel, RoundMetric
from redflare_workers.workflow.model_update import metrics_of, model_shareable, update_of


def test_a_tasks_data_is_the_model_with_its_round() -> None:
    data = model_shareable({"w": 1.0}, 2, 5)
    assert (data.get_header("current_round"), data.get_header("num_rounds")) == (2, 5)
    assert data.get_cookie("contribution_round") == 2
    assert (from_shareable(data).data_kind, from_shareable(data).data) == (DataKind.WEIGHTS, {"w": 1.0})


@pytest.mark.parametrize(("kind", "difference"), [(DataKind.WEIGHTS, False), (DataKind.WEIGHT_DIFF, True)])
def test_an_update_is_weights_or_a_difference_with_its_steps(kind: DataKind, difference: bool) -> None:
    update = update_of(DXO(kind, {"w": 1.0}, {"NUM_STEPS_CURRENT_ROUND": 7}).to_shareable())
    assert (update.data, update.difference, update.steps) == ({"w": 1.0}, difference, 7)
    assert update_of(DXO(kind, {"w": 1.0}).to_shareable()).steps == 1


def test_data_of_a_site_that_stopped_early_is_good() -> None:
    result = DXO(DataKind.WEIGHTS, {"w": 1.0}).to_shareable()
    result.set_return_code(ReturnCode.EARLY_TERMINATION)
    assert update_of(result).data == {"w": 1.0}


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "the result is a NoneType and not a Shareable"),
        (make_reply("TASK_ABORTED"), "the return code is TASK_ABORTED"),
        (Shareable(), "holds no DXO"),
        (DXO("APP_DEFINED", [1]).to_shareable(), "its data is a list and not a dict"),
        (DXO("ANALYTIC", {}).to_shareable(), "the data is ANALYTIC"),
    ],
)
def test_the_error_of_a_result_without_an_update_says_why(result: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        update_of(result)


def test_metrics_are_the_numbers_of_a_result() -> None:
    result = DXO(DataKind.METRICS, {"acc": np.float32(0.5), "n": 3, "note": "x"}).to_shareable()
    assert metrics_of(result) == {"acc": 0.5, "n": 3.0}


@pytest.mark.parametrize(
    ("meta", "value"),
    [
        ({"initial_metrics": {"accuracy": 0.5}}, 0.5),
        ({"initial_metrics": 0.5}, 0.5),
        ({"accuracy": 0.5}, 0.5),
        ({"initial_metrics": {"loss": 3}, "accuracy": 0.5}, 0.5),
        ({"initial_metrics": 0.5, "accuracy": 0.9}, 0.5),
        ({"accuracy": "good"}, None),
        ({"accuracy": float("nan")}, None),
        ({"accuracy": True}, None),
        ({}, None),
    ],
)
def test_a_metric_is_found_in_the_meta(meta: dict[str, Any], value: float | None) -> None:
    metric = RoundMetric("accuracy")
    metric.add(meta, 3)
    assert metric.value == value
    none = RoundMetric(None)
    none.add(meta, 3)
    assert none.value is None


def test_a_rounds_metric_is_the_mean_weighted_by_steps() -> None:
    metric = RoundMetric("accuracy")
    metric.add({"accuracy": 0.5}, 1)
    metric.add({}, 100)
    metric.add({"accuracy": 1.0}, 3)
    assert metric.value == 0.875


@pytest.mark.parametrize(("smaller", "kept"), [(False, 1), (True, 2)])
def test_the_first_of_equally_good_models_is_kept(smaller: bool, kept: int) -> None:
    best = BestModel(None, "m", smaller)
    for rounds, value in enumerate([0.5, 0.9, 0.1, 0.9, None, 0.1]):
        best.offer({"w": rounds}, value, rounds)
    assert (best.rounds, best.model) == (kept, {"w": kept})
    again = BestModel(None, "m", smaller)
    again.restore(best.state())
    assert repr(again) == repr(best) == f"<BestModel after {kept} rounds: m={best.value}>"
