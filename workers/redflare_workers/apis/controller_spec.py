"""``ControllerSpec``: the interface of a controller. After NVFlare's ``ControllerSpec``.

As there, ``Task`` and the other names that controllers use can be imported from this module too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from .client import Client
from .fl_context import FLContext
from .scheduling_spec import SchedulingSpec
from .shareable import Shareable
from .signal import Signal
from .task import (
    ClientTask,
    OperatorConfigKey,
    OperatorMethod,
    SendOrder,
    Task,
    TaskCompletionStatus,
    TaskOperatorKey,
)

__all__ = [
    "ClientTask",
    "ControllerSpec",
    "OperatorConfigKey",
    "OperatorMethod",
    "SendOrder",
    "Task",
    "TaskCompletionStatus",
    "TaskOperatorKey",
]


class ControllerSpec(SchedulingSpec, ABC):
    """Decides what the sites of a run do."""

    @abstractmethod
    def start_controller(self, fl_ctx: FLContext) -> None:
        """Prepare the workflow; called once, before ``control_flow``."""

    @abstractmethod
    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run the workflow, in its own thread, until it ends; return soon once the signal is triggered."""

    @abstractmethod
    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Clean up; called once, right before the run ends."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Handle a result whose task is not open: it is late, or the server was restarted. Drops it by default.

        Name of the task and id of the ClientTask are as the client reports them.
        """
