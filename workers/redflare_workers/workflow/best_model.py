"""``BestModel``: the best model of a run, by a metric that the sites measure of the model they receive."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from redflare_workers.apis.dxo import MetaKey

from .model_store import ModelStore
from .model_tree import Model


class RoundMetric:
    """The mean of one metric over the sites of a round, each counting by its steps.

    Args:
        name: what the metric is called in a result's meta: under ``initial_metrics`` (a dict, or the number itself), or
            else in the meta itself. None: no metric is looked for.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._parts: list[tuple[float, float]] = []

    def add(self, meta: dict[str, Any], steps: float) -> None:
        """Add one site's metric; a site without one does not count."""
        if not self.name:
            return
        initial = meta.get(MetaKey.INITIAL_METRICS)
        if isinstance(initial, dict):
            initial = initial.get(self.name)
        value = meta.get(self.name) if initial is None else initial
        if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
            self._parts.append((float(value), float(steps)))

    @property
    def value(self) -> float | None:
        """The mean; None if no site had the metric."""
        if not self._parts:
            return None
        return math.fsum(value * steps for value, steps in self._parts) / math.fsum(steps for _, steps in self._parts)


class BestModel:
    """The best model so far.

    Args:
        store: where it is kept; None: in memory.
        metric: name of the metric, for what is kept beside it.
        smaller_is_better: the metric is a loss.
    """

    def __init__(self, store: ModelStore | None, metric: str | None, smaller_is_better: bool = False) -> None:
        self._store = store
        self._metric = metric or "metric"
        self._smaller = smaller_is_better
        self._model: Model | None = None
        #: Its metric; None: there is no best model yet.
        self.value: float | None = None
        #: How many rounds made it.
        self.rounds = 0

    def __repr__(self) -> str:
        return f"<BestModel after {self.rounds} rounds: {self._metric}={self.value}>"

    def offer(self, model: Model, value: float | None, rounds: int) -> bool:
        """Keep a model if it is better than the best so far; an equal one, or one without a value, is not.

        Raises:
            OSError: it cannot be saved.
        """
        if value is None or not self._beats(value):
            return False
        if self._store is None:
            self._model = model
        else:
            self._store.save(model, {"rounds": rounds, "metrics": {self._metric: value}}, best=True)
        self.value, self.rounds = value, rounds
        return True

    @property
    def model(self) -> Model | None:
        """The best model, read from its file if there is a store; None if there is none yet."""
        if self.value is None or self._store is None:
            return self._model
        return self._store.load(best=True)[0]

    def state(self) -> dict[str, Any]:
        """Return all that ``restore`` needs; the model is part of it only if it is in memory."""
        return {"value": self.value, "rounds": self.rounds, "model": self._model}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.value, self.rounds, self._model = state["value"], state["rounds"], state["model"]

    def _beats(self, value: float) -> bool:
        if self.value is None:
            return True
        return value < self.value if self._smaller else value > self.value
