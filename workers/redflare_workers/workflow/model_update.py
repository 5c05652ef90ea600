"""The data of a training task, and the update in its result."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from redflare_workers.apis.app_constant import AppConstants
from redflare_workers.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable

from .model_tree import Model


def model_shareable(model: Model, current_round: int, num_rounds: int) -> Shareable:
    """Make the data of a task: model, round (from 0) and number of rounds. The round comes back as a cookie."""
    shareable = DXO(DataKind.WEIGHTS, model).to_shareable()
    shareable.set_header(AppConstants.CURRENT_ROUND, current_round)
    shareable.set_header(AppConstants.NUM_ROUNDS, num_rounds)
    shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, current_round)
    return shareable


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUpdate:
    """The update of a site: weights or differences, with its steps."""

    #: Weights, or what is to be added to those that the site was given.
    data: Model
    difference: bool
    #: What the site's result counts: the steps it trained, or whatever it put in their place.
    steps: float
    meta: dict[str, Any]


def update_of(result: object) -> ModelUpdate:
    """Read the update in a result.

    Raises:
        ValueError: there is none; the text says why.
    """
    dxo = _dxo_of(result)
    if dxo.data_kind not in (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF):
        raise ValueError(f"the data is {dxo.data_kind!s}, but must be {DataKind.WEIGHTS} or {DataKind.WEIGHT_DIFF}")
    steps = dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 1)
    return ModelUpdate(data=dxo.data, difference=dxo.data_kind == DataKind.WEIGHT_DIFF, steps=steps, meta=dxo.meta)


def metrics_of(result: object) -> dict[str, float]:
    """Return the numbers in a result by name; all else is ignored.

    Raises:
        ValueError: there are none; the text says why.
    """
    data = _dxo_of(result).data
    metrics = {name: float(value) for name, value in data.items() if isinstance(value, Real)}
    if not metrics:
        raise ValueError(f"it holds no number, only {sorted(data)}")
    return metrics


def _dxo_of(result: object) -> DXO:
    if not isinstance(result, Shareable):
        raise ValueError(f"the result is a {type(result).__name__} and not a Shareable")
    rc = result.get_return_code()
    if rc not in (ReturnCode.OK, ReturnCode.EARLY_TERMINATION):
        why = result.get_header(ReservedHeaderKey.ERROR)
        raise ValueError(f"the return code is {rc}" + (f": {why}" if why else ""))
    dxo = from_shareable(result)
    if not isinstance(dxo.data, dict):
        raise ValueError(f"its data is a {type(dxo.data).__name__} and not a dict")
    return dxo
