"""``Rounds``: a controller that can go on after a restart of its server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from redflare_workers.apis.dxo import DXO, DataKind, from_shareable
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask

from tests.support.job.runs import FunctionController, task

BIG = 300_000
SIZES = pytest.mark.parametrize("size", [10, BIG], ids=["small", "large"])


def model(value: float, size: int) -> Shareable:
    return DXO(DataKind.WEIGHTS, {"w": np.full(size, value, np.float32)}).to_shareable()


class Rounds(FunctionController):
    """A controller that adds up what sites answer, round by round, and can go on after a restart.

    Args:
        rounds: how many.
        size: of the model.
        sites: targets.
        on_result: called with each result that was added.
    """

    def __init__(
        self, rounds: int, size: int, sites: list[str], on_result: Callable[[str], None] = lambda name: None
    ) -> None:
        super().__init__(self._flow)
        self.resume = True
        self.rounds = rounds
        self.size = size
        self.sites = sites
        self.on_result = on_result
        self.round = 0
        self.total = 0.0
        self.added: list[tuple[int, str]] = []
        self.restored = 0

    def state(self) -> dict[str, Any]:
        return {"round": self.round, "total": self.total, "model": np.full(self.size, self.total, np.float32)}

    def restore(self, state: dict[str, Any]) -> None:
        assert state["model"].shape == (self.size,)
        self.round, self.total = state["round"], state["total"]
        self.restored += 1

    def _flow(self, controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        while self.round < self.rounds and not abort.triggered:
            self.checkpoint(fl_ctx)
            one = task(model(self.total, self.size), result_received_cb=self._take)
            self.broadcast_and_wait(one, fl_ctx, targets=self.sites, abort_signal=abort)
            self.round += 1

    def _take(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        self.total += float(from_shareable(client_task.result or Shareable()).data["w"][0])
        client_task.result = None
        self.added.append((self.round, client_task.client.name))
        self.on_result(client_task.client.name)
