"""Workflows: the base of controllers, and the workflows that ship.

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
