"""The workflows that ``redflare simulate`` knows by name, made with what the command was given."""

from __future__ import annotations

from pathlib import Path

from redflare_broker.errors import ConfigError

from redflare_workers.workflow import Controller, CrossSiteEval, Cyclic, FedAvg, FedBuff
from redflare_workers.workflow.model_store import InitialModel

from .workflow_names import Workflow


def make_workflow(
    workflow: Workflow, model: InitialModel | None, *, sites: int, rounds: int, save: Path | None
) -> Controller:
    """The controller.

    Raises:
        ConfigError: it needs a model, and there is none.
    """
    if workflow is Workflow.CROSS_SITE_EVAL:
        models = {} if model is None else {"model": model}
        file = None if save is None else save / "cross_site_eval.json"
        return CrossSiteEval(server_models=models, min_clients=sites, result_file=file)
    if model is None:
        raise ConfigError(
            f"{workflow} needs a model to begin with: give --model module:name, or call it initial_model in train's "
            "module (a dict of arrays, or a function that makes one)"
        )
    match workflow:
        case Workflow.FEDAVG:
            return FedAvg(model, min_clients=sites, num_rounds=rounds, save_dir=save)
        case Workflow.CYCLIC:
            return Cyclic(model, min_clients=sites, num_rounds=rounds, save_dir=save)
        case Workflow.FEDBUFF:
            return FedBuff(model, buffer_size=max(1, sites // 2), num_updates=rounds, save_dir=save)
