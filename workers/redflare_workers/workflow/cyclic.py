"""``Cyclic``: the model goes from site to site, and each trains the model of the one before it."""

from __future__ import annotations

import os
import random
from enum import StrEnum
from typing import Any

from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, Task

from .aggregator import Aggregator
from .controller import check_count
from .gathering import wait_for_clients
from .model_store import InitialModel
from .model_update import model_shareable, update_of
from .model_workflow import ModelWorkflow
from .refusals import Refusals


class RelayOrder(StrEnum):
    """The order in which the sites of a round get the model."""

    #: As they joined.
    FIXED = "FIXED"
    #: Another one each round.
    RANDOM = "RANDOM"
    #: Another one each round, none that begins with the site the last one ended with.
    RANDOM_WITHOUT_SAME_IN_A_ROW = "RANDOM_WITHOUT_SAME_IN_A_ROW"


class Cyclic(ModelWorkflow):
    """Training in turn, after NVFlare's ``CyclicController``.

    Each round is one relay. A site that does not ask for the model in time, or does not answer, is passed over; one
    whose result cannot be used is logged, and the next gets the model that it was given. What comes in after its turn
    is dropped. A round without any good result makes the run panic.

    Args:
        initial_model: nested dicts and lists of arrays; or a function that makes them, or a file that was saved.
        num_rounds: how many times the model goes round.
        task_assignment_timeout: seconds a site has for asking, before the next may have the model too.
        task_result_timeout: seconds a site has for its result, before the next is asked; 0: no limit.
        order: one of ``RelayOrder``, or names of sites in their order; a name may stand there more than once.
        min_clients: how many sites must have joined before it begins.
        task_name: what the sites' executors know the task by.
        save_dir: folder for the newest model, saved each round.
        seed: of the random orders; None: another one each time.
    """

    def __init__(
        self,
        initial_model: InitialModel,
        *,
        num_rounds: int = 5,
        task_assignment_timeout: int = 10,
        task_result_timeout: int = 0,
        order: str | list[str] = RelayOrder.FIXED,
        min_clients: int = 2,
        task_name: str = "train",
        save_dir: str | os.PathLike[str] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(initial_model, task_name=task_name, save_dir=save_dir)
        if not isinstance(order, list) and order not in list(RelayOrder):
            raise ValueError(f"order must be one of {', '.join(RelayOrder)} or a list of names, but is {order!r}")
        self.num_rounds = check_count("num_rounds", num_rounds, 1)
        self.task_assignment_timeout = check_count("task_assignment_timeout", task_assignment_timeout)
        self.task_result_timeout = check_count("task_result_timeout", task_result_timeout)
        self.min_clients = check_count("min_clients", min_clients, 1)
        self.order = order
        self.current_round = 0
        #: For each round that is over: the sites whose results were used, in their order.
        self.history: list[list[str]] = []
        self._random = random.Random(seed)
        self._trained: list[str] = []
        self._refused = Refusals()

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Wait for the sites, then run the rounds."""
        named = self.order if isinstance(self.order, list) else []
        wait_for_clients(fl_ctx.get_engine(), 1 if named else self.min_clients, abort_signal, names=named)
        while self.current_round < self.num_rounds and not abort_signal.triggered:
            if not self._run_round(abort_signal, fl_ctx):
                return
            self.current_round += 1

    def _run_round(self, abort_signal: Signal, fl_ctx: FLContext) -> bool:
        self._trained, self._refused = [], Refusals()
        task = Task(self.task_name, self._data(), result_received_cb=self._take_result)
        self.relay_and_wait(
            task,
            fl_ctx,
            targets=self._targets(fl_ctx),
            task_assignment_timeout=self.task_assignment_timeout,
            task_result_timeout=self.task_result_timeout,
            dynamic_targets=False,
            abort_signal=abort_signal,
        )
        if abort_signal.triggered:
            return False
        if not self._trained:
            what = f"round {self.current_round + 1} ended without a good result of any site{self._refused}"
            self.system_panic(what, fl_ctx)
            return False
        self.history.append(self._trained)
        if self.store is not None:
            self.store.save_round(self.model, self.current_round + 1, self._trained)
        return True

    def _targets(self, fl_ctx: FLContext) -> list[str]:
        if isinstance(self.order, list):
            return list(self.order)
        joined = [client.name for client in fl_ctx.get_engine().get_clients()]
        # those that are gone would cost the round an assignment timeout each
        names = [name for name in joined if not self.get_client_disconnect_time(name)] or joined
        if self.order != RelayOrder.FIXED:
            self._random.shuffle(names)
        last = self.history[-1][-1] if self.history else None
        if self.order == RelayOrder.RANDOM_WITHOUT_SAME_IN_A_ROW and names[0] == last:
            names.append(names.pop(0))
        return names

    def _data(self) -> Any:
        return model_shareable(self.model, self.current_round, self.num_rounds)

    def _take_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Make a site's result the model that the next one gets."""
        site, result = client_task.client.name, client_task.result
        client_task.result = None
        try:
            update = update_of(result)
            if result.get_header(ReservedHeaderKey.REPLY_IS_LATE):
                raise ValueError("the next site has had its turn already")
            checked = Aggregator(self.model)
            checked.add(update.data, plus=self.model if update.difference else None)
        except ValueError as exc:
            self.log_warning(fl_ctx, f"round {self.current_round + 1}: the result of {site} is not used: {exc}")
            self._refused.add(site, str(exc))
            return
        self.model = checked.result()
        self._trained.append(site)
        client_task.task.data = self._data()
