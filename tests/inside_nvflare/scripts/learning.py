"""The training of these tests: a line through points that only their site has. Its numbers are always the same."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

STEPS = 3


def train(params: dict[str, Any], site: str, current_round: int) -> dict[str, Any]:
    """A few steps of gradient descent in float32, so that every bit of the model can be compared."""
    rng = np.random.default_rng(zlib.crc32(f"{site} {current_round}".encode()))
    points = rng.normal(size=(50, 2)).astype(np.float32)
    values = points @ np.float32([[2.0, -1.0], [0.5, 3.0]])
    trained = {}
    for name, given in params.items():
        weights = np.array(given, dtype=np.float32)
        for _ in range(STEPS):
            gradient = points.T @ (points @ weights - values) / np.float32(len(points))
            weights = weights - np.float32(0.1) * gradient
        trained[name] = weights
    return trained
