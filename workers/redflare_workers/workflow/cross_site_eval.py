"""``CrossSiteEval``: every site's model is measured at every site."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import Final

from redflare_workers.apis.app_constant import AppConstants
from redflare_workers.apis.dxo import DXO, DataKind, MetaKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.util.atomic_file import replacing

from .controller import Controller, check_count
from .gathering import wait_for_clients
from .model_store import InitialModel, initial
from .model_tree import Model
from .model_update import metrics_of, update_of
from .refusals import Refusals

#: Stands before the names of the server's models.
_SERVER: Final = "SRV_"
#: In the meta, where an agent sees it.
_MODEL_OWNER: Final = "model_owner"


class CrossSiteEval(Controller):
    """Evaluation across sites, after NVFlare's ``CrossSiteModelEval``.

    Each site gets the task ``submit_model`` and answers with its weights. As soon as they are there, all sites get the
    task ``validate`` with them, and answer with a dict of numbers. The owner of the model is in the header
    MODEL_OWNER and in the meta, as ``model_owner``. What a site cannot do is logged, and leaves a gap; a matrix
    of gaps alone makes the run panic.

    Args:
        server_models: models of the server that are measured too, by name; ``SRV_`` is put before it.
        participating_clients: names of the sites; None: those that have joined when there are ``min_clients``.
        min_clients: how many sites must have joined before it begins.
        submit_model_timeout: seconds for the sites to submit their models; 0: no limit.
        validation_timeout: seconds for the sites to measure one model; 0: no limit.
        submit_model_task_name: what the sites' executors know the first task by; "": only the server's models.
        validation_task_name: what they know the second one by.
        result_file: where the matrix is written, as JSON.
    """

    def __init__(
        self,
        *,
        server_models: Mapping[str, InitialModel] | None = None,
        participating_clients: list[str] | None = None,
        min_clients: int = 1,
        submit_model_timeout: int = 600,
        validation_timeout: int = 6000,
        submit_model_task_name: str = "submit_model",
        validation_task_name: str = "validate",
        result_file: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.server_models = dict(server_models or {})
        self.participating_clients = participating_clients
        self.min_clients = check_count("min_clients", min_clients, 1)
        self.submit_model_timeout = check_count("submit_model_timeout", submit_model_timeout)
        self.validation_timeout = check_count("validation_timeout", validation_timeout)
        self.submit_model_task_name = submit_model_task_name
        self.validation_task_name = validation_task_name
        self.result_file = result_file
        #: The matrix: ``results[site][owner of the model]`` is what the site measured of it.
        self.results: dict[str, dict[str, dict[str, float]]] = {}
        self._sites: list[str] = []
        self._refused = Refusals()
        self._open = 0
        self._changed = threading.Condition()

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Get the models of all sites, send them to all, and wait for the metrics."""
        named = self.participating_clients or []
        joined = wait_for_clients(fl_ctx.get_engine(), self.min_clients, abort_signal, names=named)
        if abort_signal.triggered:
            return
        self._sites = named or joined
        self.results = {site: {} for site in self._sites}
        if self.submit_model_task_name:
            meta = {MetaKey.SUBMIT_MODEL_NAME: "best_model"}
            data = DXO(DataKind.WEIGHTS, {}, meta).to_shareable()
            task = Task(self.submit_model_task_name, data, timeout=self.submit_model_timeout)
            task.result_received_cb = self._take_model
            self._schedule(task, fl_ctx)
        for name, model in self.server_models.items():
            self._validate(_SERVER + name, initial(model), fl_ctx)
        if not self._all_done(abort_signal):
            return
        if not any(self.results.values()):
            self.system_panic(f"no model was measured at any site{self._refused}", fl_ctx)
        elif self.result_file is not None:
            with replacing(self.result_file) as file:
                file.write(json.dumps(self.results, indent=2).encode())

    def _schedule(self, task: Task, fl_ctx: FLContext) -> None:
        """Broadcast a task, and count it until it is done."""
        task.task_done_cb = self._count_down
        with self._changed:
            self._open += 1
        self.broadcast(task, fl_ctx, targets=self._sites)

    def _count_down(self, task: Task, fl_ctx: FLContext) -> None:
        # its model is not needed any more
        task.data = Shareable()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def _all_done(self, abort_signal: Signal) -> bool:
        """Wait until no task is open; return False if the run was aborted."""

        def wake() -> None:
            with self._changed:
                self._changed.notify_all()

        with abort_signal.add_callback(wake), self._changed:
            self._changed.wait_for(lambda: not self._open or abort_signal.triggered)
        return not abort_signal.triggered

    def _take_model(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Send a site's model to all."""
        site, result = client_task.client.name, client_task.result
        client_task.result = None
        try:
            self._validate(site, update_of(result).data, fl_ctx)
        except ValueError as exc:
            self.log_warning(fl_ctx, f"the model of {site} is left out: {exc}")
            self._refused.add(site, str(exc))

    def _validate(self, owner: str, model: Model, fl_ctx: FLContext) -> None:
        data = DXO(DataKind.WEIGHTS, model, {_MODEL_OWNER: owner}).to_shareable()
        data.set_header(AppConstants.MODEL_OWNER, owner)

        def take_metrics(client_task: ClientTask, fl_ctx: FLContext) -> None:
            site, result = client_task.client.name, client_task.result
            client_task.result = None
            try:
                self.results[site][owner] = metrics_of(result)
            except ValueError as exc:
                self.log_warning(fl_ctx, f"what {site} measured of the model of {owner} is left out: {exc}")
                self._refused.add(site, str(exc))

        task = Task(self.validation_task_name, data, timeout=self.validation_timeout, result_received_cb=take_metrics)
        self._schedule(task, fl_ctx)
