"""The vocabulary of a job's components, with the names of ``nvflare.apis``."""

from __future__ import annotations

from .dxo import DXO, DataKind, MetaKey, from_dict, from_shareable
from .event_type import EventType
from .executor import Executor
from .fl_component import FLComponent
from .fl_constant import (
    AppConstants,
    EventScope,
    FLContextKey,
    FLMetaKey,
    JobConstants,
    LogMessageTag,
    ProcessType,
    ReservedKey,
    ReturnCode,
)
from .fl_context import FLContext, FLContextManager
from .shareable import ReservedHeaderKey, Shareable, make_copy, make_reply
from .signal import Signal, SignalCallback

__all__ = [
    "DXO",
    "AppConstants",
    "DataKind",
    "EventScope",
    "EventType",
    "Executor",
    "FLComponent",
    "FLContext",
    "FLContextKey",
    "FLContextManager",
    "FLMetaKey",
    "JobConstants",
    "LogMessageTag",
    "MetaKey",
    "ProcessType",
    "ReservedHeaderKey",
    "ReservedKey",
    "ReturnCode",
    "Shareable",
    "Signal",
    "SignalCallback",
    "from_dict",
    "from_shareable",
    "make_copy",
    "make_reply",
]
