"""``Monitor`` and ``TaskSweeper``: the thread that watches open tasks, and the rules that it applies to them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, Final

from redflare_broker.util import humanize

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.task import TaskCompletionStatus

from .dead_clients import DeadClients, violation
from .scheduling import StandingTask, TaskKind
from .task_lifecycle import TaskLifecycle
from .task_registry import Ended

logger = logging.getLogger(__name__)

#: Seconds until the next sweep after one that failed.
_AFTER_FAILURE: Final = 0.2
#: A wait that took so many seconds more than it was meant to: this process was stopped, or its machine slept.
_LATE: Final = 0.25
#: Seconds between the end of such a wait and the next sweep, for what has come meanwhile.
_FRESH: Final = 1.0
#: Clients that a message names before the rest is counted.
_NAMED: Final = 5


class Monitor:
    """Calls a sweep in one thread, of that name, when something changed and when something is due.

    Nothing is judged before a fresh look after a pause of one's own: the sweep then comes a moment later, when results
    that have come meanwhile are in.

    Args:
        clock: seconds, as the deadlines of tasks; goes on while the machine sleeps.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.time) -> None:
        self._name = name
        self._clock = clock
        self._changed = threading.Condition(threading.Lock())
        self._woken = False
        #: Until when it waits, on the monotonic clock; without end, and while it sweeps: inf.
        self._until = inf
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, sweep: Callable[[], float | None]) -> None:
        """Begin to sweep.

        Args:
            sweep: returns the seconds until its next call at the latest; None: not before ``wake``. What it raises is
                logged, and it is called again soon.

        Raises:
            RuntimeError: the monitor was started before.
        """
        if self._thread is not None:
            raise RuntimeError(f"{self._name} was started already; make a new monitor")
        self._thread = threading.Thread(target=self._run, args=(sweep,), name=self._name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Ask for a sweep soon, because something changed."""
        # read without the lock: the thread that set it has notified, and the sweep that follows has not begun
        if self._woken:
            return
        with self._changed:
            self._woken = True
            self._changed.notify()

    def wake_within(self, seconds: float) -> None:
        """Ask for a sweep in so many seconds at the latest; nothing is done if one is due by then."""
        if time.monotonic() + seconds < self._until:
            self.wake()

    def stop(self, timeout: float = 10.0) -> bool:
        """End the thread, itself after this sweep; return False if it is still busy after ``timeout`` seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self, sweep: Callable[[], float | None]) -> None:
        pause: float | None = 0.0
        while self._wait(pause):
            try:
                pause = sweep()
            except Exception:
                logger.exception("%s: a sweep of the open tasks failed, the next one follows", self._name)
                pause = _AFTER_FAILURE

    def _wait(self, pause: float | None) -> bool:
        """Wait until it is woken or the pause is over; return False when the thread must end."""
        with self._changed:
            if pause != 0.0:
                self._until = inf if pause is None else time.monotonic() + pause
                began = self._clock()
                self._changed.wait_for(lambda: self._woken or self._stopped, pause)
                if pause is not None and (late := self._clock() - began - pause) > _LATE:
                    logger.info("%s: woke up %.1f s late; deadlines are judged in %g s", self._name, late, _FRESH)
                    self._changed.wait_for(lambda: self._stopped, _FRESH)
            self._woken, self._until = False, inf
            return not self._stopped


#: Shortest pause in seconds, so that no clock can make it spin.
_LEAST_PAUSE: Final = 0.0005


@dataclass(eq=False)
class TaskSweeper:
    """Ends tasks that are done or due, and reports clients that are gone; checks everything once in each period."""

    lifecycle: TaskLifecycle
    #: the watch list of clients
    dead: DeadClients
    #: seconds after its scheduling in which a task is not ended because its clients are gone
    lead_time: float
    #: seconds between two checks of everything, while any task is open
    period: Callable[[], float]
    #: asks for a sweep in so many seconds at the latest
    wake_within: Callable[[float], None]
    #: When everything is checked next, on the monotonic clock: the lifecycle's may be set back.
    _next_scan: float = field(default=0.0, init=False)
    #: The earliest moment at which a task is due.
    _next_due: float = field(default=inf, init=False)
    #: The largest number of clients so far.
    _most: int = field(default=0, init=False)
    _panicked: bool = field(default=False, init=False)
    _policy_failed: bool = field(default=False, init=False)

    def sweep(self) -> float | None:
        """Apply all rules; return the seconds until the next sweep, None when nothing can become due."""
        now = self.lifecycle.clock()
        scan = time.monotonic() >= self._next_scan
        if scan:
            self._next_scan = time.monotonic() + self.period()
        self.lifecycle.callbacks.warn(now)
        gone = self._report_disconnected(now)
        if self.dead.disconnected and (scan or gone):
            self._enforce_policy()
        self.check(now, everything=bool(gone) or (scan and bool(self.dead.disconnected)), scan=scan)
        return self._pause(now)

    def watch(self, standing: StandingTask) -> None:
        """Note when a task that was just scheduled is due. Needs the lock.

        The next sweep comes in time for it; it comes now if the task is done already, or its manager fails.
        """
        now = self.lifecycle.clock()
        try:
            done = self._status(standing, now) is not None
        except Exception:
            done = True
        if done:
            self.lifecycle.touch(standing)
        else:
            self._next_due = min(self._next_due, standing.due)
            # what is open is checked once in each period
            self.wake_within(min(standing.due - now, self.period()))

    def check(self, now: float, everything: bool, scan: bool = True) -> None:
        """Check tasks, and end those that are done.

        Args:
            everything: ask the manager of every task.
            scan: go through all tasks, for those that are due or whose status was set by hand; else only through those
                that have changed.
        """
        lifecycle = self.lifecycle
        joined = self._joined() if scan or everything else None
        endings: list[Ended] = []
        broken: list[tuple[StandingTask, Exception]] = []
        opened: list[StandingTask] = []
        with lifecycle.lock:
            changed, lifecycle.changed = lifecycle.changed, set()
            through = scan or everything or now >= self._next_due
            checked: Iterable[StandingTask] = list(lifecycle.registry.standing_tasks.values()) if through else changed
            if through:
                self._next_due = inf
            for standing in checked:
                due = now >= standing.due
                if (scan or everything) and self._note_absent(standing, joined, now):
                    # who was behind an absent one may get it now
                    opened.append(standing)
                    changed.add(standing)
                if everything or due or standing in changed or standing.task.completion_status is not None:
                    try:
                        status = self._status(standing, now)
                    except Exception as exc:
                        broken.append((standing, exc))
                        continue
                    ended = None if status is None else lifecycle.registry.end(standing, status)
                    if ended is not None:
                        endings.append(ended)
                        continue
                    if due and standing not in opened:
                        opened.append(standing)
                self._next_due = min(self._next_due, standing.due)
        for standing, error in broken:
            lifecycle.fail_manager(standing, error)
        if endings:
            lifecycle.finish(endings)
        for standing in opened:
            lifecycle.may_ask(None if standing.schedule.dynamic else frozenset(standing.schedule.targets or ()))

    def _status(self, standing: StandingTask, now: float) -> TaskCompletionStatus | None:
        """Return the status with which a task ends now, or None and note when it is due. Needs the lock."""
        task, manager = standing.task, standing.manager
        if standing.ended or task.completion_status is not None:
            return task.completion_status
        age = now - (task.schedule_time or now)
        # a relay whose result is being handled is not to be judged by the time at which that will have been done
        if not (standing.receiving and standing.schedule.kind is TaskKind.RELAY):
            done, status = manager.check_task_exit(task, now)
            if done:
                return status or TaskCompletionStatus.OK
        if task.timeout and age >= task.timeout:
            return TaskCompletionStatus.TIMEOUT
        gone = task.absent
        if gone and age >= self.lead_time and _waits_only_for(gone, standing):
            names = humanize.first(sorted(gone), _NAMED)
            logger.warning(
                "task %r ends with CLIENT_DEAD: all it waits for are disconnected or have not joined: %s",
                task.name,
                names,
            )
            return TaskCompletionStatus.CLIENT_DEAD
        change = manager.next_change(task, now)
        standing.due = inf if change is None else max(change, now + _LEAST_PAUSE)
        if task.timeout:
            standing.due = min(standing.due, now - age + task.timeout)
        return None

    def _joined(self) -> frozenset[str] | None:
        """Names of the clients that have joined; None: that is not known."""
        engine = self.lifecycle.engine
        return None if engine is None else frozenset(client.name for client in engine.get_clients())

    def _note_absent(self, standing: StandingTask, joined: frozenset[str] | None, now: float) -> bool:
        """Note the targets for whose turn nobody waits; return whether they are others. Needs the lock."""
        task, disconnected = standing.task, self.dead.disconnected
        age = self.dead.judged_at(now) - (task.schedule_time or now)
        may_miss = joined is not None and standing.schedule.targets is not None and age >= self.dead.grace
        if not (disconnected or task.absent or may_miss):
            return False
        targets = frozenset(task.targets or ())
        absent = targets & disconnected
        if joined is not None and may_miss:
            absent |= targets - joined
        if absent == task.absent:
            return False
        if fresh := sorted(absent - task.absent):
            logger.warning("task %r waits no longer for %s", task.name, humanize.first(fresh, _NAMED))
        task.absent = absent
        return True

    def _pause(self, now: float) -> float | None:
        lifecycle = self.lifecycle
        if not lifecycle.registry.by_task and not len(self.dead) and not len(lifecycle.callbacks):
            return None
        grace_over = self.dead.next_change(now)
        due = min(self._next_due, inf if grace_over is None else grace_over) - now
        return min(max(min(due, self._next_scan - time.monotonic()), _LEAST_PAUSE), self.period())

    # -- clients -------------------------------------------------------------------------------------------------------

    def _report_disconnected(self, now: float) -> list[str]:
        """Fire the event for clients that count as disconnected from now on; return their names."""
        gone = self.dead.expire(now) if len(self.dead) else []
        for name in gone:
            logger.error("client %s is disconnected: no sign of it within the grace period", name)
            # in another thread: handlers may take their time
            self.lifecycle.pool.submit(partial(self._fire_disconnected, name))
        return gone

    def _fire_disconnected(self, name: str) -> None:
        """Fire the event that a client is disconnected."""
        try:
            with self.lifecycle.new_context() as fl_ctx:
                fl_ctx.set_prop(FLContextKey.DISCONNECTED_CLIENT_NAME, name, private=True, sticky=False)
                self.lifecycle.component.fire_event(EventType.CLIENT_DISCONNECTED, fl_ctx)
        except Exception:
            logger.exception("a handler failed on the event that client %s is disconnected", name)

    def _enforce_policy(self) -> None:
        """Panic, once, if the job cannot go on with the clients that are left."""
        if self.lifecycle.engine is None or self._panicked:
            return
        try:
            self._check_policy(self.lifecycle.engine)
        except Exception:
            # tasks are checked all the same, and the policy again in the next sweep
            if not self._policy_failed:
                logger.exception("the job's minimum of clients could not be checked, the next sweep tries again")
            self._policy_failed = True

    def _check_policy(self, engine: Any) -> None:
        with self.lifecycle.new_context() as fl_ctx:
            joined = [client.name for client in engine.get_clients()]
            self._most = max(self._most, len(joined))
            meta = fl_ctx.get_prop(FLContextKey.JOB_META)
            why = violation(joined, self.dead.disconnected, meta if isinstance(meta, Mapping) else {}, self._most)
        if why:
            self._panicked = True
            self.lifecycle.pool.submit(partial(self._panic, why))

    def _panic(self, why: str) -> None:
        with self.lifecycle.new_context() as fl_ctx:
            self.lifecycle.component.log_error(fl_ctx, why)
            self.lifecycle.component.system_panic(f"Aborting job due to deployment policy violation: {why}", fl_ctx)


def _waits_only_for(gone: Set[str], standing: StandingTask) -> bool:
    """Whether targets have not answered, and all of these are gone."""
    # it stops at the first that is present: most tasks wait for one that is
    first = next(unanswered := _unanswered(standing), None)
    return first is not None and first in gone and all(name in gone for name in unanswered)


def _unanswered(standing: StandingTask) -> Iterator[str]:
    """Targets without an answer; in a relay, those that have not answered as often as they are named."""
    task = standing.task
    targets = task.targets or []
    if standing.schedule.kind is TaskKind.RELAY:
        answers = Counter(sent.client.name for sent in task.client_tasks if sent.result_received_time is not None)
        yield from Counter(targets) - answers
        return
    newest = task.last_client_task_map
    for name in targets:
        if name not in newest or newest[name].result_received_time is None:
            yield name
