"""``FedAvg``: federated averaging. Every site trains the model, and the mean of their models is the next one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus
from redflare_workers.communicator.managers.simple import DOES_NOT_COUNT

from .aggregator import Aggregator
from .best_model import BestModel, RoundMetric
from .controller import check_count
from .model_store import InitialModel
from .model_tree import Model
from .model_update import model_shareable, update_of
from .model_workflow import ModelWorkflow
from .refusals import Refusals


class FedAvg(ModelWorkflow):
    """Federated averaging, after NVFlare's ``FedAvg``.

    A site gets the weights, with the headers ``current_round`` (from 0) and ``num_rounds``, and answers with weights or
    weight differences. Each counts by its NUM_STEPS_CURRENT_ROUND (1 if it has none). A result that
    cannot be used is logged with its site, and does not count.

    Args:
        initial_model: nested dicts and lists of arrays; or a function that makes them, or a file that was saved.
        min_clients: a round needs this many valid results; with fewer the run panics.
        num_rounds: how many rounds.
        wait_time_after_min_received: seconds in which further sites may still answer.
        task_name: name of the task, by which sites choose the executor.
        save_dir: folder for the newest and the best model, see ``ModelStore``.
        metric: name of the metric that sites measure of the received model, see ``RoundMetric``.
        smaller_is_better: the metric is a loss.
        evaluate: measures each new model here; the sites' metrics are then ignored.
        timeout: seconds a round may take; 0: no limit. Enough valid results by then will do.
        resume: a restarted server resumes the round.
    """

    def __init__(
        self,
        initial_model: InitialModel,
        *,
        min_clients: int,
        num_rounds: int,
        wait_time_after_min_received: int = 10,
        task_name: str = "train",
        save_dir: str | os.PathLike[str] | None = None,
        metric: str | None = "accuracy",
        smaller_is_better: bool = False,
        evaluate: Callable[[Model], float] | None = None,
        timeout: int = 0,
        resume: bool = True,
    ) -> None:
        super().__init__(initial_model, task_name=task_name, save_dir=save_dir, resume=resume)
        self.min_clients = check_count("min_clients", min_clients, 1)
        self.num_rounds = check_count("num_rounds", num_rounds, 1)
        self.wait_time_after_min_received = check_count("wait_time_after_min_received", wait_time_after_min_received)
        self.timeout = check_count("timeout", timeout)
        self.metric = metric
        self.evaluate = evaluate
        self.best = BestModel(self.store, metric, smaller_is_better)
        #: The current round, from 0; at the end, the number of rounds.
        self.current_round = 0
        #: For each finished round: the sites that took part with their steps, and the metric.
        self.history: list[dict[str, Any]] = []

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run the remaining rounds."""
        self.checkpoint(fl_ctx)
        while self.current_round < self.num_rounds and self._run_round(abort_signal, fl_ctx):
            self.checkpoint(fl_ctx)

    def _run_round(self, abort_signal: Signal, fl_ctx: FLContext) -> bool:
        self._aggregator = Aggregator(self.model)
        self._round_metric = RoundMetric(self.metric)
        self._steps: dict[str, float] = {}
        self._refused = Refusals()
        data = model_shareable(self.model, self.current_round, self.num_rounds)
        task = Task(self.task_name, data, timeout=self.timeout, result_received_cb=self._take_result)
        self.broadcast_and_wait(
            task,
            fl_ctx,
            min_responses=self.min_clients,
            wait_time_after_min_received=self.wait_time_after_min_received,
            abort_signal=abort_signal,
        )
        if abort_signal.triggered:
            return False
        if len(self._steps) < self.min_clients:
            sites = sorted(self._steps)
            valid = f"{len(sites)} valid result{'s' * (len(sites) != 1)}" + f" ({', '.join(sites)})" * bool(sites)
            early = "" if task.completion_status == TaskCompletionStatus.OK else f" ({task.completion_status})"
            self.system_panic(
                f"round {self.current_round + 1} ended{early} with {valid}, but min_clients is "
                f"{self.min_clients}{self._refused}",
                fl_ctx,
            )
            return False
        self._end_round(fl_ctx)
        return True

    def _take_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Add one site's result to the sums, and free it."""
        site, result = client_task.client.name, client_task.result
        client_task.result = None
        try:
            update = update_of(result)
            self._aggregator.add(update.data, update.steps, plus=self.model if update.difference else None)
        except ValueError as exc:
            self.log_warning(fl_ctx, f"round {self.current_round + 1}: the result of {site} does not count: {exc}")
            client_task.props[DOES_NOT_COUNT] = True
            self._refused.add(site, str(exc))
            return
        self._steps[site] = float(update.steps)
        self._round_metric.add(update.meta, update.steps)

    def _end_round(self, fl_ctx: FLContext) -> None:
        if self.evaluate is None:
            # the sites measured the model that they received
            value = self._round_metric.value
            self.best.offer(self.model, value, self.current_round)
        self.model = self._aggregator.result()
        self.current_round += 1
        if self.evaluate is not None:
            value = float(self.evaluate(self.model))
            self.best.offer(self.model, value, self.current_round)
        self.history.append({"clients": self._steps, "metric": value})
        if self.store is not None:
            self.store.save_round(self.model, self.current_round, self.history[-1])
        counted = f"{len(self._steps)} result{'s' * (len(self._steps) != 1)}, {sum(self._steps.values()):g} steps"
        measured = "" if value is None else f", {self.metric or 'metric'} {value:.4g}"
        self.log_info(fl_ctx, f"round {self.current_round} of {self.num_rounds} finished: {counted}{measured}")

    def state(self) -> dict[str, Any]:
        """Return the round, its model, and the best one."""
        return {"round": self.current_round, "model": self.model, "best": self.best.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume where ``state`` was called."""
        self.current_round, self.model = state["round"], state["model"]
        self.best.restore(state["best"])

    def appended(self, start: int) -> list[Any]:
        return self.history[start:]

    def restore_appended(self, history: list[Any]) -> None:
        self.history = history
