"""``FedBuff``: asynchronous averaging. Sites train the newest model all the time, and nobody waits for slow ones."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from typing import Final

from redflare_workers.apis.app_constant import AppConstants
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus

from .aggregator import Aggregator
from .best_model import BestModel, RoundMetric
from .controller import check_count
from .model_store import InitialModel
from .model_tree import Model
from .model_update import ModelUpdate, model_shareable, update_of
from .model_workflow import ModelWorkflow
from .refusals import Refusals

#: Unusable results in a row of every site with which the run panics: it would go on without end.
_IN_A_ROW: Final = 3


class FedBuff(ModelWorkflow):
    """Buffered asynchronous aggregation, after "Federated Learning with Buffered Asynchronous Aggregation" (2022).

    A site gets the newest model, and again as soon as it has answered. What it made of the model, as a difference,
    goes into a buffer; when ``buffer_size`` are in it, their mean is added to the model, which makes the next version.
    Each counts by its NUM_STEPS_CURRENT_ROUND, and is made smaller by ``1 / sqrt(1 + s)`` when the model has gone ``s``
    versions further since the site got it. Sites may answer with weights or differences; for those that answer with
    weights the version they were given is kept, so a site that is ``s`` versions behind costs the memory of one model.
    When the last three results of every site could not be used, the run panics.

    Args:
        initial_model: nested dicts and lists of arrays; or a function that makes them, or a file that was saved.
        buffer_size: how many results make the next version.
        num_updates: how many versions are made.
        server_lr: how much of the mean is added.
        max_staleness: results that are further behind do not count; None: all do.
        task_name: what the sites' executors know the task by.
        save_dir: folder for the newest and the best model, see ``ModelStore``.
        metric: what the sites' measure of the model they are given is called, see ``RoundMetric``.
        smaller_is_better: the metric is a loss.
        evaluate: measures each new model here; the sites' metrics are then left alone.
    """

    def __init__(
        self,
        initial_model: InitialModel,
        *,
        buffer_size: int,
        num_updates: int,
        server_lr: float = 1.0,
        max_staleness: int | None = None,
        task_name: str = "train",
        save_dir: str | os.PathLike[str] | None = None,
        metric: str | None = "accuracy",
        smaller_is_better: bool = False,
        evaluate: Callable[[Model], float] | None = None,
    ) -> None:
        super().__init__(initial_model, task_name=task_name, save_dir=save_dir)
        self.buffer_size = check_count("buffer_size", buffer_size, 1)
        self.num_updates = check_count("num_updates", num_updates, 1)
        self.max_staleness = None if max_staleness is None else check_count("max_staleness", max_staleness)
        self.server_lr = server_lr
        self.metric = metric
        self.evaluate = evaluate
        self.best = BestModel(self.store, metric, smaller_is_better)
        #: Number of buffers that were aggregated into the newest model.
        self.version = 0
        #: Number of results of each site that counted.
        self.contributions: dict[str, int] = {}
        #: Versions that sites may have, and the sites that have them.
        self._versions: dict[int, Model] = {}
        self._given: dict[str, set[int]] = {}
        self._refused = Refusals()
        self._finished = threading.Event()

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Keep one task open until the last version is made."""
        self._begin_version(self.model)
        task = Task(
            self.task_name,
            self._data(),
            before_task_sent_cb=self._note_version,
            result_received_cb=self._take_result,
        )
        with abort_signal.add_callback(self._finished.set):
            self.broadcast_forever(task, fl_ctx)
            self._finished.wait()
        self.cancel_task(task, TaskCompletionStatus.OK, fl_ctx)

    def _data(self) -> Shareable:
        return model_shareable(self.model, self.version, self.num_updates)

    def _note_version(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        self._given.setdefault(client_task.client.name, set()).add(self.version)

    def _take_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Put one site's result into the buffer."""
        site, result = client_task.client.name, client_task.result
        client_task.result = None
        given = self._given.pop(site, set())
        if self._finished.is_set():
            return
        try:
            update = update_of(result)
            # a site that was sent the task twice says which of the models it has trained
            self._add(update, result.get_cookie(AppConstants.CONTRIBUTION_ROUND, min(given, default=None)))
        except ValueError as exc:
            self.log_warning(fl_ctx, f"version {self.version}: the result of {site} does not count: {exc}")
            self._refused.add(site, str(exc))
            if self._refused.all_of([client.name for client in self.engine.get_clients()], _IN_A_ROW):
                self.system_panic(f"version {self.version} gets no result that can be used{self._refused}", fl_ctx)
            return
        self._refused.forget(site)
        self.contributions[site] = self.contributions.get(site, 0) + 1
        if self._buffer.count == self.buffer_size:
            self._end_version(fl_ctx)
            client_task.task.data = self._data()

    def _add(self, update: ModelUpdate, version: int | None) -> None:
        base = self._versions.get(-1 if version is None else version)
        if version is None or base is None:
            raise ValueError(f"it was made of version {version}, which no site has")
        staleness = self.version - version
        if self.max_staleness is not None and staleness > self.max_staleness:
            raise ValueError(f"it is {staleness} versions behind, more than max_staleness={self.max_staleness}")
        minus = None if update.difference else base
        self._buffer.add(update.data, update.steps, minus=minus, factor=1 / math.sqrt(1 + staleness))
        if not staleness:
            self._version_metric.add(update.meta, update.steps)

    def _begin_version(self, model: Model) -> None:
        self.model = model
        self._buffer = Aggregator(model)
        self._version_metric = RoundMetric(self.metric)
        wanted = set().union(*self._given.values())
        self._versions = {version: kept for version, kept in self._versions.items() if version in wanted}
        self._versions[self.version] = model

    def _end_version(self, fl_ctx: FLContext) -> None:
        if self.evaluate is None:
            self.best.offer(self.model, self._version_metric.value, self.version)
        self.version += 1
        self._begin_version(self._buffer.result(plus=self.model, scale=self.server_lr))
        if self.evaluate is not None:
            self.best.offer(self.model, float(self.evaluate(self.model)), self.version)
        if self.store is not None:
            self.store.save(self.model, {"rounds": self.version, "contributions": self.contributions})
        self.log_info(fl_ctx, f"version {self.version} of {self.num_updates} is done")
        if self.version == self.num_updates:
            self._finished.set()
