"""Training without the federation, to compare with."""

from __future__ import annotations

import threading

from .data import Samples
from .model import Weights, accuracy, copied, descend, generator


def learning_curve(
    weights: Weights, samples: Samples, held_out: Samples, *, seed: int, index: int, rounds: int, stop: threading.Event
) -> list[float]:
    """Train on these samples only, with as many steps as in ``rounds`` rounds; return the accuracy after each round.

    The mini-batches are drawn as those of site ``index`` in the federation. Ends early, with the rounds so far, once
    ``stop`` is set.
    """
    weights = copied(weights)
    curve: list[float] = []
    for round_number in range(1, rounds + 1):
        if stop.is_set():
            break
        for _ in descend(weights, samples, generator(seed, index, round_number)):
            pass
        curve.append(accuracy(weights, held_out))
    return curve
