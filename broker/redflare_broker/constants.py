"""The words both sides of a link share: constants, return codes, meta keys and the result of a task.

Names and values are those of NVFlare's IPC agent, so that code written for it moves by changing its imports.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

#: Version of the wire protocol; every stream entry carries it in its field ``v``.
PROTOCOL_VERSION: Final = 1

CHANNEL: Final = "flare_agent"

TOPIC_GET_TASK: Final = "get_task"
TOPIC_SUBMIT_RESULT: Final = "submit_result"
TOPIC_HEARTBEAT: Final = "heartbeat"
TOPIC_HELLO: Final = "hello"
TOPIC_BYE: Final = "bye"
TOPIC_ABORT: Final = "abort"

#: Key of a job's meta that names the agent its client job talks to.
JOB_META_KEY_AGENT_ID: Final = "agent_id"


class MsgHeader:
    """Header fields of a message between a CJ and an agent."""

    TASK_ID: Final = "task_id"
    TASK_NAME: Final = "task_name"
    RC: Final = "rc"


class PayloadKey:
    """The two parts of every payload."""

    DATA: Final = "data"
    META: Final = "meta"


class RC:
    """Return codes an agent gives with a result."""

    OK: Final = "OK"
    BAD_TASK_DATA: Final = "BAD_TASK_DATA"
    EXECUTION_EXCEPTION: Final = "EXECUTION_EXCEPTION"
    EARLY_TERMINATION: Final = "EARLY_TERMINATION"


class MetaKey:
    """Keys of the meta of tasks and results."""

    CURRENT_ROUND: Final = "current_round"
    TOTAL_ROUND: Final = "total_round"
    DATA_KIND: Final = "data_kind"
    NUM_STEPS_CURRENT_ROUND: Final = "NUM_STEPS_CURRENT_ROUND"
    PROCESSED_ALGORITHM: Final = "PROCESSED_ALGORITHM"
    PROCESSED_KEYS: Final = "PROCESSED_KEYS"
    INITIAL_METRICS: Final = "initial_metrics"
    FILTER_HISTORY: Final = "filter_history"


class DataKind(StrEnum):
    """What the data of a task, a result or a ``DXO`` is; its key in the meta is ``MetaKey.DATA_KIND``."""

    FL_MODEL = "FL_MODEL"
    WEIGHTS = "WEIGHTS"
    WEIGHT_DIFF = "WEIGHT_DIFF"
    METRICS = "METRICS"
    ANALYTIC = "ANALYTIC"
    #: A dict of DXOs.
    COLLECTION = "COLLECTION"
    STATISTICS = "STATISTICS"
    PSI = "PSI"
    #: Anything the application likes; the only kind whose data need not be a dict.
    APP_DEFINED = "APP_DEFINED"


class TaskResult:
    """What an agent answers to a task.

    Args:
        meta: a dict of small values (JSON, numpy and torch values too); anything that is false becomes ``{}``.
        data: any tree of dicts, lists, scalars, bytes, arrays and tensors; None becomes ``{}``. Unlike in NVFlare,
            0, an empty list and an array are data and stay what they are.
        return_code: one of ``RC``, or a word of the application's own.

    Raises:
        TypeError: meta is not a dict, or return_code is not a str.
    """

    def __init__(self, meta: dict[str, Any] | None, data: Any, return_code: str = RC.OK) -> None:
        if not meta:
            meta = {}
        if not isinstance(meta, dict):
            raise TypeError(f"meta must be a dict, but got {type(meta).__name__}")
        if not isinstance(return_code, str):
            raise TypeError(f"return_code must be a str, but got {type(return_code).__name__}")
        self.meta = meta
        self.data = {} if data is None else data
        self.return_code = return_code

    def __repr__(self) -> str:
        data = type(self.data).__name__
        return f"TaskResult(return_code={self.return_code!r}, meta={sorted(self.meta)}, data={data})"
