"""``WFCommSpec``: the interface of the communicator between a controller and the sites. After NVFlare's."""

from __future__ import annotations

from .client import Client
from .controller_spec import ControllerSpec
from .fl_context import FLContext
from .scheduling_spec import SchedulingSpec
from .shareable import Shareable
from .task import ClientTask


class WFCommSpec(SchedulingSpec):
    """Schedules the controller's tasks, and answers the clients' requests and submissions.

    Methods that a subclass leaves out raise NotImplementedError.
    """

    #: Gets results of unknown tasks; set by ``Controller.set_communicator``.
    controller: ControllerSpec | None = None
    #: Longest time between two checks of open tasks, in seconds.
    task_check_period: float = 0.2

    def check_tasks(self) -> None:
        """Check now which tasks should end."""
        raise NotImplementedError

    def process_task_request(self, client: Client, fl_ctx: FLContext) -> tuple[str, str, Shareable | None]:
        """Find a task for a client that asks for one.

        Returns:
            Name of the task, id of the ClientTask, data; ``("", "", None)`` if it gets none.
        """
        raise NotImplementedError

    def handle_exception(self, task_id: str, fl_ctx: FLContext) -> None:
        """End, with an error, the task whose ClientTask could not be sent."""
        raise NotImplementedError

    def process_submission(
        self, client: Client, task_name: str, task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Accept a client's result; name of the task and id of the ClientTask are as the client reports them."""
        raise NotImplementedError

    def process_dead_client_report(self, client_name: str, fl_ctx: FLContext) -> None:
        """Record that a client has no heartbeat; it is disconnected unless one comes within the grace period."""
        raise NotImplementedError

    def client_is_active(self, client_name: str, reason: str, fl_ctx: FLContext) -> None:
        """Record that a client is active; ``reason`` is the message or heartbeat that shows it."""
        raise NotImplementedError

    def process_task_check(self, task_id: str, fl_ctx: FLContext) -> ClientTask | None:
        """Return the ClientTask of that id, or None if its result is no longer needed."""
        raise NotImplementedError

    def initialize_run(self, fl_ctx: FLContext) -> None:
        """Prepare the run; called once, before the controller starts."""
        raise NotImplementedError

    def finalize_run(self, fl_ctx: FLContext) -> None:
        """Cancel all open tasks; called once, when the run is over."""
        raise NotImplementedError
