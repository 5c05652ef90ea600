"""``FLModel``: what ``flare.receive`` returns and ``flare.send`` takes; after NVFlare's class of this name."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Protocol, runtime_checkable

from redflare_broker.constants import RC, MetaKey, TaskResult

from .defs import Task
from .dxo import DataKind


class ParamsType(StrEnum):
    """Whether the parameters of a model are its values or a difference."""

    FULL = "FULL"
    DIFF = "DIFF"


_KIND_OF: Final = {ParamsType.FULL: DataKind.WEIGHTS, ParamsType.DIFF: DataKind.WEIGHT_DIFF}
_START_ROUND: Final = "start_round"
#: Keys of a task's meta that became fields of the model.
_FIELDS: Final = (
    MetaKey.DATA_KIND, MetaKey.CURRENT_ROUND, MetaKey.TOTAL_ROUND, MetaKey.INITIAL_METRICS, _START_ROUND
)  # fmt: skip


class FLModel:
    """Parameters and metrics of a model, and the round they belong to.

    Args:
        params_type: of ``params``; None: FULL if they are given.
        params: the parameters, as a rule a dict of names and arrays or tensors.
        optimizer_params: not sent.
        metrics: a dict of names and values.
        start_round, current_round, total_rounds: None: not known.
        meta: a dict of further values, such as ``MetaKey.NUM_STEPS_CURRENT_ROUND``.

    Raises:
        ValueError: ``params_type`` is not a ``ParamsType``, or is given without params, or a round is negative.
        TypeError: metrics or meta is not a dict, or a round is not an int.
    """

    def __init__(
        self,
        params_type: str | ParamsType | None = None,
        params: Any = None,
        optimizer_params: Any = None,
        metrics: dict[str, Any] | None = None,
        start_round: int | None = 0,
        current_round: int | None = None,
        total_rounds: int | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        if params_type is not None:
            params_type = ParamsType(params_type)
            if params is None:
                raise ValueError(f"params_type is {params_type}, but there are no params")
        elif params is not None:
            params_type = ParamsType.FULL
        for name, rounds in (
            ("start_round", start_round), ("current_round", current_round), ("total_rounds", total_rounds)
        ):  # fmt: skip
            _check_round(name, rounds)
        for name, value in (("metrics", metrics), ("meta", meta)):
            if value is not None and not isinstance(value, dict):
                raise TypeError(f"{name} must be a dict, but got {type(value).__name__}")
        self.params_type = params_type
        self.params = params
        self.optimizer_params = optimizer_params
        self.metrics = metrics
        self.start_round = start_round
        self.current_round = current_round
        self.total_rounds = total_rounds
        self.meta = {} if meta is None else meta

    def summary(self) -> dict[str, Any]:
        """Describe the model without its values: numbers of entries, types, rounds."""
        return {name: _brief(value) for name, value in vars(self).items() if value}

    def __repr__(self) -> str:
        return f"FLModel({self.summary()})"


@runtime_checkable
class ModelLike(Protocol):
    """An ``FLModel``, NVFlare's or the one here."""

    params_type: Any
    params: Any
    optimizer_params: Any
    metrics: Any
    meta: Any


def _check_round(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, but got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must be >= 0, but got {value}")


def _brief(value: object) -> object:
    if isinstance(value, dict):
        return len(value)
    if isinstance(value, str):
        return str(value)
    return value if isinstance(value, int) else type(value).__name__


def model_of(task: Task) -> FLModel:
    """Make the model of a task; data of a kind that is not a model's becomes the params."""
    kind = task.meta.get(MetaKey.DATA_KIND, DataKind.WEIGHTS)
    if kind == DataKind.FL_MODEL:
        return FLModel(**{name: task.data[name] for name in task.data if name in vars(FLModel())})
    metrics, params, params_type = task.meta.get(MetaKey.INITIAL_METRICS), task.data, ParamsType.FULL
    if kind == DataKind.METRICS:
        metrics, params = task.data, None
    elif kind == DataKind.WEIGHT_DIFF:
        params_type = ParamsType.DIFF
    return FLModel(
        params_type=None if params is None else params_type,
        params=params,
        metrics=metrics,
        start_round=task.meta.get(_START_ROUND, 0),
        current_round=task.meta.get(MetaKey.CURRENT_ROUND),
        total_rounds=task.meta.get(MetaKey.TOTAL_ROUND),
        meta={key: value for key, value in task.meta.items() if key not in _FIELDS},
    )


def result_of(model: ModelLike) -> TaskResult:
    """Make the result that carries a model; its type of params may be a member of NVFlare's enumeration.

    Raises:
        RuntimeError: the model is empty.
    """
    meta = dict(model.meta)
    if model.params is None:
        if model.metrics is None:
            raise RuntimeError("the model has neither params nor metrics: nothing to send")
        meta[MetaKey.DATA_KIND] = DataKind.METRICS
        return TaskResult(meta, model.metrics, RC.OK)
    meta[MetaKey.DATA_KIND] = _KIND_OF[ParamsType(model.params_type or ParamsType.FULL)]
    if model.metrics is not None:
        meta[MetaKey.INITIAL_METRICS] = model.metrics
    return TaskResult(meta, model.params, RC.OK)
