"""``ModelWorkflow``: the base of workflows that train one model."""

from __future__ import annotations

import os
from abc import ABC

from redflare_workers.apis.fl_context import FLContext

from .controller import Controller
from .model_store import InitialModel, ModelStore, initial
from .model_tree import Model


class ModelWorkflow(Controller, ABC):
    """Base of workflows that train one model; ``control_flow`` is left to them.

    Args:
        initial_model: nested dicts and lists of arrays; or a function that makes them, or a file that was saved.
        task_name: what the sites' executors know the training task by.
        save_dir: folder for the newest and the best model; None: none is saved.
        resume: see ``Controller``.
    """

    def __init__(
        self,
        initial_model: InitialModel,
        *,
        task_name: str,
        save_dir: str | os.PathLike[str] | None,
        resume: bool = False,
    ) -> None:
        super().__init__(resume=resume)
        self.task_name = task_name
        self.store = None if save_dir is None else ModelStore(save_dir)
        #: The newest model; empty until the run starts.
        self.model: Model = {}
        self._initial_model = initial_model

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Make the initial model, unless the run was resumed and has one."""
        self.model = self.model or initial(self._initial_model)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Do nothing: the model was saved when it was made."""
