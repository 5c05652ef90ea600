"""``WFCommServer``: hands a controller's tasks to clients and brings back the results.

It knows no transport: the server job calls ``process_task_request`` and ``process_submission`` from any thread, and
learns through a ``CommObserver`` when asking again may succeed. Names and arguments are NVFlare's. The parts:

    scheduling           the arguments of a task, and the task while it is open
    task_registry        all open tasks, which client may get which (bookkeeping)
    managers/            who may have a task now, is it done (decisions)
    client_requests      a client asks for a task, or submits a result
    task_sweeper         time passes: timeouts, and clients that are gone (dead_clients)
    task_lifecycle       the lock, callbacks, and how a task ends
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from redflare_workers.apis.client import Client
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.scheduling_spec import Targets
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, SendOrder, Task, TaskCompletionStatus
from redflare_workers.apis.wf_comm_spec import WFCommSpec

from .client_requests import Submissions, TaskRequests
from .comm_observer import CommObserver
from .dead_clients import DeadClients
from .managers.relay import AnyRelayTaskManager, SequentialRelayTaskManager
from .managers.simple import BcastForeverTaskManager, BcastTaskManager, SendTaskManager
from .managers.task_manager import TaskManager
from .scheduling import (
    Schedule,
    broadcast_schedule,
    check_request,
    forever_schedule,
    relay_schedule,
    send_schedule,
)
from .task_lifecycle import TaskLifecycle
from .task_registry import SubmissionCheck
from .task_sweeper import Monitor, TaskSweeper


class WFCommServer(FLComponent, WFCommSpec):
    """The server's side of all tasks of one run; thread-safe.

    Args:
        task_check_period: longest time in seconds between two checks of all open tasks. Changes are checked at once.
        clock: seconds since the epoch.
        dead_client_grace_period: seconds that a client which was reported dead has to come back, and that a target
            which has not joined is waited for.
        dead_client_check_lead_time: seconds after its scheduling in which a task waits for disconnected clients.
        callback_limit: seconds after which a callback that has not returned is warned of.
    """

    def __init__(
        self,
        task_check_period: float = 0.2,
        *,
        clock: Callable[[], float] = time.time,
        dead_client_grace_period: float = 60.0,
        dead_client_check_lead_time: float = 30.0,
        callback_limit: float = 60.0,
    ) -> None:
        super().__init__()
        self.task_check_period = task_check_period
        self._clock = clock
        self._monitor = Monitor("redflare-task-monitor")
        self._lifecycle = TaskLifecycle(self, clock, callback_limit, self._monitor.wake)
        self._requests = TaskRequests(self._lifecycle)
        self._submissions = Submissions(self._lifecycle)
        self._dead = DeadClients(dead_client_grace_period)
        self._sweeper = TaskSweeper(
            self._lifecycle,
            self._dead,
            dead_client_check_lead_time,
            lambda: self.task_check_period,
            self._monitor.wake_within,
        )
        self._initialized = False

    def __repr__(self) -> str:
        return (
            f"<WFCommServer with {self.get_num_standing_tasks()} standing tasks{', closed' * self._lifecycle.closed}>"
        )

    @property
    def observer(self) -> CommObserver:
        """The observer of task events."""
        return self._lifecycle.observer

    @observer.setter
    def observer(self, observer: CommObserver) -> None:
        self._lifecycle.observer = observer

    @property
    def grace_period(self) -> float:
        """Seconds for which a client is waited for that is away."""
        return self._dead.grace

    # -- the run -------------------------------------------------------------------------------------------------------

    def initialize_run(self, fl_ctx: FLContext) -> None:
        """Begin to watch tasks; without an engine and a job id in the context, panic.

        Raises:
            RuntimeError: it was initialized already.
        """
        engine = fl_ctx.get_engine()
        if engine is None:
            self.system_panic(f"{self.name} needs an engine, and the context has none", fl_ctx)
            return
        if not fl_ctx.get_job_id():
            self.system_panic(f"{self.name} needs the id of a job, and the context has none", fl_ctx)
            return
        if self._initialized:
            raise RuntimeError(f"{self.name} was initialized already; make a new one for each run")
        self._initialized = True
        self._lifecycle.engine = engine
        self._monitor.start(self._sweeper.sweep)

    def finalize_run(self, fl_ctx: FLContext) -> None:
        """End all tasks with CANCELLED, wait for their callbacks, and stop. A second call has no effect."""
        with self._lifecycle.lock:
            if self._lifecycle.closed:
                return
            self._lifecycle.closed = True
        self.cancel_all_tasks(fl_ctx=fl_ctx)
        # first the thread that can end tasks, then those that run what follows an end
        self._monitor.stop()
        busy = self._lifecycle.pool.close()
        if busy:
            self.log_warning(fl_ctx, f"the run ends although callbacks have not returned: {', '.join(busy)}")

    # -- scheduling ----------------------------------------------------------------------------------------------------
    # as SchedulingSpec, where they are documented

    def broadcast(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        min_responses: int = 0,
        wait_time_after_min_received: int = 0,
    ) -> None:
        """As ``SchedulingSpec``. Clients whose before_task_sent_cb leaves the data as it is share one copy."""
        schedule = broadcast_schedule(task, fl_ctx, targets, min_responses, wait_time_after_min_received)
        self._schedule(task, fl_ctx, BcastTaskManager(min_responses, wait_time_after_min_received), schedule)

    def broadcast_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        min_responses: int = 0,
        wait_time_after_min_received: int = 0,
        abort_signal: Signal | None = None,
    ) -> tuple[TaskCompletionStatus | None, dict[str, Any]]:
        self.broadcast(task, fl_ctx, targets, min_responses, wait_time_after_min_received)
        self.wait_for_task(task, abort_signal)
        return task.completion_status, {each.client.name: each.result for each in task.client_tasks}

    def broadcast_forever(self, task: Task, fl_ctx: FLContext, targets: Targets = None) -> None:
        """As ``SchedulingSpec``. Clients whose before_task_sent_cb leaves the data as it is share one copy.

        Data that replaces ``task.data`` later is sent from then on as it is: do not change it, replace it.
        """
        schedule = forever_schedule(task, fl_ctx, targets)
        self._schedule(task, fl_ctx, BcastForeverTaskManager(), schedule)

    def send(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: int = 0,
    ) -> None:
        schedule = send_schedule(task, fl_ctx, targets, send_order, task_assignment_timeout)
        self._schedule(task, fl_ctx, SendTaskManager(send_order, task_assignment_timeout), schedule)

    def send_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        send_order: SendOrder = SendOrder.SEQUENTIAL,
        task_assignment_timeout: int = 0,
        abort_signal: Signal | None = None,
    ) -> tuple[TaskCompletionStatus | None, Any]:
        self.send(task, fl_ctx, targets, send_order, task_assignment_timeout)
        self.wait_for_task(task, abort_signal)
        return task.completion_status, _last_result(task)

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
        schedule = relay_schedule(
            task, fl_ctx, targets, send_order, task_assignment_timeout, task_result_timeout, dynamic_targets
        )
        manager: TaskManager
        if send_order is SendOrder.SEQUENTIAL:
            manager = SequentialRelayTaskManager(task_assignment_timeout, task_result_timeout, dynamic_targets)
        else:
            manager = AnyRelayTaskManager(task_result_timeout, dynamic_targets)
        self._schedule(task, fl_ctx, manager, schedule)

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
        self.relay(task, fl_ctx, targets, send_order, task_assignment_timeout, task_result_timeout, dynamic_targets)
        self.wait_for_task(task, abort_signal)
        return task.completion_status, _last_result(task)

    def _schedule(self, task: Task, fl_ctx: FLContext, manager: TaskManager, schedule: Schedule) -> None:
        lifecycle = self._lifecycle
        if lifecycle.engine is None:
            lifecycle.engine = fl_ctx.get_engine()
        everybody = schedule.targets is None and lifecycle.engine is not None
        present = [client.name for client in lifecycle.engine.get_clients()] if everybody else ()
        with lifecycle.lock:
            standing = lifecycle.registry.add(task, manager, schedule, present, self._clock())
            closed = lifecycle.closed
        adopted: list[ClientTask] = []
        if not closed:
            try:
                adopted = lifecycle.observer.scheduled(task)
                _check_adopted(task, adopted)
            except BaseException:
                with lifecycle.lock:
                    lifecycle.registry.discard(standing)
                raise
        with lifecycle.lock:
            closed = lifecycle.closed
            if closed:
                task.completion_status = TaskCompletionStatus.CANCELLED
                lifecycle.registry.forget(standing)
            else:
                lifecycle.registry.publish(standing, adopted)
        if closed:
            self.log_info(fl_ctx, f"task {task.name!r} is cancelled, not scheduled: the run is over")
            return
        lifecycle.may_ask(None if schedule.dynamic else frozenset(schedule.targets or ()))
        # clients first: checking the task can wait
        with lifecycle.lock:
            self._sweeper.watch(standing)
        self.logger.debug("task %r scheduled: %s", task.name, schedule)

    def schedule_of(self, task: Task) -> Schedule | None:
        """The schedule of a task, also while the observer hears of it; None: it was not scheduled, or is finished."""
        standing = self._lifecycle.registry.by_task.get(task)
        return None if standing is None else standing.schedule

    def protect_again(self, task: Task) -> None:
        """Make a new copy of a broadcast's data for the next client, because the protected one is lost."""
        with self._lifecycle.lock:
            standing = self._lifecycle.registry.by_task.get(task)
            if standing is not None:
                standing.data = None

    # -- open tasks ----------------------------------------------------------------------------------------------------

    def wait_for_task(self, task: Task, abort_signal: Signal | None = None) -> None:
        """Wait until a task has ended and its task_done_cb has run; the abort signal ends it with ABORTED.

        If a callback keeps task_done_cb from running for long after the end, the wait is over without it.

        Raises:
            ValueError: the task was never scheduled.
            RuntimeError: a callback of the task would wait for itself.
        """
        self._lifecycle.wait(task, abort_signal)

    def get_num_standing_tasks(self) -> int:
        return len(self._lifecycle.registry.standing_tasks)

    def cancel_task(
        self,
        task: Task,
        completion_status: TaskCompletionStatus = TaskCompletionStatus.CANCELLED,
        fl_ctx: FLContext | None = None,
    ) -> None:
        standing = self._lifecycle.registry.by_task.get(task)
        if standing is not None:
            self._lifecycle.end(standing, completion_status)

    def cancel_all_tasks(
        self,
        completion_status: TaskCompletionStatus = TaskCompletionStatus.CANCELLED,
        fl_ctx: FLContext | None = None,
    ) -> None:
        """End all tasks that are open now."""
        with self._lifecycle.lock:
            standing = list(self._lifecycle.registry.standing_tasks.values())
        for one in standing:
            self._lifecycle.end(one, completion_status)

    def check_tasks(self) -> None:
        """Check all tasks now, and end those that are done."""
        self._sweeper.check(self._clock(), everything=True)

    # -- clients' requests ---------------------------------------------------------------------------------------------

    def process_task_request(self, client: Client, fl_ctx: FLContext) -> tuple[str, str, Shareable | None]:
        """See ``WFCommSpec``. A task that the client has and did not answer comes first.

        Raises:
            TypeError: an argument is of the wrong type.
        """
        check_request(client, fl_ctx)
        return self._requests.answer(client, fl_ctx)

    def handle_exception(self, task_id: str, fl_ctx: FLContext) -> None:
        """Cancel the task of that ClientTask, because it could not be sent."""
        client_task = self.process_task_check(task_id, fl_ctx)
        if client_task is not None:
            self.log_error(fl_ctx, f"{client_task} could not be sent: the task is cancelled")
            self.cancel_task(client_task.task, fl_ctx=fl_ctx)

    def process_task_check(self, task_id: str, fl_ctx: FLContext) -> ClientTask | None:
        """Return the ClientTask of that id, if its task is open."""
        return self._lifecycle.registry.find(task_id)

    def process_submission(
        self, client: Client, task_name: str, task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """See ``WFCommSpec``.

        Raises:
            TypeError: an argument is of the wrong type, or the headers of the result are.
            ValueError: the task of that id has another name.
        """
        check_request(client, fl_ctx)
        if not isinstance(result, Shareable):
            raise TypeError(f"result must be a Shareable, but is a {type(result).__name__}: {task_name!r} ({task_id})")
        if not isinstance(result.get(ReservedHeaderKey.HEADERS, {}), dict):
            raise TypeError(
                f"the headers of the result of client {client.name} for {task_name!r} ({task_id}) must be a dict"
            )
        check = self._submissions.take(client, task_name, task_id, result, fl_ctx)
        if check is SubmissionCheck.ACCEPT:
            return
        what = f"result of client {client.name} for task {task_name!r} ({task_id})"
        if check is SubmissionCheck.UNKNOWN:
            self._submissions.unknown(client, task_name, task_id, result, fl_ctx)
        elif check is SubmissionCheck.WRONG_NAME:
            raise ValueError(f"{what}: that task has another name")
        elif check is SubmissionCheck.WRONG_CLIENT:
            self.log_warning(fl_ctx, f"{what} dropped: another client has that task")
        else:
            why = "its task has ended" if check is SubmissionCheck.FINISHED else "there is one already"
            self.log_info(fl_ctx, f"{what} dropped: {why}")

    def peek_submission(self, client: Client, task_name: str, task_id: str) -> SubmissionCheck:
        """Check a submission without handling it, so that a large result is not read for nothing."""
        return self._submissions.peek(client, task_name, task_id)

    # -- dead clients --------------------------------------------------------------------------------------------------

    def process_dead_client_report(self, client_name: str, fl_ctx: FLContext) -> None:
        """Watch that client: it is disconnected unless a sign of life comes within the grace period."""
        if self._dead.report(client_name, self._clock()):
            self.log_warning(
                fl_ctx, f"client {client_name} was reported dead; it has {self._dead.grace:g} s to come back"
            )
            self._monitor.wake()

    def clients_were_looked_at(self, ago: float, within: float) -> None:
        """Note that reports and signs of life are complete as of ``ago`` seconds ago.

        From the first call on only a look decides that a client is disconnected, not the time that passes without one.

        Args:
            within: seconds in which there should be a look.
        """
        self._dead.look(self._clock() - ago, within)
        if len(self._dead):
            self._monitor.wake()

    def client_is_active(self, client_name: str, reason: str, fl_ctx: FLContext) -> None:
        """Stop watching that client after a sign of life, and fire CLIENT_RECONNECTED if it was disconnected."""
        watched, disconnected = self._dead.active(client_name)
        if watched:
            self.log_info(fl_ctx, f"client {client_name} is active: {reason}")
        if disconnected:
            self.log_info(fl_ctx, f"client {client_name} is connected again")
            fl_ctx.set_prop(FLContextKey.RECONNECTED_CLIENT_NAME, client_name, private=True, sticky=False)
            self.fire_event(EventType.CLIENT_RECONNECTED, fl_ctx)

    def get_client_disconnect_time(self, client_name: str) -> float | None:
        return self._dead.disconnect_time(client_name)

    # -- resume --------------------------------------------------------------------------------------------------------

    def checkpoint(self, state: dict[str, Any], history: Callable[[int], list[Any]] = lambda start: []) -> None:
        """Have the observer store a controller's state and history; its exceptions reach the caller."""
        self._lifecycle.observer.checkpoint(state, history)


def _check_adopted(task: Task, adopted: list[ClientTask]) -> None:
    for client_task in adopted:
        if not isinstance(client_task, ClientTask) or client_task.task is not task:
            raise ValueError(f"only ClientTasks of {task!r} can be adopted for it, but one is {client_task!r}")


def _last_result(task: Task) -> Any:
    """Return the result that came last, or what its callback has replaced it by; None: none came."""
    answered = [each for each in task.client_tasks if each.result_received_time is not None]
    return sorted(answered, key=attrgetter("result_received_time"))[-1].result if answered else None
