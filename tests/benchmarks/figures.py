"""Statistics of samples and runs, and the targets a figure is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

__all__ = ["Figure", "Target", "median", "percentile", "spread", "summary"]


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least ``percent`` of all samples do not exceed (nearest rank)."""
    if not samples:
        raise ValueError("a percentile needs at least one sample, but got none")
    rank = max(1, math.ceil(len(samples) * percent / 100))
    return sorted(samples)[rank - 1]


def spread(values: Sequence[float]) -> float:
    """Distance from the smallest to the largest value as a share of the median; 0 for a single value."""
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def summary(name: str, samples: Sequence[float], percents: Sequence[int] = (50, 90, 99)) -> dict[str, float]:
    """``{"<name>.p50": ..., ...}``."""
    return {f"{name}.p{percent}": percentile(samples, percent) for percent in percents}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on a figure, or on its ratio to the floor of the same run when the figure has one."""

    direction: Literal["<=", ">="] = "<="
    bound: float

    def reached(self, value: float) -> bool:
        return value <= self.bound if self.direction == "<=" else value >= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the report: which measured value, against which floor, with which target."""

    title: str
    key: str
    unit: str
    #: Key of the value measured in the same run that this one is divided by.
    floor: str = ""
    floor_title: str = ""
    target: Target | None = None
    note: str = ""

    def values(self, runs: Sequence[dict[str, float]]) -> list[float]:
        return [run[self.key] for run in runs]

    def floors(self, runs: Sequence[dict[str, float]]) -> list[float]:
        return [run[self.floor] for run in runs] if self.floor else []

    def ratios(self, runs: Sequence[dict[str, float]]) -> list[float]:
        """Value through floor, run by run: absolute figures drift between runs, ratios within one do not."""
        return [value / floor for value, floor in zip(self.values(runs), self.floors(runs), strict=False) if floor]

    def judged(self, runs: Sequence[dict[str, float]]) -> float:
        """The figure the target speaks about: the median ratio, or the median value when there is no floor."""
        return median(self.ratios(runs) or self.values(runs))

    def reached(self, runs: Sequence[dict[str, float]]) -> bool | None:
        """Whether the target was reached; None when there is none."""
        return self.target.reached(self.judged(runs)) if self.target else None
