"""Workflows: the base of controllers, and the workflows that ship.

Start at: ``controller.Controller``, the base of all; ``fedavg.FedAvg`` is the shortest that trains. It,
``fedbuff.FedBuff`` and ``cyclic.Cyclic`` are ``model_workflow.ModelWorkflow``s; ``cross_site_eval.CrossSiteEval``
measures models, ``workflows.Workflows`` runs several. What they share: ``model_update`` makes the data of a task and
reads the update in its result, ``aggregator`` sums models to their mean, ``model_tree`` reads and makes models as
trees, ``model_store`` keeps them in files, ``best_model`` notes the best one, ``refusals`` holds why results cannot be
used, and ``gathering`` waits until sites have joined.

May import: communicator, messaging, protocol, apis, util and the broker.
"""

from __future__ import annotations

from redflare_workers.communicator.comm_observer import CommObserver
from redflare_workers.communicator.managers.simple import DOES_NOT_COUNT
from redflare_workers.communicator.scheduling import Schedule, TaskKind
from redflare_workers.communicator.task_registry import SubmissionCheck
from redflare_workers.communicator.wf_comm_server import WFCommServer

from .aggregator import Aggregator
from .controller import Controller
from .cross_site_eval import CrossSiteEval
from .cyclic import Cyclic, RelayOrder
from .fedavg import FedAvg
from .fedbuff import FedBuff
from .gathering import wait_for_clients
from .model_store import ModelStore, load_model, save_model
from .model_update import ModelUpdate, metrics_of, model_shareable, update_of
from .model_workflow import ModelWorkflow

__all__ = [
    "DOES_NOT_COUNT",
    "Aggregator",
    "CommObserver",
    "Controller",
    "CrossSiteEval",
    "Cyclic",
    "FedAvg",
    "FedBuff",
    "ModelStore",
    "ModelUpdate",
    "ModelWorkflow",
    "RelayOrder",
    "Schedule",
    "SubmissionCheck",
    "TaskKind",
    "WFCommServer",
    "load_model",
    "metrics_of",
    "model_shareable",
    "save_model",
    "update_of",
    "wait_for_clients",
]
