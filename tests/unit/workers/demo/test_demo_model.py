"""The demo's model: it learns, and its numbers depend on seed, site and round only."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from redflare_workers.demo.data import Samples, load_digits
from redflare_workers.demo.model import (
    STEPS,
    Weights,
    accuracy,
    copied,
    descend,
    fingerprint,
    generator,
    initial,
)
from redflare_workers.util.blas_env import ONE_THREAD

TRAIN = """
import numpy as np
from redflare_workers.demo.data import Samples
from redflare_workers.demo.model import descend, fingerprint, generator, initial
rng = np.random.default_rng(0)
samples = Samples(images=rng.random((99, 64), np.float32), labels=rng.integers(0, 10, 99))
weights = initial(7)
list(descend(weights, samples, generator(7, 2, 3)))
print(fingerprint(weights))
"""


@pytest.fixture(scope="module")
def digits() -> Samples:
    return load_digits()


def trained(digits: Samples, seed: int = 7, site: int = 1, round_number: int = 1, steps: int = STEPS) -> Weights:
    weights = initial(seed)
    for _ in descend(weights, digits, generator(seed, site, round_number), steps):
        pass
    return weights


def test_it_learns_the_digits(digits: Samples) -> None:
    assert accuracy(initial(7), digits) < 0.3
    assert accuracy(trained(digits, steps=600), digits) > 0.95


def test_the_loss_falls(digits: Samples) -> None:
    losses = list(descend(initial(7), digits, generator(7, 1, 1), 200))
    assert len(losses) == 200
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:20])


def test_the_gradient_is_the_slope_of_the_loss(digits: Samples) -> None:
    before = initial(7)
    moved = trained(digits, steps=1)
    step = {name: before[name] - moved[name] for name in before}
    nudge = 0.05
    probe = {name: (before[name] - nudge * step[name]).astype(np.float32) for name in before}
    here, there = (next(descend(copied(weights), digits, generator(7, 1, 1), 1)) for weights in (before, probe))
    expected = nudge * sum(float((part.astype(np.float64) ** 2).sum()) for part in step.values()) / 0.1
    assert here - there == pytest.approx(expected, rel=0.05)


def test_the_same_seed_site_and_round_give_the_same_bits(digits: Samples) -> None:
    assert fingerprint(trained(digits)) == fingerprint(trained(digits))


@pytest.mark.parametrize("other", [{"seed": 8}, {"site": 2}, {"round_number": 2}, {"steps": STEPS - 1}])
def test_another_seed_site_or_round_gives_other_bits(digits: Samples, other: dict[str, int]) -> None:
    assert fingerprint(trained(digits, **other)) != fingerprint(trained(digits))


def test_the_fingerprint_sees_a_single_bit_and_the_names_of_the_layers() -> None:
    weights = initial(7)
    nudged = copied(weights)
    nudged["b1"].view(np.uint32)[5] ^= 1
    swapped = {**weights, "b1": weights["b2"], "b2": weights["b1"]}
    assert len({fingerprint(weights), fingerprint(nudged), fingerprint(swapped)}) == 3


def test_training_changes_no_weights_but_those_it_was_given() -> None:
    digits, weights = load_digits(), initial(7)
    before = fingerprint(weights)
    for _ in descend(copied(weights), digits, generator(7, 1, 1), 3):
        pass
    assert fingerprint(weights) == before


def test_two_processes_get_the_same_bits() -> None:
    command = [sys.executable, "-c", TRAIN]
    runs = [subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 64
