"""Workflows: what a controller is written on, and those that ship."""

from __future__ import annotations

from .aggregator import Aggregator
from .bcast_manager import DOES_NOT_COUNT
from .board import Verdict
from .comm_observer import CommObserver
from .controller import Controller
from .cross_site_eval import CrossSiteEval
from .cyclic import Cyclic, RelayOrder
from .fedavg import FedAvg
from .fedbuff import FedBuff
from .gathering import wait_for_clients
from .model_store import ModelStore, load_model, save_model
from .model_update import ModelUpdate, metrics_of, model_shareable, update_of
from .model_workflow import ModelWorkflow
from .scheduling import Schedule, TaskKind
from .wf_comm_server import WFCommServer

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
    "TaskKind",
    "Verdict",
    "WFCommServer",
    "load_model",
    "metrics_of",
    "model_shareable",
    "save_model",
    "update_of",
    "wait_for_clients",
]
