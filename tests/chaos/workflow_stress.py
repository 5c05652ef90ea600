"""Two hundred clients of one communicator, at random: they request tasks, submit results once or twice or for another
client, are reported dead and active again, while callbacks schedule tasks, cancel them, wait for them and fail."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Final

from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, SendOrder, Task
from redflare_workers.communicator.comm_observer import CommObserver
from redflare_workers.communicator.task_registry import SubmissionCheck
from redflare_workers.communicator.wf_comm_server import WFCommServer

from tests.support.communicator.bench import IdleController
from tests.support.communicator.local_engine import LocalEngine

CLIENTS: Final = 200
#: Limit of standing tasks, so that all of them are requested.
MAX_STANDING: Final = 60


class InjectedError(Exception):
    """Raised by a callback at random."""


class TaskCounter(CommObserver):
    """Counts the events of each task, and records violations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.scheduled_tasks: list[Task] = []
        self.ended_tasks: Counter[Task] = Counter()
        #: By name of the callback, how often it began for each task (task_done_cb) or ClientTask.
        self.calls: dict[str, Counter[Any]] = defaultdict(Counter)
        self.problems: list[str] = []
        self._inside: set[Task] = set()

    def scheduled(self, task: Task) -> list[ClientTask]:
        with self._lock:
            self.scheduled_tasks.append(task)
        return []

    def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
        with self._lock:
            self.ended_tasks[task] += 1
            if self.calls["task_done_cb"][task]:
                self.problems.append(f"task_done_cb of {task} ran before the observer was notified of its end")

    def count(self, name: str, task: Task, subject: object, work: Callable[[], None]) -> None:
        """Run the body of a callback."""
        with self._lock:
            self.calls[name][subject] += 1
            if task in self._inside:
                self.problems.append(f"{name} of {task} ran beside another callback of it")
            self._inside.add(task)
        try:
            work()
        finally:
            with self._lock:
                self._inside.discard(task)


class Stress:
    """See the module's docstring.

    Args:
        seed: makes every thread's choices repeatable, not their sequence.
        workers: threads that act for the clients.
    """

    def __init__(self, seed: int, workers: int = 12) -> None:
        self._seed = seed
        self._workers = workers
        self.engine = LocalEngine([f"site-{number}" for number in range(CLIENTS)])
        self.comm = WFCommServer(0.01, dead_client_grace_period=0.05, dead_client_check_lead_time=0.05)
        self.counter = TaskCounter()
        self.comm.observer = self.counter
        controller = IdleController()
        controller.set_communicator(self.comm)
        self._assigned: dict[str, list[tuple[str, str]]] = {f"site-{number}": [] for number in range(CLIENTS)}
        self._recent: list[Task] = []
        self._stopping = threading.Event()
        self.accepted = 0

    def run(self, seconds: float) -> None:
        """Run for that long."""
        ctx = self.engine.new_context()
        self.comm.initialize_run(ctx)
        threads = [
            threading.Thread(target=self._act, args=(random.Random(self._seed + number),))
            for number in range(self._workers)
        ]
        threads += [
            threading.Thread(target=self._control, args=(random.Random(-self._seed - number),)) for number in (1, 2)
        ]
        for thread in threads:
            thread.start()
        self._stopping.wait(seconds)
        self._stopping.set()
        for thread in threads:
            thread.join(60)
            if thread.is_alive():
                self.counter.problems.append(f"{thread.name} is stuck")
        self.comm.finalize_run(ctx)

    # -- clients -------------------------------------------------------------------------------------------------------

    def _act(self, rng: random.Random) -> None:
        names = list(self._assigned)
        try:
            while not self._stopping.is_set():
                name = rng.choice(names)
                action = rng.choices(
                    [self._ask, self._answer, self._submit_for_another, self._report_dead, self._report_active],
                    [50, 42, 2, 2, 4],
                )[0]
                action(name, rng)
        except Exception as exc:
            self.counter.problems.append(f"a client's call failed: {exc!r}")

    def _ask(self, name: str, rng: random.Random) -> None:
        task_name, task_id, data = self.comm.process_task_request(self.engine.join(name), self.engine.new_context())
        if not task_id:
            return
        if data is None or data.get_header("__task_id__") != task_id:
            self.counter.problems.append(f"{name} got other data than that of {task_id}")
        assigned = self._assigned[name]
        if (task_name, task_id) not in assigned:
            assigned.append((task_name, task_id))

    def _answer(self, name: str, rng: random.Random) -> None:
        assigned = self._assigned[name]
        if not assigned:
            return
        task_name, task_id = rng.choice(list(assigned) or [("", "")])
        # kept at random, to be answered again
        if rng.random() < 0.9:
            self._assigned[name] = [each for each in assigned if each[1] != task_id]
        client = self.engine.join(name)
        if self.comm.peek_submission(client, task_name, task_id) is SubmissionCheck.ACCEPT:
            self.accepted += 1
        self.comm.process_submission(client, task_name, task_id, Shareable(), self.engine.new_context())

    def _submit_for_another(self, name: str, rng: random.Random) -> None:
        others = list(self._assigned[rng.choice(list(self._assigned))])
        for task_name, task_id in others:
            client = self.engine.join(name)
            self.comm.process_submission(
                client, task_name, task_id, Shareable({"lie": name}), self.engine.new_context()
            )

    def _report_dead(self, name: str, rng: random.Random) -> None:
        self._assigned[name] = []
        self.comm.process_dead_client_report(name, self.engine.new_context())

    def _report_active(self, name: str, rng: random.Random) -> None:
        self.comm.client_is_active(name, "it is back", self.engine.new_context())

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def _control(self, rng: random.Random) -> None:
        """Act as a controller: schedule tasks and wait for them."""
        try:
            while not self._stopping.is_set():
                self._schedule(rng)
                if rng.random() < 0.3:
                    signal = Signal()
                    timer = threading.Timer(rng.random() * 0.05, signal.trigger, ["enough"])
                    timer.start()
                    self.comm.broadcast_and_wait(self._task(rng), self.engine.new_context(), abort_signal=signal)
                    timer.join()
        except Exception as exc:
            self.counter.problems.append(f"a controller's call failed: {exc!r}")

    def _task(self, rng: random.Random) -> Task:
        random_of_task = random.Random(rng.random())

        def counted(name: str) -> Callable[..., None]:
            def callback(fl_ctx: FLContext, **subject: Any) -> None:
                (only,) = subject.values()
                self.counter.count(name, task, only, lambda: self._interfere(random_of_task))

            return callback

        names = ("before_task_sent_cb", "after_task_sent_cb", "result_received_cb")
        callbacks: dict[str, Any] = {name: counted(name) for name in names} if rng.random() < 0.7 else {}
        # the end of each task is counted
        task = Task("train", Shareable({"x": 1}), timeout=1, task_done_cb=counted("task_done_cb"), **callbacks)
        self._recent = [*self._recent[-20:], task]
        return task

    def _schedule(self, rng: random.Random) -> Task | None:
        if self._stopping.is_set() or self.comm.get_num_standing_tasks() > MAX_STANDING:
            self._stopping.wait(0.001)  # tasks end meanwhile
            return None
        task, ctx, names = self._task(rng), self.engine.new_context(), list(self._assigned)
        some = rng.sample(names, rng.randint(1, 20))
        send_order = rng.choice(list(SendOrder))
        kind = rng.randrange(6)
        if kind == 0:
            self.comm.broadcast(task, ctx, list(some), min_responses=rng.randint(0, len(some)))
        elif kind == 1:
            self.comm.broadcast(task, ctx)
        elif kind == 2:
            self.comm.broadcast_forever(task, ctx, list(some[:3]))
        elif kind == 3:
            self.comm.send(task, ctx, list(some), send_order, rng.randint(0, 1))
        elif kind == 4:
            self.comm.send(task, ctx, None, SendOrder.ANY)
        else:
            self.comm.relay(task, ctx, list(some), send_order, rng.randint(0, 1), rng.randint(0, 1), bool(kind % 2))
        return task

    def _interfere(self, rng: random.Random) -> None:
        """Do at random what callbacks may do: schedule, cancel, raise, wait."""
        chance = rng.random()
        if chance < 0.05:
            self._schedule(rng)
        elif chance < 0.08 and self._recent:
            self.comm.cancel_task(rng.choice(self._recent))
        elif chance < 0.10:
            raise InjectedError
        elif chance < 0.11:
            signal = Signal()
            signal.trigger("no time")
            self.comm.send_and_wait(
                self._task(rng), self.engine.new_context(), ["site-1"], SendOrder.ANY, abort_signal=signal
            )
        elif chance < 0.112:
            self.comm.cancel_all_tasks()
