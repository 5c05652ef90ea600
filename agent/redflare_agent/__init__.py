"""The trainer's side: an agent that takes tasks from a federation over Redis and hands results back.

>>> from redflare_agent import IPCAgent, TaskResult

May import: the broker.
"""

from .defs import (
    CHANNEL,
    JOB_META_KEY_AGENT_ID,
    RC,
    TOPIC_ABORT,
    TOPIC_BYE,
    TOPIC_GET_TASK,
    TOPIC_HEARTBEAT,
    TOPIC_HELLO,
    TOPIC_SUBMIT_RESULT,
    FlareAgent,
    MetaKey,
    MsgHeader,
    PayloadKey,
    Task,
    TaskResult,
    agent_site_fqcn,
)
from .dxo import DXO, DataKind
from .errors import AgentClosed, CallStateError
from .ipc_agent import IPCAgent
from .serve import Trainer, serve, trainer

__all__ = [
    "CHANNEL",
    "DXO",
    "JOB_META_KEY_AGENT_ID",
    "RC",
    "TOPIC_ABORT",
    "TOPIC_BYE",
    "TOPIC_GET_TASK",
    "TOPIC_HEARTBEAT",
    "TOPIC_HELLO",
    "TOPIC_SUBMIT_RESULT",
    "AgentClosed",
    "CallStateError",
    "DataKind",
    "FlareAgent",
    "IPCAgent",
    "MetaKey",
    "MsgHeader",
    "PayloadKey",
    "Task",
    "TaskResult",
    "Trainer",
    "agent_site_fqcn",
    "serve",
    "trainer",
]
