"""The vocabulary of a job's components, with the names of ``nvflare.apis``.

Start at: the modules of NVFlare's names, such as ``shareable``, ``dxo``, ``executor``, ``controller_spec``.

May import: util and the broker.
"""

from __future__ import annotations

from .app_constant import AlgorithmConstants, AppConstants, ModelName, NPConstants, StatisticsConstants, ValidateType
from .app_event_type import AppEventType
from .client import Client, ClientPropKey
from .controller_spec import ControllerSpec
from .dxo import DXO, DataKind, MetaKey, from_bytes, from_dict, from_file, from_shareable, get_leaf_dxos
from .event_type import EventType
from .executor import Executor
from .filter import ContentBlockedException, Filter, FilterChainType
from .fl_component import FLComponent, job_component
from .fl_constant import (
    EventScope,
    FedEventHeader,
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
from .fl_exception import NotReadyToEndRun, TaskExecutionError, UnsafeJobError
from .scheduling_spec import SchedulingSpec, Targets
from .server_engine_spec import ServerEngineSpec
from .shareable import ReservedHeaderKey, Shareable, make_copy, make_reply
from .signal import Signal, SignalCallback
from .task import (
    ClientTask,
    ClientTaskCallback,
    OperatorConfigKey,
    OperatorMethod,
    SendOrder,
    Task,
    TaskCompletionStatus,
    TaskDoneCallback,
    TaskOperatorKey,
)
from .wf_comm_spec import WFCommSpec
from .workspace import Workspace

__all__ = [
    "DXO",
    "AlgorithmConstants",
    "AppConstants",
    "AppEventType",
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
    "FedEventHeader",
    "Filter",
    "FilterChainType",
    "JobConstants",
    "JobMetaKey",
    "LogMessageTag",
    "MetaKey",
    "ModelName",
    "NPConstants",
    "NotReadyToEndRun",
    "OperatorConfigKey",
    "OperatorMethod",
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
    "StatisticsConstants",
    "Targets",
    "Task",
    "TaskCompletionStatus",
    "TaskDoneCallback",
    "TaskExecutionError",
    "TaskOperatorKey",
    "UnsafeJobError",
    "ValidateType",
    "WFCommSpec",
    "Workspace",
    "from_bytes",
    "from_dict",
    "from_file",
    "from_shareable",
    "get_leaf_dxos",
    "job_component",
    "make_copy",
    "make_reply",
]
