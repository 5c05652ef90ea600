"""``TaskLifecycle``: the parts of a communicator share it: registry and lock, callbacks, and how a task ends.

Locks. ``lock`` is held for bookkeeping only, never while user code or the observer runs. A task's callbacks run under
its callback lock alone. So a callback may schedule, cancel and wait for other tasks, and one that never returns blocks
only the other callbacks of the same task; those who wait for them give up when the task ends.

The end of a task. The registry closes it, once. A thread of the pool tells the observer, waits for the callback that
may still run, calls task_done_cb, and then releases those who wait for the task.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Set
from dataclasses import InitVar, dataclass, field
from typing import Any, Final, NamedTuple

from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, Task, TaskCompletionStatus

from .callbacks import Callbacks
from .comm_observer import CommObserver
from .scheduling import StandingTask, TaskKind
from .task_registry import Ended, TaskRegistry

#: Seconds between two polls of an abort signal that cannot call back (one of NVFlare's own).
_SIGNAL_POLL_SECONDS: Final = 0.5


class Assignment(NamedTuple):
    """A task to send to a client."""

    task_name: str
    task_id: str
    data: Shareable
    operator: dict[str, Any] | None
    msg_root_id: str
    timeout: int


@dataclass(slots=True, eq=False)
class TaskLifecycle:
    """See the module's docstring."""

    #: logs and fires events
    component: FLComponent
    #: the current time, in seconds since the epoch
    clock: Callable[[], float]
    #: seconds after which a running callback is warned of, and a stuck one no longer holds up those who wait for the
    #: end of its task
    callback_limit: InitVar[float]
    #: wakes the monitor
    wake: Callable[[], None]
    callbacks: Callbacks = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    registry: TaskRegistry = field(default_factory=TaskRegistry, init=False)
    observer: CommObserver = field(default_factory=CommObserver, init=False)
    pool: ElasticThreadPool = field(default_factory=lambda: ElasticThreadPool("redflare-workflow"), init=False)
    engine: Any = field(default=None, init=False)
    #: Tasks that the monitor must check. Needs the lock.
    changed: set[StandingTask] = field(default_factory=set, init=False)
    #: The run is over: nothing more is scheduled or handed out.
    closed: bool = field(default=False, init=False)

    def __post_init__(self, callback_limit: float) -> None:
        self.callbacks = Callbacks(self.clock, callback_limit)

    def new_context(self) -> FLContext:
        """Make a context for a callback."""
        context = FLContext() if self.engine is None else self.engine.new_context()
        assert isinstance(context, FLContext)
        return context

    # -- observer and monitor ------------------------------------------------------------------------------------------

    def may_ask(self, names: Set[str] | None) -> None:
        """Tell the observer that these clients may ask; its exceptions are logged."""
        if names is not None and not names:
            return
        try:
            self.observer.may_ask(names)
        except Exception:
            self.component.logger.exception(
                "the observer failed to hear that %s may ask for tasks", names or "all clients"
            )

    def touch(self, standing: StandingTask) -> None:
        """Have the monitor check a task. Needs the lock."""
        self.changed.add(standing)
        self.wake()

    # -- callbacks -----------------------------------------------------------------------------------------------------

    def call(self, kind: str, standing: StandingTask, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Run one callback of a ClientTask, under the callback lock; an exception ends the task with ERROR."""
        task = standing.task
        fn = getattr(task, kind)
        if fn is None:
            return
        try:
            self.callbacks.run(kind, fn, task, client_task, client_task=client_task, fl_ctx=fl_ctx)
        except Exception as exc:
            self.fail(standing, exc, f"{kind} failed for client {client_task.client.name} ({client_task.id})", fl_ctx)
        except BaseException:
            self.end(standing, TaskCompletionStatus.ERROR)
            raise

    def fail(self, standing: StandingTask, exc: Exception, what: str, fl_ctx: FLContext | None) -> None:
        """End a task with ERROR; call it while the exception is being handled."""
        self.component.log_exception(fl_ctx, f"task {standing.task.name!r}: {what}: {type(exc).__name__}: {exc}")
        self._end_with(standing, exc)

    def end_if_final(self, standing: StandingTask) -> None:
        """End a task whose completion_status one of its callbacks has set."""
        status = standing.task.completion_status
        if status is not None and not standing.ended:
            self.end(standing, status)

    def apply_choices(self) -> None:
        """End the tasks whose manager failed while the registry chose, and wake the clients it freed."""
        with self.lock:
            broken, self.registry.broken = self.registry.broken, []
            freed, self.registry.freed = self.registry.freed, set()
        for standing, exc in broken:
            self.fail_manager(standing, exc)
        self.may_ask(freed)

    def fail_manager(self, standing: StandingTask, exc: Exception) -> None:
        """End a task with ERROR, because its manager raised."""
        self.component.logger.error(
            "task %r ends: its manager %r failed", standing.task.name, standing.manager, exc_info=exc
        )
        self._end_with(standing, exc)

    def _end_with(self, standing: StandingTask, exc: Exception) -> None:
        if standing.task.exception is None:
            standing.task.exception = exc
        self.end(standing, TaskCompletionStatus.ERROR)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def end(self, standing: StandingTask, status: TaskCompletionStatus) -> None:
        """End a task; does nothing if it has ended."""
        with self.lock:
            ended = self.registry.end(standing, status)
        if ended is not None:
            self.finish([ended])

    def finish(self, endings: Iterable[Ended]) -> None:
        """Run in the pool all that follows the end of tasks."""
        plain = []
        for ended in endings:
            lock = ended.standing.callback_lock
            lock.close()
            # once it is closed and free, no callback can begin
            if ended.standing.task.task_done_cb is None and not lock.held:
                plain.append(ended)
            else:
                self._submit([ended])
        if plain:
            self._submit(plain)

    def _submit(self, endings: list[Ended]) -> None:
        def work() -> None:
            for ended in endings:
                self._finish(ended)

        if not self.pool.submit(work):
            work()

    def _finish(self, ended: Ended) -> None:
        standing, task = ended.standing, ended.standing.task
        try:
            try:
                self.observer.ended(task, ended.unanswered)
            except Exception:
                self.component.logger.exception("the observer failed to hear that task %r has ended", task.name)
            self.may_ask(ended.freed)
            with self.new_context() as fl_ctx:
                if standing.schedule.kind is not TaskKind.SEND:
                    self.component.log_info(fl_ctx, f"task {task.name!r} ended: {task.completion_status}")
                self._done(standing, fl_ctx)
        finally:
            with self.lock:
                self.registry.forget(standing)

    def _done(self, standing: StandingTask, fl_ctx: FLContext) -> None:
        """Wait until no other callback of the task runs, and call its task_done_cb."""
        task = standing.task
        if not standing.callback_lock.acquire(timeout=self.callbacks.limit):
            self.component.log_error(
                fl_ctx,
                f"task {task.name!r} ended {self.callbacks.limit:g} s ago and one of its callbacks has not returned: "
                "wait_for_task returns now, and its task_done_cb, if any, is called when that callback returns",
            )
            with self.lock:
                standing.release_waiters()
            standing.callback_lock.acquire()
        try:
            fn = task.task_done_cb
            if fn is not None:
                self.callbacks.run("task_done_cb", fn, task, None, task=task, fl_ctx=fl_ctx)
        except Exception as exc:
            self.component.log_exception(fl_ctx, f"task_done_cb of task {task.name!r} failed: {exc}")
            task.completion_status = TaskCompletionStatus.ERROR
            task.exception = exc
        finally:
            standing.callback_lock.release()

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait(self, task: Task, abort_signal: Signal | None) -> None:
        """Wait until a task is finished; the signal ends it with ABORTED.

        Raises:
            ValueError: the task was never scheduled.
            RuntimeError: a callback of the task would wait for itself.
        """
        waiter = threading.Event()
        with self.lock:
            standing = self.registry.by_task.get(task)
            if standing is None:
                if task.schedule_time is None:
                    raise ValueError(f"task {task.name!r} was never scheduled: nobody will ever finish it")
                return
            if standing.finished:
                return
            if standing.callback_lock.held_by_me:
                raise RuntimeError(
                    f"a callback of task {task.name!r} cannot wait for the task: it would wait for itself"
                )
            standing.waiters.append(waiter)
        if abort_signal is None:
            waiter.wait()
        elif hasattr(abort_signal, "add_callback"):
            with abort_signal.add_callback(waiter.set):
                waiter.wait()
        else:
            while not waiter.wait(_SIGNAL_POLL_SECONDS) and not abort_signal.triggered:
                pass
        if abort_signal is not None and abort_signal.triggered:
            self.end(standing, TaskCompletionStatus.ABORTED)
