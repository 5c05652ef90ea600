"""``TaskRequests`` gives a client its task, ``Submissions`` takes its result."""

from __future__ import annotations

from typing import Final

from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_copy
from redflare_workers.apis.task import ClientTask

from .data_snapshot import DataSnapshot, own_copy, read_only_arrays
from .scheduling import StandingTask, TaskKind
from .task_lifecycle import Assignment, TaskLifecycle
from .task_registry import Choice, SubmissionCheck

TaskReply = tuple[str, str, Shareable | None]

#: The reply when nothing can be given to the client now.
NOTHING: Final[TaskReply] = ("", "", None)


class TaskRequests:
    """Chooses a task under the lock, runs its callbacks under the callback lock, and hands it out.

    A ClientTask is reserved when it is chosen: nobody else can get the same place of a send or relay while its
    callbacks run, and a second request of the same client waits until they have returned.
    """

    def __init__(self, lifecycle: TaskLifecycle) -> None:
        self._lifecycle = lifecycle

    def answer(self, client: Client, fl_ctx: FLContext) -> TaskReply:
        """Return name, id of the ClientTask and data of a task for this client, or ``NOTHING``."""
        lifecycle, registry = self._lifecycle, self._lifecycle.registry
        while True:
            assignment = None
            with lifecycle.lock:
                if lifecycle.closed:
                    return NOTHING
                choice = registry.choose(client, lifecycle.clock())
                if choice is not None and not choice.busy and not choice.standing.needs_callback_lock():
                    assignment = self._dispatch(choice)
                news = registry.broken or registry.freed
            if news:
                lifecycle.apply_choices()
            if choice is None:
                return NOTHING
            if assignment is not None:
                if choice.resend:
                    _mark_resend(fl_ctx)
                return _to_reply(assignment)
            if choice.busy:
                if choice.standing.callback_lock.held_by_me:
                    # one of its callbacks asks on behalf of the same client
                    return NOTHING
                # another request for it, or its result, is being handled: choose again after that
                if choice.standing.callback_lock.acquire_unless_closed():
                    choice.standing.callback_lock.release()
                continue
            sent, assignment = self._with_callbacks(choice, fl_ctx)
            if sent:
                return NOTHING if assignment is None else _to_reply(assignment)

    def _with_callbacks(self, choice: Choice, fl_ctx: FLContext) -> tuple[bool, Assignment | None]:
        """Run the callbacks and hand out; return False if it must no longer be sent: choose again."""
        lifecycle, standing, client_task = self._lifecycle, choice.standing, choice.client_task
        with lifecycle.lock:
            # it is reserved already; another thread may resend it by now, or its result be in
            if choice.resend:
                if standing.busy(client_task) or client_task.result_received_time is not None:
                    return False, None
                standing.sending[client_task.id] = True
        if not standing.callback_lock.acquire_unless_closed():
            with lifecycle.lock:
                standing.sending.pop(client_task.id, None)
            return False, None
        try:
            return self._prepare(choice, fl_ctx)
        finally:
            with lifecycle.lock:
                standing.sending.pop(client_task.id, None)
            standing.callback_lock.release()

    def _prepare(self, choice: Choice, fl_ctx: FLContext) -> tuple[bool, Assignment | None]:
        lifecycle, standing, client_task = self._lifecycle, choice.standing, choice.client_task
        if standing.ended or client_task.result_received_time is not None:
            return False, None
        if choice.resend:
            _mark_resend(fl_ctx)
        if standing.task.before_task_sent_cb is not None:
            # who would write to an array that others get too is told so
            with read_only_arrays(standing.task.data if standing.shared else None) as put_in:
                lifecycle.call("before_task_sent_cb", standing, client_task, fl_ctx)
            standing.put_in |= put_in
        # after_task_sent_cb may take the data away
        data, operator = self._data(choice, fl_ctx), standing.task.operator
        lifecycle.call("after_task_sent_cb", standing, client_task, fl_ctx)
        lifecycle.end_if_final(standing)
        with lifecycle.lock:
            if standing.ended or data is None:
                return True, None
            assignment = self._dispatch(choice)
        return True, assignment._replace(data=data, operator=operator)

    def _data(self, choice: Choice, fl_ctx: FLContext) -> Shareable | None:
        """Return the data for the client; of a broadcast the protected copy that all share, while it is not changed.

        None: protecting it failed.
        """
        standing, task = choice.standing, choice.standing.task
        if not standing.shared:
            return task.data
        try:
            now = None if task.before_task_sent_cb is None else DataSnapshot(task.data)
            if standing.differs(now):
                own: Shareable = own_copy(task.data, standing.put_in)
                return own
            if standing.data is None and task.completion_status is None:
                standing.data = self._lifecycle.observer.protect(task, task.data)
                standing.source, standing.snapshot = task.data, now
        except Exception as exc:
            if standing.ended:
                # what protecting it needs may have gone with the task
                return None
            self._lifecycle.fail(standing, exc, "its data cannot be protected from changes", fl_ctx)
        return standing.data

    def _dispatch(self, choice: Choice) -> Assignment:
        """Note that it goes out now. Needs the lock."""
        lifecycle, standing, task = self._lifecycle, choice.standing, choice.standing.task
        lifecycle.registry.sent(choice, lifecycle.clock())
        if standing.schedule.kind is TaskKind.RELAY:
            lifecycle.touch(standing)
        data = standing.data if standing.data is not None else task.data
        return Assignment(task.name, choice.client_task.id, data, task.operator, task.msg_root_id, task.timeout)


def _mark_resend(fl_ctx: FLContext) -> None:
    fl_ctx.set_prop(FLContextKey.IS_CLIENT_TASK_RESEND, True, private=True, sticky=False)


def _to_reply(assignment: Assignment) -> TaskReply:
    """Return the reply: a shallow copy of the data with the headers of this ClientTask."""
    data = make_copy(assignment.data)
    if assignment.operator:
        data.set_header(ReservedHeaderKey.TASK_OPERATOR, assignment.operator)
    data.set_header(ReservedHeaderKey.TASK_ID, assignment.task_id)
    data.set_header(ReservedHeaderKey.MSG_ROOT_ID, assignment.msg_root_id)
    data.set_header(ReservedHeaderKey.MSG_ROOT_TTL, assignment.timeout)
    return assignment.task_name, assignment.task_id, data


class Submissions:
    """Checks submissions under the lock, and handles the accepted ones under the callback lock."""

    def __init__(self, lifecycle: TaskLifecycle) -> None:
        self._lifecycle = lifecycle

    def peek(self, client: Client, task_name: str, task_id: str) -> SubmissionCheck:
        """Check a submission without handling it."""
        with self._lifecycle.lock:
            return self._lifecycle.registry.check_submission(client.name, task_name, task_id)[0]

    def take(
        self, client: Client, task_name: str, task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> SubmissionCheck:
        """Handle a submission; those of unknown tasks are left to the caller."""
        lifecycle, standing = self._lifecycle, None
        with lifecycle.lock:
            check, client_task = lifecycle.registry.check_submission(client.name, task_name, task_id)
            if check is not SubmissionCheck.ACCEPT or client_task is None:
                return check
            standing = lifecycle.registry.by_task[client_task.task]
            prompt = client_task.task.result_received_cb is None and not standing.busy(client_task)
            if prompt:
                error = self._check(standing, client_task, result)
                self._close(standing, client_task)
        if not prompt:
            return self._with_callbacks(standing, client_task, task_name, result, fl_ctx)
        self._wake_next(standing)
        if error is not None:
            lifecycle.fail(
                standing, error, f"its manager failed at the result of client {client.name} ({task_id})", fl_ctx
            )
        return check

    def _with_callbacks(
        self, standing: StandingTask, client_task: ClientTask, task_name: str, result: Shareable, fl_ctx: FLContext
    ) -> SubmissionCheck:
        lifecycle, client = self._lifecycle, client_task.client
        if not standing.callback_lock.acquire_unless_closed():
            return SubmissionCheck.FINISHED
        try:
            with lifecycle.lock:
                check, _ = lifecycle.registry.check_submission(client.name, task_name, client_task.id)
                if check is not SubmissionCheck.ACCEPT:
                    return SubmissionCheck.FINISHED if check is SubmissionCheck.UNKNOWN else check
                standing.receiving.add(client_task.id)
                error = self._check(standing, client_task, result)
            try:
                if error is None:
                    lifecycle.call("result_received_cb", standing, client_task, fl_ctx)
                else:
                    what = f"its manager failed at the result of client {client.name} ({client_task.id})"
                    lifecycle.fail(standing, error, what, fl_ctx)
            finally:
                with lifecycle.lock:
                    self._close(standing, client_task)
            lifecycle.end_if_final(standing)
        finally:
            standing.callback_lock.release()
        self._wake_next(standing)
        return SubmissionCheck.ACCEPT

    def _check(self, standing: StandingTask, client_task: ClientTask, result: Shareable) -> Exception | None:
        """Note the result, and have the manager check it. Needs the lock."""
        client_task.result = result
        # whether it is late is decided here, whatever the client claims
        headers = result.get(ReservedHeaderKey.HEADERS)
        if headers:
            headers.pop(ReservedHeaderKey.REPLY_IS_LATE, None)
        try:
            standing.manager.check_task_result(result, client_task, self._lifecycle.clock())
        except Exception as exc:
            return exc
        return None

    def _close(self, standing: StandingTask, client_task: ClientTask) -> None:
        """Note that the result was handled. Needs the lock."""
        lifecycle = self._lifecycle
        lifecycle.registry.received(standing, client_task, lifecycle.clock())
        if not standing.ended:
            lifecycle.touch(standing)

    def _wake_next(self, standing: StandingTask) -> None:
        """Tell the clients that may be next in a relay to ask."""
        if standing.schedule.kind is not TaskKind.RELAY or standing.ended:
            return
        with self._lifecycle.lock:
            names = standing.blocked.union(standing.task.targets or ())
            standing.blocked.clear()
        self._lifecycle.may_ask(names)

    def unknown(self, client: Client, task_name: str, task_id: str, result: Shareable, fl_ctx: FLContext) -> None:
        """Give the result of an unknown task to the controller, whose exceptions reach the caller.

        Once the run is over, the result is dropped.
        """
        component = self._lifecycle.component
        what = f"result of client {client.name} for task {task_name!r} ({task_id})"
        if self._lifecycle.closed:
            # the controller was stopped already
            component.log_info(fl_ctx, f"{what} dropped: the run is over")
            return
        component.fire_event(EventType.BEFORE_PROCESS_RESULT_OF_UNKNOWN_TASK, fl_ctx)
        controller = getattr(component, "controller", None)
        if controller is None:
            component.log_warning(fl_ctx, f"{what} dropped")
        else:
            controller.process_result_of_unknown_task(client, task_name, task_id, result, fl_ctx)
        component.fire_event(EventType.AFTER_PROCESS_RESULT_OF_UNKNOWN_TASK, fl_ctx)
