"""``ControllerSpec``: what a run asks of its controller. After NVFlare's ``ControllerSpec``.

As there, the words a controller is written with are found in this module too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from .client import Client
from .fl_context import FLContext
from .scheduling_spec import SchedulingSpec
from .shareable import Shareable
from .signal import Signal
from .task import ClientTask, SendOrder, Task, TaskCompletionStatus
from .task_operator import OperatorConfigKey, OperatorMethod, TaskOperatorKey

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
        """Called once, at the beginning of the run."""

    @abstractmethod
    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """The workflow itself, in a thread of its own: when it returns, the workflow is over.

        Args:
            abort_signal: when it is triggered, return soon.
            fl_ctx: the context of the run.
        """

    @abstractmethod
    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Called once, right before the run ends."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Called with a result for which no task stands: it is late, or the server was restarted.

        Unless it is overridden, the result is dropped.

        Args:
            client: whose result it is.
            task_name: name of the task, as the client says.
            client_task_id: id of the ClientTask, as the client says.
            result: the result.
            fl_ctx: the context that came with it.
        """
