"""Federated averaging over the links to the sites: hand the model out, take the trained ones back, average, again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from redflare_broker.defs import RC, MetaKey

from redflare_workers.demo.data import Samples
from redflare_workers.demo.errors import DemoError
from redflare_workers.demo.events import Emit, RoundEnded, SiteAnswered
from redflare_workers.demo.model import Weights, accuracy
from redflare_workers.exchanger import IPCExchanger

TASK_NAME = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one site made of the model in one round."""

    weights: Weights
    samples: int
    loss: float


def average(updates: Sequence[Update]) -> Weights:
    """The mean of the weights, each site counting by its number of samples.

    Added in double precision and in the order given, so that equal updates give equal bits.
    """
    total = sum(update.samples for update in updates)
    mean: Weights = {}
    for name in updates[0].weights:
        layers = [update.weights[name].astype(np.float64) * (update.samples / total) for update in updates]
        mean[name] = np.sum(layers, axis=0).astype(np.float32)
    return mean


class Federation:
    """The sites that train one model together.

    Args:
        exchangers: one started exchanger per site, by site name; their order is the order of averaging.
        held_out: what accuracy is measured on.
        emit: called with every event, from several threads.
    """

    def __init__(self, exchangers: Mapping[str, IPCExchanger], held_out: Samples, emit: Emit) -> None:
        self._exchangers = exchangers
        self._held_out = held_out
        self._emit = emit

    def train(self, weights: Weights, rounds: int) -> tuple[Weights, list[float]]:
        """Run the rounds; the model, and its accuracy after each round.

        Raises:
            DemoError: a site answered with a return code other than OK.
        """
        curve: list[float] = []
        with ThreadPoolExecutor(len(self._exchangers), thread_name_prefix="demo-round") as pool:
            for round_number in range(1, rounds + 1):
                began = time.monotonic()
                meta = {MetaKey.CURRENT_ROUND: round_number, MetaKey.TOTAL_ROUND: rounds}
                asked = [pool.submit(self._ask, site, weights, meta) for site in self._exchangers]
                updates = [future.result() for future in asked]
                weights = average(updates)
                curve.append(accuracy(weights, self._held_out))
                loss = sum(update.loss * update.samples for update in updates) / sum(
                    update.samples for update in updates
                )
                seconds = time.monotonic() - began
                self._emit(RoundEnded(round_number=round_number, loss=loss, accuracy=curve[-1], seconds=seconds))
        return weights, curve

    def _ask(self, site: str, weights: Weights, meta: dict[str, int]) -> Update:
        """Let one site train for one round."""
        began = time.monotonic()
        result = self._exchangers[site].run(TASK_NAME, weights, meta)
        seconds = time.monotonic() - began
        if result.return_code != RC.OK:
            raise DemoError(
                f"{site} answered round {meta[MetaKey.CURRENT_ROUND]} with {result.return_code}: {result.meta}"
            )
        update = Update(weights=result.data, samples=result.meta["samples"], loss=result.meta["loss"])
        self._emit(
            SiteAnswered(
                site=site,
                round_number=meta[MetaKey.CURRENT_ROUND],
                loss=update.loss,
                accuracy=accuracy(update.weights, self._held_out),
                seconds=seconds,
            )
        )
        return update
