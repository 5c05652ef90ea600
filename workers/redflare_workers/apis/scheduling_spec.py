"""``SchedulingSpec``: the methods that give tasks to sites. A controller offers, a communicator implements them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .client import Client
from .fl_context import FLContext
from .signal import Signal
from .task import SendOrder, Task, TaskCompletionStatus

#: Clients or their names; None: every client, also those that join while the task is open.
Targets = Sequence[Client | str] | None


class SchedulingSpec:
    """Methods common to ``ControllerSpec`` and ``WFCommSpec``.

    A controller's forward to its communicator; one may override them to change how a workflow schedules. Where there is
    none to forward to, those that are not overridden raise NotImplementedError.

    A target is absent when it is disconnected, or has not joined within the communicator's grace period (60 s). Nobody
    waits for its turn, and a task that waits for absent clients alone ends with CLIENT_DEAD.

    Those called ``*_and_wait`` return when the task is done and its callbacks have run, ``task_done_cb`` last, or when
    the abort signal is triggered, which ends the task with ABORTED; the others return at once.
    """

    @property
    def _comm(self) -> SchedulingSpec:
        """The communicator that the methods forward to."""
        raise NotImplementedError

    def broadcast(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        min_responses: int = 0,
        wait_time_after_min_received: int = 0,
    ) -> None:
        """Send a task to many clients, once to each.

        Args:
            targets: clients that get it; None: all, also those that join while it is open.
            min_responses: number of results that are enough; 0: those of all targets, but for ones that are absent and
                were never sent it.
            wait_time_after_min_received: seconds to wait for further results then.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a number is negative, or more responses are wanted than there are targets.
        """
        self._comm.broadcast(task, fl_ctx, targets, min_responses, wait_time_after_min_received)

    def broadcast_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        min_responses: int = 0,
        wait_time_after_min_received: int = 0,
        abort_signal: Signal | None = None,
    ) -> tuple[TaskCompletionStatus | None, dict[str, Any]]:
        """Broadcast as ``broadcast`` does, and wait.

        Returns:
            completion status, and the results by the clients' names; None of those that have not answered.
        """
        return self._comm.broadcast_and_wait(
            task, fl_ctx, targets, min_responses, wait_time_after_min_received, abort_signal
        )

    def broadcast_forever(self, task: Task, fl_ctx: FLContext, targets: Targets = None) -> None:
        """Send a task to each client whenever it asks, until the task times out or is cancelled.

        Of its ClientTasks that were answered, ``task.client_tasks`` has the last hundred.
        """
        self._comm.broadcast_forever(task, fl_ctx, targets)

    def send(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: int = 0,
    ) -> None:
        """Send a task to one client.

        Args:
            targets: clients that may get it; must be given when the order is SEQUENTIAL.
            send_order: ANY: the first client that asks gets it. SEQUENTIAL: the first target, later also the next.
            task_assignment_timeout: seconds after which the next target may have it too; 0: only the first may that is
                not absent.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: the timeout is negative or longer than the task's, or SEQUENTIAL has no targets.
        """
        self._comm.send(task, fl_ctx, targets, send_order, task_assignment_timeout)

    def send_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: int = 0,
        abort_signal: Signal | None = None,
    ) -> tuple[TaskCompletionStatus | None, Any]:
        """Send as ``send`` does, and wait.

        Returns:
            completion status and result; None if no client has answered.
        """
        return self._comm.send_and_wait(task, fl_ctx, targets, send_order, task_assignment_timeout, abort_signal)

    def relay(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: int = 0,
        task_result_timeout: int = 0,
        dynamic_targets: bool = True,
    ) -> None:
        """Send a task to one client after the other.

        Args:
            targets: clients that get it, each as often as it is named; None: all.
            send_order: SEQUENTIAL: in the order of the targets; ANY: as they ask.
            task_assignment_timeout: SEQUENTIAL: seconds after which the next target may have it too; 0: when it is the
                next that is not absent.
            task_result_timeout: seconds after which a client that does not answer is passed over; 0: never.
            dynamic_targets: clients that ask and are no targets become targets.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a timeout is negative or longer than the task's, or there can be no targets.
        """
        self._comm.relay(
            task, fl_ctx, targets, send_order, task_assignment_timeout, task_result_timeout, dynamic_targets
        )

    def relay_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: int = 0,
        task_result_timeout: int = 0,
        dynamic_targets: bool = True,
        abort_signal: Signal | None = None,
    ) -> tuple[TaskCompletionStatus | None, Any]:
        """Relay as ``relay`` does, and wait.

        Returns:
            completion status and the last result; None if no client has answered.
        """
        timeouts = (task_assignment_timeout, task_result_timeout)
        return self._comm.relay_and_wait(task, fl_ctx, targets, send_order, *timeouts, dynamic_targets, abort_signal)

    def get_num_standing_tasks(self) -> int:
        """Return the number of open tasks."""
        return self._comm.get_num_standing_tasks()

    def cancel_task(
        self,
        task: Task,
        completion_status: TaskCompletionStatus = TaskCompletionStatus.CANCELLED,
        fl_ctx: FLContext | None = None,
    ) -> None:
        """End a task with that status; does nothing if the task is not open."""
        self._comm.cancel_task(task, completion_status, fl_ctx)

    def cancel_all_tasks(
        self,
        completion_status: TaskCompletionStatus = TaskCompletionStatus.CANCELLED,
        fl_ctx: FLContext | None = None,
    ) -> None:
        """End all open tasks with that status."""
        self._comm.cancel_all_tasks(completion_status, fl_ctx)

    def get_client_disconnect_time(self, client_name: str) -> float | None:
        """Return when a client was found to be disconnected, in seconds since the epoch; None: it is connected."""
        return self._comm.get_client_disconnect_time(client_name)
