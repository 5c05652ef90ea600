"""The workflows that ``redflare simulate`` knows by name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from redflare_broker.errors import ConfigError

if TYPE_CHECKING:
    from redflare_workers.workflow import Controller
    from redflare_workers.workflow.model_store import InitialModel


class Workflow(StrEnum):
    """The values of ``--workflow``."""

    FEDAVG = "fedavg"
    CYCLIC = "cyclic"
    CROSS_SITE_EVAL = "cross-site-eval"
    FEDBUFF = "fedbuff"


def make_workflow(
    workflow: Workflow, model: InitialModel | None, *, sites: int, rounds: int, save: Path | None
) -> Controller:
    """Make the controller of a workflow.

    Raises:
        ConfigError: it needs an initial model, and there is none.
    """
    # these import numpy, which the help of the command does not need
    from redflare_workers.workflow import CrossSiteEval, Cyclic, FedAvg, FedBuff

    if workflow is Workflow.CROSS_SITE_EVAL:
        models = {} if model is None else {"model": model}
        file = None if save is None else save / "cross_site_eval.json"
        return CrossSiteEval(server_models=models, min_clients=sites, result_file=file)
    if model is None:
        raise ConfigError(
            f"{workflow} needs an initial model: give --model module:name, or name it initial_model in train's module "
            "(a dict of arrays, or a function that makes one)"
        )
    match workflow:
        case Workflow.FEDAVG:
            return FedAvg(model, min_clients=sites, num_rounds=rounds, save_dir=save)
        case Workflow.CYCLIC:
            return Cyclic(model, min_clients=sites, num_rounds=rounds, save_dir=save)
        case Workflow.FEDBUFF:
            return FedBuff(model, buffer_size=max(1, sites // 2), num_updates=rounds, save_dir=save)
