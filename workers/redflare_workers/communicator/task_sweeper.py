"""``TaskSweeper``: what the monitor does: clients that are gone, the job's policy, tasks that are done or due."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import partial
from math import inf
from typing import Any, Final

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.task import TaskCompletionStatus

from .dead_clients import DeadClients
from .job_policy import violation
from .scheduling import TaskKind
from .standing_task import StandingTask
from .task_lifecycle import TaskLifecycle
from .task_registry import Ended

#: Seconds that it waits at least, so that no clock can make it spin.
_LEAST_PAUSE: Final = 0.0005


class TaskSweeper:
    """Looks at what has changed or is due, and once in each period at everything.

    Args:
        desk: whose tasks.
        dead: the watch list of clients.
        lead_time: seconds after its scheduling in which a task is not ended because its clients are gone.
        period: seconds between two looks at everything, while there is anything.
    """

    def __init__(self, desk: TaskLifecycle, dead: DeadClients, lead_time: float, period: Callable[[], float]) -> None:
        self._desk = desk
        self._dead = dead
        self._lead_time = lead_time
        self._period = period
        #: When everything is looked at next, on the monotonic clock: the desk's may be set back.
        self._next_scan = 0.0
        #: The earliest moment at which a task is due.
        self._next_due = inf
        #: How many clients there were, when there were most.
        self._most = 0
        self._panicked = False
        self._policy_failed = False

    def look(self) -> float | None:
        """Do what is to be done; seconds until the next look, None: there is nothing to wait for."""
        now = self._desk.clock()
        scan = time.monotonic() >= self._next_scan
        if scan:
            self._next_scan = time.monotonic() + self._period()
        self._desk.callbacks.warn(now)
        gone = self._look_at_clients(now)
        if self._dead.disconnected and (scan or gone):
            self._look_at_policy()
        self.check(now, everything=bool(gone) or (scan and bool(self._dead.disconnected)), scan=scan)
        return self._pause(now)

    def check(self, now: float, everything: bool, scan: bool = True) -> None:
        """Look at tasks, and end those that are done.

        Args:
            now: the time.
            everything: ask the manager of every task.
            scan: go through all tasks, for those that are due or whose status was set by hand; else only through those
                that have changed.
        """
        desk = self._desk
        endings: list[Ended] = []
        broken: list[tuple[StandingTask, Exception]] = []
        opened: list[StandingTask] = []
        with desk.lock:
            changed, desk.changed = desk.changed, set()
            through = scan or everything or now >= self._next_due
            looked: Iterable[StandingTask] = list(desk.board.standing.values()) if through else changed
            if through:
                self._next_due = inf
            for standing in looked:
                due = now >= standing.due
                if everything or due or standing in changed or standing.task.completion_status is not None:
                    try:
                        status = self._status(standing, now)
                    except Exception as exc:
                        broken.append((standing, exc))
                        continue
                    ended = None if status is None else desk.board.end(standing, status)
                    if ended is not None:
                        endings.append(ended)
                        continue
                    if due:
                        opened.append(standing)
                self._next_due = min(self._next_due, standing.due)
        for standing, error in broken:
            desk.fail_manager(standing, error)
        if endings:
            desk.finish(endings)
        for standing in opened:
            desk.may_ask(None if standing.schedule.dynamic else frozenset(standing.schedule.targets or ()))

    def _status(self, standing: StandingTask, now: float) -> TaskCompletionStatus | None:
        """How a task ends now, or None, and when it is due. Under the lock."""
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
        gone = self._dead.disconnected
        if gone and age >= self._lead_time and _waits_only_for(gone, standing):
            self._desk.logger.warning("task %r waits only for clients that are disconnected: it ends", task.name)
            return TaskCompletionStatus.CLIENT_DEAD
        change = manager.next_change(task, now)
        standing.due = inf if change is None else max(change, now + _LEAST_PAUSE)
        if task.timeout:
            standing.due = min(standing.due, now - age + task.timeout)
        return None

    def _pause(self, now: float) -> float | None:
        desk = self._desk
        if not desk.board.by_task and not len(self._dead) and not len(desk.callbacks):
            return None
        grace_over = self._dead.next_change()
        due = min(self._next_due, inf if grace_over is None else grace_over) - now
        return min(max(min(due, self._next_scan - time.monotonic()), _LEAST_PAUSE), self._period())

    # -- clients -------------------------------------------------------------------------------------------------------

    def _look_at_clients(self, now: float) -> list[str]:
        """Tell of those that are disconnected from now on."""
        gone = self._dead.look(now) if len(self._dead) else []
        for name in gone:
            self._desk.logger.error("client %s is deemed disconnected", name)
            # not here: handlers may take their time
            self._desk.pool.submit(partial(self._tell_of, name))
        return gone

    def _tell_of(self, name: str) -> None:
        """Fire the event that a client is disconnected."""
        try:
            with self._desk.new_context() as fl_ctx:
                fl_ctx.set_prop(FLContextKey.DISCONNECTED_CLIENT_NAME, name, private=True, sticky=False)
                self._desk.component.fire_event(EventType.CLIENT_DISCONNECTED, fl_ctx)
        except Exception:
            self._desk.logger.exception("the event that client %s is disconnected could not be handled", name)

    def _look_at_policy(self) -> None:
        """Panic, once, if the job cannot go on with the clients that are left."""
        if self._desk.engine is None or self._panicked:
            return
        try:
            self._check_policy(self._desk.engine)
        except Exception:
            # the tasks are looked at all the same, and the policy again at the next look
            if not self._policy_failed:
                self._desk.logger.exception("the job's policy could not be checked")
            self._policy_failed = True

    def _check_policy(self, engine: Any) -> None:
        with self._desk.new_context() as fl_ctx:
            joined = [client.name for client in engine.get_clients()]
            self._most = max(self._most, len(joined))
            meta = fl_ctx.get_prop(FLContextKey.JOB_META)
            why = violation(joined, self._dead.disconnected, meta if isinstance(meta, Mapping) else {}, self._most)
        if why:
            self._panicked = True
            self._desk.pool.submit(partial(self._panic, why))

    def _panic(self, why: str) -> None:
        with self._desk.new_context() as fl_ctx:
            self._desk.component.log_error(fl_ctx, why)
            self._desk.component.system_panic(f"Aborting job due to deployment policy violation: {why}", fl_ctx)


def _waits_only_for(gone: Set[str], standing: StandingTask) -> bool:
    """Whether there are targets without an answer, and all of them are gone."""
    # it ends with the first that is there: most tasks wait for somebody who is
    first = next(unanswered := _unanswered(standing), None)
    return first is not None and first in gone and all(name in gone for name in unanswered)


def _unanswered(standing: StandingTask) -> Iterator[str]:
    """Targets whose answer is missing; in a relay, those that have not answered as often as they are named."""
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
