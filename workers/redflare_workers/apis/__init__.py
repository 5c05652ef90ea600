"""The vocabulary of a job's components, with the names of ``nvflare.apis``."""

from __future__ import annotations

from .client import Client, ClientPropKey
from .controller_spec import ControllerSpec
from .dxo import DXO, DataKind, MetaKey, from_dict, from_shareable
from .event_type import EventType
from .executor import Executor
from .filter import ContentBlockedException, Filter, FilterChainType
from .fl_component import FLComponent
from .fl_constant import (
    AppConstants,
    EventScope,
    FLContextKey,
    FLMetaKey,
    JobConstants,
    JobMetaKey,
    LogMessageTag,
    ProcessType,
    ReservedKey,
    ReturnCode,
)
from .fl_context import FLContext, FLContextManager
from .scheduling_spec import SchedulingSpec, Targets
from .server_engine_spec import ServerEngineSpec
from .shareable import ReservedHeaderKey, Shareable, make_copy, make_reply
from .signal import Signal, SignalCallback
from .task import ClientTask, ClientTaskCallback, SendOrder, Task, TaskCompletionStatus, TaskDoneCallback
from .wf_comm_spec import WFCommSpec

__all__ = [
    "DXO",
    "AppConstants",
    "Client",
    "ClientPropKey",
    "ClientTask",
    "ClientTaskCallback",
    "ContentBlockedException",
    "ControllerSpec",
    "DataKind",
    "EventScope",
    "EventType",
    "Executor",
    "FLComponent",
    "FLContext",
    "FLContextKey",
    "FLContextManager",
    "FLMetaKey",
    "Filter",
    "FilterChainType",
    "JobConstants",
    "JobMetaKey",
    "LogMessageTag",
    "MetaKey",
    "ProcessType",
    "ReservedHeaderKey",
    "ReservedKey",
    "ReturnCode",
    "SchedulingSpec",
    "SendOrder",
    "ServerEngineSpec",
    "Shareable",
    "Signal",
    "SignalCallback",
    "Targets",
    "Task",
    "TaskCompletionStatus",
    "TaskDoneCallback",
    "WFCommSpec",
    "from_dict",
    "from_shareable",
    "make_copy",
    "make_reply",
]
