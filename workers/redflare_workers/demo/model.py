"""The demo's model: a classifier with one hidden layer, in numpy, trained by mini-batch SGD.

The numbers depend on the weights, the samples and the random generator handed in, and on nothing else: not on timing,
not on which process computes them, not on how often it was killed before. Processes that compare results bit for bit
run the linear algebra on one thread (``util.blas_env``), because threads change the order of additions.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .data import CLASSES, PIXELS, Samples

Weights = dict[str, NDArray[np.float32]]

#: Steps of a site in one round, whatever the number of its samples.
STEPS = 60

HIDDEN = 128
BATCH = 32
LEARNING_RATE = np.float32(0.1)


def initial(seed: int) -> Weights:
    """Make the initial weights of a seed."""
    rng = np.random.default_rng(seed)
    return {
        "w1": _normal(rng, PIXELS, HIDDEN),
        "b1": np.zeros(HIDDEN, np.float32),
        "w2": _normal(rng, HIDDEN, CLASSES),
        "b2": np.zeros(CLASSES, np.float32),
    }


def generator(seed: int, site: int, round_number: int) -> np.random.Generator:
    """Make the generator of the mini-batches of one site in one round; the same after a restart in the middle."""
    return np.random.default_rng((seed, site, round_number))


def descend(weights: Weights, samples: Samples, rng: np.random.Generator, steps: int = STEPS) -> Iterator[float]:
    """Take ``steps`` steps of SGD, changing ``weights`` in place; yield the loss of each mini-batch."""
    rows = np.arange(BATCH)
    for _ in range(steps):
        batch = rng.integers(0, len(samples), BATCH)
        images, labels = samples.images[batch], samples.labels[batch]
        hidden = _hidden(weights, images)
        chances = _softmax(hidden @ weights["w2"] + weights["b2"])
        loss = float(-np.log(chances[rows, labels] + 1e-9).mean())
        slope = chances
        slope[rows, labels] -= 1
        slope /= BATCH
        back = (slope @ weights["w2"].T) * (hidden > 0)
        weights["w2"] -= LEARNING_RATE * (hidden.T @ slope)
        weights["b2"] -= LEARNING_RATE * slope.sum(axis=0)
        weights["w1"] -= LEARNING_RATE * (images.T @ back)
        weights["b1"] -= LEARNING_RATE * back.sum(axis=0)
        yield loss


def copied(weights: Weights) -> Weights:
    """Copy weights."""
    return {name: np.array(array) for name, array in weights.items()}


def accuracy(weights: Weights, samples: Samples) -> float:
    """Measure the share of the samples that the model classifies correctly."""
    scores = _hidden(weights, samples.images) @ weights["w2"] + weights["b2"]
    return float((scores.argmax(axis=1) == samples.labels).mean())


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


def fingerprint(weights: Weights) -> str:
    """Compute the SHA-256 over every bit of the weights: equal only if the models are the same."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(weights[name], "<f4").tobytes())
    return digest.hexdigest()


def _hidden(weights: Weights, images: NDArray[np.float32]) -> NDArray[np.float32]:
    hidden: NDArray[np.float32] = np.maximum(images @ weights["w1"] + weights["b1"], 0)
    return hidden


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
    return chances


def _normal(rng: np.random.Generator, inputs: int, outputs: int) -> NDArray[np.float32]:
    scaled: NDArray[np.float64] = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
    return scaled.astype(np.float32)
