"""``TaskRequests``: answers a client that asks for a task."""

from __future__ import annotations

from typing import Final

from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_copy

from .scheduling import TaskKind
from .task_lifecycle import Assignment, TaskLifecycle
from .task_registry import Choice

TaskReply = tuple[str, str, Shareable | None]

#: There is nothing for the client now.
NOTHING: Final[TaskReply] = ("", "", None)


class TaskRequests:
    """Chooses under the lock, runs the callbacks in the task's turn, and hands out.

    A ClientTask is reserved when it is chosen: nobody else can get the same place of a send or relay while its
    callbacks run, and a second request of the same client waits for what becomes of it.
    """

    def __init__(self, desk: TaskLifecycle) -> None:
        self._desk = desk

    def answer(self, client: Client, fl_ctx: FLContext) -> TaskReply:
        """Name, id of the ClientTask and data of a task for this client, or ``NOTHING``."""
        desk, board = self._desk, self._desk.board
        while True:
            parcel = None
            with desk.lock:
                if desk.closed:
                    return NOTHING
                choice = board.choose(client, desk.clock())
                if choice is not None and not choice.busy and not choice.standing.needs_turn():
                    parcel = self._dispatch(choice)
                news = board.broken or board.freed
            if news:
                desk.settle()
            if choice is None:
                return NOTHING
            if parcel is not None:
                if choice.resend:
                    _mark_resend(fl_ctx)
                return _unpack(parcel)
            if choice.busy:
                if choice.standing.turn.mine:
                    # a callback of it asks on behalf of the same client
                    return NOTHING
                # another request or the result of it is being handled: look again when that is over
                if choice.standing.turn.take():
                    choice.standing.turn.release()
                continue
            sent, parcel = self._in_turn(choice, fl_ctx)
            if sent:
                return NOTHING if parcel is None else _unpack(parcel)

    def _in_turn(self, choice: Choice, fl_ctx: FLContext) -> tuple[bool, Assignment | None]:
        """Run the callbacks and hand out; False: it was no longer to be sent when the turn came, look again."""
        desk, standing, client_task = self._desk, choice.standing, choice.client_task
        with desk.lock:
            # a reservation is there already; a resend may be under way in another thread by now, or its result be in
            if choice.resend:
                if standing.busy(client_task) or client_task.result_received_time is not None:
                    return False, None
                standing.sending[client_task.id] = True
        if not standing.turn.take():
            with desk.lock:
                standing.sending.pop(client_task.id, None)
            return False, None
        try:
            return self._prepare(choice, fl_ctx)
        finally:
            with desk.lock:
                standing.sending.pop(client_task.id, None)
            standing.turn.release()

    def _prepare(self, choice: Choice, fl_ctx: FLContext) -> tuple[bool, Assignment | None]:
        desk, standing, client_task, task = self._desk, choice.standing, choice.client_task, choice.standing.task
        if standing.ended or client_task.result_received_time is not None:
            return False, None
        if choice.resend:
            _mark_resend(fl_ctx)
        desk.call("before_task_sent_cb", standing, client_task, fl_ctx)
        # after_task_sent_cb may take the data away
        data, operator = self._data(choice, fl_ctx), task.operator
        desk.call("after_task_sent_cb", standing, client_task, fl_ctx)
        desk.notice(standing)
        with desk.lock:
            if standing.ended or data is None:
                return True, None
            parcel = self._dispatch(choice)
        return True, parcel._replace(data=data, operator=operator)

    def _data(self, choice: Choice, fl_ctx: FLContext) -> Shareable | None:
        """What the client gets; for a broadcast the copy that is protected once. None: it cannot be had."""
        standing, task = choice.standing, choice.standing.task
        if not standing.shared:
            return task.data
        if standing.data is None and task.completion_status is None:
            try:
                standing.source = task.data
                standing.data = self._desk.observer.protect(task, task.data)
            except Exception as exc:
                if standing.ended:
                    # what it takes to protect it may have gone with the task
                    return None
                self._desk.fail(standing, exc, "its data cannot be protected from changes", fl_ctx)
        return standing.data

    def _dispatch(self, choice: Choice) -> Assignment:
        """It goes out now. Under the lock."""
        desk, standing, task = self._desk, choice.standing, choice.standing.task
        desk.board.sent(choice, desk.clock())
        if standing.schedule.kind is TaskKind.RELAY:
            desk.touch(standing)
        data = standing.data if standing.data is not None and standing.shared else task.data
        return Assignment(task.name, choice.client_task.id, data, task.operator, task.msg_root_id, task.timeout)


def _mark_resend(fl_ctx: FLContext) -> None:
    fl_ctx.set_prop(FLContextKey.IS_CLIENT_TASK_RESEND, True, private=True, sticky=False)


def _unpack(parcel: Assignment) -> TaskReply:
    """What the client gets: the data with headers of its own."""
    data = make_copy(parcel.data)
    if parcel.operator:
        data.set_header(ReservedHeaderKey.TASK_OPERATOR, parcel.operator)
    data.set_header(ReservedHeaderKey.TASK_ID, parcel.task_id)
    data.set_header(ReservedHeaderKey.MSG_ROOT_ID, parcel.msg_root_id)
    data.set_header(ReservedHeaderKey.MSG_ROOT_TTL, parcel.timeout)
    return parcel.task_name, parcel.task_id, data
