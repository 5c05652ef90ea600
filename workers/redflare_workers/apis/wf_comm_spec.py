"""``WFCommSpec``: what stands between a controller and the sites. After NVFlare's ``WFCommSpec``."""

from __future__ import annotations

from .client import Client
from .controller_spec import ControllerSpec
from .fl_context import FLContext
from .scheduling_spec import SchedulingSpec
from .shareable import Shareable
from .task import ClientTask


class WFCommSpec(SchedulingSpec):
    """Schedules the controller's tasks, and answers the clients' requests and submissions.

    What a subclass leaves out raises NotImplementedError.
    """

    #: Who is told of results of unknown tasks; ``Controller.set_communicator`` sets it.
    controller: ControllerSpec | None = None
    #: Seconds between two looks at what stands, at the longest.
    task_check_period: float = 0.2

    def check_tasks(self) -> None:
        """Look now which tasks are to end."""
        raise NotImplementedError

    def process_task_request(self, client: Client, fl_ctx: FLContext) -> tuple[str, str, Shareable | None]:
        """Find a task for a client that asks for one.

        Returns:
            Name of the task, id of the ClientTask, data; ``("", "", None)`` when there is none.
        """
        raise NotImplementedError

    def handle_exception(self, task_id: str, fl_ctx: FLContext) -> None:
        """A task that ``process_task_request`` gave out could not be sent; the error ends it.

        Args:
            task_id: id of the ClientTask.
            fl_ctx: the context of the request.
        """
        raise NotImplementedError

    def process_submission(
        self, client: Client, task_name: str, task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Take a client's result.

        Args:
            client: whose result it is.
            task_name: name of the task, as the client says.
            task_id: id of the ClientTask, as the client says.
            result: the result.
            fl_ctx: the context that came with it.
        """
        raise NotImplementedError

    def process_dead_client_report(self, client_name: str, fl_ctx: FLContext) -> None:
        """There is no sign of a client any more: it is disconnected unless one comes within the grace period."""
        raise NotImplementedError

    def client_is_active(self, client_name: str, reason: str, fl_ctx: FLContext) -> None:
        """There is a sign of a client.

        Args:
            client_name: which one.
            reason: what the sign was.
            fl_ctx: the context of the run.
        """
        raise NotImplementedError

    def process_task_check(self, task_id: str, fl_ctx: FLContext) -> ClientTask | None:
        """The ClientTask of that id, or None if it is no longer wanted."""
        raise NotImplementedError

    def initialize_run(self, fl_ctx: FLContext) -> None:
        """Called once, before the controller starts."""
        raise NotImplementedError

    def finalize_run(self, fl_ctx: FLContext) -> None:
        """Called once, when the run is over: whatever stands is cancelled."""
        raise NotImplementedError
