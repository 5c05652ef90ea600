"""The digits for any number of simulated sites, as a user writes a training for ``redflare simulate``.

    redflare simulate redflare_workers.demo.digits:train --sites 100 --rounds 10

Every site draws images, with label skew, from those that are not held out; sites may have some in common.
"""

from __future__ import annotations

import functools
import threading
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
from redflare_broker.constants import MetaKey, TaskResult

from .data import CLASSES, HELD_OUT, SKEW, Samples, load_digits
from .model import Weights, accuracy, copied, descend, generator, initial

if TYPE_CHECKING:
    from redflare_agent import Task

SEED: Final = 7
#: Images of each site.
IMAGES: Final = 100

_loading = threading.Lock()


def initial_model() -> Weights:
    """Make the initial model."""
    return initial(SEED)


def evaluate(weights: Weights) -> float:
    """Measure the accuracy on the images that no site has."""
    return accuracy(weights, _digits()[0])


def train(task: Task, site: str) -> TaskResult:
    """Train one round at one site; also answer the tasks of ``CrossSiteEval``."""
    samples = _samples(site)
    if task.task_name == "validate":
        return TaskResult({}, {"accuracy": accuracy(task.data, samples)})
    weights = copied(task.data or initial_model())
    before = accuracy(weights, samples)
    round_number = int(task.meta.get(MetaKey.CURRENT_ROUND, 0))
    losses = list(descend(weights, samples, generator(SEED, _number(site), round_number)))
    meta = {
        MetaKey.NUM_STEPS_CURRENT_ROUND: len(losses),
        MetaKey.INITIAL_METRICS: {"accuracy": before},
        "loss": sum(losses) / len(losses),
    }
    return TaskResult(meta, weights)


def _digits() -> tuple[Samples, Samples]:
    """Return the digits held out, and the others; the first of the sites' threads reads them."""
    with _loading:
        return _read_digits()


@functools.cache
def _read_digits() -> tuple[Samples, Samples]:
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits))
    return digits.take(order[:HELD_OUT]), digits.take(order[HELD_OUT:])


@functools.cache
def _samples(site: str) -> Samples:
    pooled = _digits()[1]
    rng = np.random.default_rng((SEED, _number(site)))
    shares = rng.dirichlet(np.full(CLASSES, SKEW))
    chances = (shares / np.maximum(pooled.counts(), 1))[pooled.labels]
    return pooled.take(rng.choice(len(pooled), IMAGES, p=chances / chances.sum()))


def _number(site: str) -> int:
    """Return a number that is the same for a name in every process."""
    return zlib.crc32(site.encode())
