"""What the federation is compared with: the same training without it."""

from __future__ import annotations

import threading

from .data import Samples
from .model import Weights, accuracy, copied, descend, generator


def learning_curve(
    weights: Weights, samples: Samples, held_out: Samples, *, seed: int, index: int, rounds: int, stop: threading.Event
) -> list[float]:
    """Train on these samples only, with the steps of so many rounds; the held-out accuracy after each round.

    The mini-batches of a site are drawn as in the federation (``index`` is the site's). Ends early, with the rounds so
    far, once ``stop`` is set.
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
