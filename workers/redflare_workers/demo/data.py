"""The demo's data: scikit-learn's handwritten digits, held-out images first, the rest split unevenly between the sites.

The split has label skew, without which federated learning would gain little: the images of each digit are dealt to the
sites by shares from a Dirichlet distribution, so one site has hardly any sevens and another little else. Everything
follows from one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = 10
PIXELS = 64

#: Images that no site has; every accuracy of the demo is measured on them.
HELD_OUT = 450

#: Concentration of the shares: 1 is mild skew, towards 0 each digit is at one site only.
SKEW = 0.3

#: Smallest number of images of a site; fewer are not enough to train on.
FEWEST = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Images and their labels."""

    images: NDArray[np.float32]  #: (n, 64), from 0 to 1
    labels: NDArray[np.int64]  #: (n,), from 0 to 9

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Samples:
        """Return the samples at these positions."""
        return Samples(images=self.images[index], labels=self.labels[index])

    def counts(self) -> list[int]:
        """Count the samples of each digit."""
        return [int(n) for n in np.bincount(self.labels, minlength=CLASSES)]

    def save(self, path: Path) -> None:
        """Write them to one ``.npz`` file."""
        np.savez(path, images=self.images, labels=self.labels)

    @classmethod
    def load(cls, path: Path) -> Samples:
        """Read what ``save`` wrote."""
        with np.load(path) as arrays:
            return cls(images=arrays["images"], labels=arrays["labels"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The samples of each site, and those that no site has."""

    held_out: Samples
    pooled: Samples  #: those of all sites
    sites: dict[str, Samples]  #: by site name


def load_split(sites: int, seed: int) -> Split:
    """Hold images out and deal the others to ``sites`` sites; all follows from ``seed``."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits))
    pooled = digits.take(order[HELD_OUT:])
    parts = _deal(pooled.labels, sites, rng)
    return Split(
        held_out=digits.take(order[:HELD_OUT]),
        pooled=pooled,
        sites={f"site-{n}": pooled.take(part) for n, part in enumerate(parts, start=1)},
    )


def load_digits() -> Samples:
    """Load all 1797 images of the UCI handwritten digits that ship with scikit-learn."""
    from sklearn import datasets  # type: ignore[import-untyped]  # slow to import, and no agent needs it

    bunch = datasets.load_digits()
    return Samples(images=(bunch.data / 16).astype(np.float32), labels=bunch.target.astype(np.int64))


def _deal(labels: NDArray[np.int64], sites: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Deal positions to sites; again, until no site gets fewer than ``FEWEST``."""
    while True:
        hands: list[list[NDArray[np.int64]]] = [[] for _ in range(sites)]
        for digit in range(CLASSES):
            (positions,) = np.nonzero(labels == digit)
            shares = rng.dirichlet(np.full(sites, SKEW))
            cuts = (np.cumsum(shares)[:-1] * len(positions)).astype(np.int64)
            for hand, part in zip(hands, np.split(positions, cuts), strict=True):
                hand.append(part)
        parts = [np.concatenate(hand) for hand in hands]
        if min(len(part) for part in parts) >= FEWEST:
            return parts
