"""``Submissions``: takes what clients bring."""

from __future__ import annotations

from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.task import ClientTask

from .scheduling import TaskKind
from .standing_task import StandingTask
from .task_lifecycle import TaskLifecycle
from .task_registry import SubmissionCheck


class Submissions:
    """Judges under the lock, and handles what is accepted in the task's turn."""

    def __init__(self, desk: TaskLifecycle) -> None:
        self._desk = desk

    def peek(self, client: Client, task_name: str, task_id: str) -> SubmissionCheck:
        """What a submission would be."""
        with self._desk.lock:
            return self._desk.board.judge(client.name, task_name, task_id)[0]

    def take(
        self, client: Client, task_name: str, task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> SubmissionCheck:
        """Handle a submission; those for which there is no task are left to the caller."""
        desk, standing = self._desk, None
        with desk.lock:
            verdict, client_task = desk.board.judge(client.name, task_name, task_id)
            if verdict is not SubmissionCheck.ACCEPT or client_task is None:
                return verdict
            standing = desk.board.by_task[client_task.task]
            prompt = client_task.task.result_received_cb is None and not standing.busy(client_task)
            error = self._receive(standing, client_task, result) if prompt else None
        if not prompt:
            return self._in_turn(standing, client_task, task_name, result, fl_ctx)
        self._opened(standing)
        if error is not None:
            desk.fail(standing, error, f"its manager failed at the result of client {client.name} ({task_id})", fl_ctx)
        return verdict

    def _receive(self, standing: StandingTask, client_task: ClientTask, result: Shareable) -> Exception | None:
        """A result for which there is no callback. Under the lock."""
        error = self._check(standing, client_task, result)
        self._close(standing, client_task)
        return error

    def _in_turn(
        self, standing: StandingTask, client_task: ClientTask, task_name: str, result: Shareable, fl_ctx: FLContext
    ) -> SubmissionCheck:
        desk, client = self._desk, client_task.client
        if not standing.turn.take():
            return SubmissionCheck.FINISHED
        try:
            with desk.lock:
                verdict, _ = desk.board.judge(client.name, task_name, client_task.id)
                if verdict is not SubmissionCheck.ACCEPT:
                    return SubmissionCheck.FINISHED if verdict is SubmissionCheck.UNKNOWN else verdict
                standing.receiving.add(client_task.id)
                error = self._check(standing, client_task, result)
            try:
                if error is None:
                    desk.call("result_received_cb", standing, client_task, fl_ctx)
                else:
                    what = f"its manager failed at the result of client {client.name} ({client_task.id})"
                    desk.fail(standing, error, what, fl_ctx)
            finally:
                with desk.lock:
                    self._close(standing, client_task)
            desk.notice(standing)
        finally:
            standing.turn.release()
        self._opened(standing)
        return SubmissionCheck.ACCEPT

    def _check(self, standing: StandingTask, client_task: ClientTask, result: Shareable) -> Exception | None:
        """Note the result, and have the manager look at it. Under the lock."""
        client_task.result = result
        # whether it is late is decided here, whatever the client says
        headers = result.get(ReservedHeaderKey.HEADERS)
        if headers:
            headers.pop(ReservedHeaderKey.REPLY_IS_LATE, None)
        try:
            standing.manager.check_task_result(result, client_task, self._desk.clock())
        except Exception as exc:
            return exc
        return None

    def _close(self, standing: StandingTask, client_task: ClientTask) -> None:
        """The result was handled. Under the lock."""
        desk = self._desk
        desk.board.received(standing, client_task, desk.clock())
        if not standing.ended:
            desk.touch(standing)

    def _opened(self, standing: StandingTask) -> None:
        """A relay goes on: those who may be next can ask."""
        if standing.schedule.kind is not TaskKind.RELAY or standing.ended:
            return
        with self._desk.lock:
            names = standing.blocked.union(standing.task.targets or ())
            standing.blocked.clear()
        self._desk.may_ask(names)

    def unknown(self, client: Client, task_name: str, task_id: str, result: Shareable, fl_ctx: FLContext) -> None:
        """Give a result for which there is no task to the controller; what that raises, the caller gets.

        Once the run is over, it is dropped.
        """
        component = self._desk.component
        if self._desk.closed:
            # the controller was stopped
            component.log_info(fl_ctx, f"result of client {client.name} for task {task_name!r} ({task_id}) is too late")
            return
        component.fire_event(EventType.BEFORE_PROCESS_RESULT_OF_UNKNOWN_TASK, fl_ctx)
        controller = getattr(component, "controller", None)
        if controller is None:
            component.log_warning(fl_ctx, f"result of client {client.name} for task {task_name!r} ({task_id}) dropped")
        else:
            controller.process_result_of_unknown_task(client, task_name, task_id, result, fl_ctx)
        component.fire_event(EventType.AFTER_PROCESS_RESULT_OF_UNKNOWN_TASK, fl_ctx)
