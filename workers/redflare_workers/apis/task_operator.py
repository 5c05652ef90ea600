"""Keys and values of ``Task.operator``, which describes an operation; it is sent as a header and has no effect here.

Names and values are those of NVFlare's ``controller_spec``.
"""

from __future__ import annotations

from typing import Final


class TaskOperatorKey:
    """Keys of the description."""

    AGGREGATOR: Final = "aggregator"
    DATA_FILTERS: Final = "data_filters"
    METHOD: Final = "method"
    MIN_TARGETS: Final = "min_targets"
    NUM_ROUNDS: Final = "num_rounds"
    OP_ID: Final = "op_id"
    PERSISTOR: Final = "persistor"
    RESULT_FILTERS: Final = "result_filters"
    SHAREABLE_GENERATOR: Final = "shareable_gen"
    TARGETS: Final = "targets"
    TASK_ASSIGNMENT_TIMEOUT: Final = "task_assign_timeout"
    TIMEOUT: Final = "timeout"
    WAIT_TIME_AFTER_MIN_RESPS: Final = "wait_time_after_min_received"


class OperatorMethod:
    """Values of ``TaskOperatorKey.METHOD``."""

    BROADCAST: Final = "bcast"
    RELAY: Final = "relay"


class OperatorConfigKey:
    """Keys of a configuration with descriptions."""

    OPERATORS: Final = "operators"
