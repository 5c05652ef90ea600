"""``Aggregator``: the weighted mean of models, built up as they arrive, whatever their order and number."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from .model_tree import Floats, Leaf, Model, Path, at, flatten, rebuild, slices


class _Sum:
    """What was added up at one leaf: ``high``, and in ``low`` what its roundings lost, where float64 is too short."""

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf
        self.high: Floats | None = np.zeros(leaf.size)
        self.low: Floats | None = np.zeros(leaf.size) if leaf.wide else None

    def add(self, start: int, stop: int, values: Floats) -> None:
        assert self.high is not None
        high = self.high[start:stop]
        if self.low is None:
            high += values
            return
        # Knuth's two-sum: total + lost is exactly high + values
        total = high + values
        taken = total - high
        values -= taken
        values += high - (total - taken)
        high[:] = total
        self.low[start:stop] += values

    def mean(self, start: int, stop: int, divisor: float) -> Floats:
        assert self.high is not None
        total = self.high[start:stop].copy()
        if self.low is not None:
            # beside an infinity nothing was lost, and what two-sum made of it is no number
            np.add(total, self.low[start:stop], out=total, where=np.isfinite(total))
        total /= divisor
        return total


class Aggregator:
    """Weighted mean of models that look like ``like``.

    Elements of up to 4 bytes are added up in float64, longer ones in pairs of float64, so that the order of arrival
    changes at most what is far below the last bit of the result. The sums take 8 bytes per element (16 for longer
    ones), everything else happens in slices of 1 MiB; nothing of an update is kept. Whole numbers (such as a count of
    batches) are averaged too, and rounded at the end. Infinities are numbers, NaN is refused.

    Not for several threads at once; the callbacks of one task never are.

    Args:
        like: a model: nested dicts and lists of arrays, torch tensors and numbers. It gives the result its keys,
            shapes and dtypes.

    Raises:
        ValueError: it holds something that has no mean, or nothing at all; the text says where.
    """

    def __init__(self, like: Model) -> None:
        self._like = like
        self._sums: dict[Path, _Sum] = {path: _Sum(leaf) for path, leaf in _leaves(like, "model").items()}
        if not self._sums:
            raise ValueError("the model holds no numbers; give it at least one array")
        self._weights: list[float] = []

    def __repr__(self) -> str:
        return f"<Aggregator of {len(self._sums)} leaves: {self.count} updates, weight {self.total_weight:g}>"

    @property
    def count(self) -> int:
        """The number of updates that were added."""
        return len(self._weights)

    @property
    def total_weight(self) -> float:
        """The sum of the updates' weights, by which the mean is divided."""
        return math.fsum(self._weights)

    def add(
        self,
        update: Model,
        weight: float = 1.0,
        *,
        plus: Model | None = None,
        minus: Model | None = None,
        factor: float = 1.0,
    ) -> None:
        """Add one update. It is checked as a whole before anything of it is added.

        Args:
            update: numbers with the keys and shapes of ``like``.
            weight: how much it counts.
            plus: a model that is added to the update; makes a model of a difference.
            minus: a model that is subtracted from the update; makes a difference of a model.
            factor: makes the update smaller without taking from what the others count.

        Raises:
            ValueError: weight or factor is not a number > 0, or the update has other keys or shapes, or NaN in it.
        """
        for name, number in (("weight", weight), ("factor", factor)):
            if isinstance(number, bool) or not isinstance(number, Real) or not 0 < number < math.inf:
                raise ValueError(f"{name} must be a number > 0, but is {number!r}")
        leaves = self._checked(update)
        added = None if plus is None else _leaves(plus, "plus")
        taken = None if minus is None else _leaves(minus, "minus")
        with np.errstate(over="ignore", invalid="ignore"):
            for path, leaf in leaves.items():
                total = self._sums[path]
                for start, stop in slices(leaf.size):
                    values = leaf.read(start, stop)
                    if added is not None:
                        values += added[path].read(start, stop)
                    if taken is not None:
                        values -= taken[path].read(start, stop)
                    values *= float(weight) * float(factor)
                    total.add(start, stop, values)
        self._weights.append(float(weight))

    def result(self, *, plus: Model | None = None, scale: float = 1.0) -> Model:
        """Return the mean, times ``scale``, added to ``plus``. Frees the sums; call it once.

        Raises:
            RuntimeError: nothing was added, or it was asked for before.
        """
        if not self._weights:
            raise RuntimeError("there is nothing to take the mean of: add an update first")
        if any(total.high is None for total in self._sums.values()):
            raise RuntimeError("the result was taken already; make a new Aggregator for the next mean")
        base = None if plus is None else _leaves(plus, "plus")
        divisor = self.total_weight

        def mean_at(path: Path, _: Any) -> Any:
            total = self._sums[path]

            def read(start: int, stop: int) -> Floats:
                values = total.mean(start, stop, divisor)
                if scale != 1.0:
                    values *= scale
                if base is not None:
                    values += base[path].read(start, stop)
                return values

            made = total.leaf.make_like(read)
            total.high = total.low = None
            return made

        with np.errstate(over="ignore", invalid="ignore"):
            mean: Model = rebuild(self._like, mean_at)
        return mean

    def _checked(self, update: Model) -> dict[Path, Leaf]:
        leaves = _leaves(update, "update")
        for path, total in self._sums.items():
            leaf = leaves.get(path)
            if leaf is None:
                raise ValueError(at(path, "is missing", "update"))
            if leaf.shape != total.leaf.shape:
                raise ValueError(at(path, f"has shape {leaf.shape}, but the model's is {total.leaf.shape}", "update"))
        for path, leaf in leaves.items():
            if path not in self._sums:
                raise ValueError(at(path, "the model has nothing of this name", "update"))
            if leaf.has_nan():
                raise ValueError(at(path, "holds NaN", "update"))
        return leaves


def _leaves(model: Any, root: str) -> dict[Path, Leaf]:
    leaves = {}
    for path, value in flatten(model):
        try:
            leaves[path] = Leaf(value)
        except TypeError as exc:
            raise ValueError(at(path, str(exc), root)) from None
    return leaves
