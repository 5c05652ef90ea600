"""The demo's data: every image is at one site, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from redflare_workers.demo.data import FEWEST, HELD_OUT, Samples, Split, load_digits, load_split

SEEDS = range(12)


def rows(samples: Samples) -> set[bytes]:
    return {image.tobytes() for image in samples.images}


def equal(one: Samples, other: Samples) -> bool:
    return np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)


@pytest.fixture(scope="module")
def split() -> Split:
    return load_split(4, 7)


def test_the_digits_are_those_of_the_uci_data_set() -> None:
    digits = load_digits()
    assert digits.images.shape == (1797, 64)
    assert (digits.images.min(), digits.images.max()) == (0.0, 1.0)
    assert digits.counts() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_same_seed_deals_the_same_images_to_the_same_sites(split: Split) -> None:
    again = load_split(4, 7)
    assert equal(again.held_out, split.held_out)
    assert list(again.sites) == ["site-1", "site-2", "site-3", "site-4"]
    assert all(equal(again.sites[site], split.sites[site]) for site in split.sites)


def test_another_seed_deals_differently(split: Split) -> None:
    assert not equal(load_split(4, 8).sites["site-1"], split.sites["site-1"])


def test_every_image_is_at_exactly_one_site_or_held_out(split: Split) -> None:
    parts = [split.held_out, *split.sites.values()]
    assert sum(len(part) for part in parts) == 1797
    assert len(split.held_out) == HELD_OUT
    assert len(set.union(*map(rows, parts))) == sum(len(rows(part)) for part in parts)


def test_the_pooled_data_is_what_the_sites_have_together(split: Split) -> None:
    assert sum(len(samples) for samples in split.sites.values()) == len(split.pooled)
    assert set.union(*map(rows, split.sites.values())) == rows(split.pooled)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sites_differ_in_size_and_in_the_digits_they_see(seed: int) -> None:
    sites = load_split(4, seed).sites.values()
    sizes = sorted(len(samples) for samples in sites)
    shares = np.array([samples.counts() for samples in sites]) / 1347 * 10
    assert sizes[-1] > 1.4 * sizes[0]
    assert (shares.max(axis=0) > 0.45).sum() >= 5, "most digits live mainly at one site"


@pytest.mark.parametrize("seed", SEEDS)
def test_no_site_is_left_with_next_to_nothing_even_when_there_are_many(seed: int) -> None:
    assert min(len(samples) for samples in load_split(8, seed).sites.values()) >= FEWEST


def test_samples_are_read_back_unchanged(split: Split, tmp_path: Path) -> None:
    split.held_out.save(tmp_path / "samples.npz")
    assert equal(Samples.load(tmp_path / "samples.npz"), split.held_out)
