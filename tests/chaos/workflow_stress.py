"""Two hundred clients at one communicator: they ask, answer, answer twice, lie, die and come back, all at random, while
callbacks schedule tasks, cancel them, wait for them and fail. Everything that happens is counted."""

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

from tests.support.communicator.local_engine import LocalEngine
from tests.support.communicator.scene import IdleController

CLIENTS: Final = 200
#: Tasks that may stand at once, so that all get their share.
MOST_STANDING: Final = 60


class OnPurpose(Exception):
    """What a callback raises now and then."""


class Tally(CommObserver):
    """Counts what happens to each task, and notes what must not."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.scheduled_tasks: list[Task] = []
        self.ended_tasks: Counter[Task] = Counter()
        #: By name of the callback, how often it began for each task (task_done_cb) or ClientTask.
        self.calls: dict[str, Counter[Any]] = defaultdict(Counter)
        self.problems: list[str] = []
        self._inside: set[Task] = set()

    def scheduled(self, task: Task) -> list[ClientTask]:
        with self._guard:
            self.scheduled_tasks.append(task)
        return []

    def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
        with self._guard:
            self.ended_tasks[task] += 1
            if self.calls["task_done_cb"][task]:
                self.problems.append(f"task_done_cb of {task} ran before the observer heard of its end")

    def count(self, name: str, task: Task, subject: object, work: Callable[[], None]) -> None:
        """Run the body of a callback."""
        with self._guard:
            self.calls[name][subject] += 1
            if task in self._inside:
                self.problems.append(f"{name} of {task} ran beside another callback of it")
            self._inside.add(task)
        try:
            work()
        finally:
            with self._guard:
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
        self.tally = Tally()
        self.comm.observer = self.tally
        controller = IdleController()
        controller.set_communicator(self.comm)
        self._hands: dict[str, list[tuple[str, str]]] = {f"site-{number}": [] for number in range(CLIENTS)}
        self._recent: list[Task] = []
        self._stopping = threading.Event()
        self.accepted = 0

    def run(self, seconds: float) -> None:
        """Go on for that long, and then end the run."""
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
                self.tally.problems.append(f"{thread.name} is stuck")
        self.comm.finalize_run(ctx)

    # -- clients -------------------------------------------------------------------------------------------------------

    def _act(self, choose: random.Random) -> None:
        names = list(self._hands)
        try:
            while not self._stopping.is_set():
                name = choose.choice(names)
                action = choose.choices(
                    [self._ask, self._answer, self._lie, self._die, self._come_back], [50, 42, 2, 2, 4]
                )[0]
                action(name, choose)
        except Exception as exc:
            self.tally.problems.append(f"a client was let down: {exc!r}")

    def _ask(self, name: str, choose: random.Random) -> None:
        task_name, task_id, data = self.comm.process_task_request(self.engine.join(name), self.engine.new_context())
        if not task_id:
            return
        if data is None or data.get_header("__task_id__") != task_id:
            self.tally.problems.append(f"{name} got other data than that of {task_id}")
        hand = self._hands[name]
        if (task_name, task_id) not in hand:
            hand.append((task_name, task_id))

    def _answer(self, name: str, choose: random.Random) -> None:
        hand = self._hands[name]
        if not hand:
            return
        task_name, task_id = choose.choice(list(hand) or [("", "")])
        # kept now and then, to be answered again
        if choose.random() < 0.9:
            self._hands[name] = [each for each in hand if each[1] != task_id]
        client = self.engine.join(name)
        if self.comm.peek_submission(client, task_name, task_id) is SubmissionCheck.ACCEPT:
            self.accepted += 1
        self.comm.process_submission(client, task_name, task_id, Shareable(), self.engine.new_context())

    def _lie(self, name: str, choose: random.Random) -> None:
        others = list(self._hands[choose.choice(list(self._hands))])
        for task_name, task_id in others:
            client = self.engine.join(name)
            self.comm.process_submission(
                client, task_name, task_id, Shareable({"lie": name}), self.engine.new_context()
            )

    def _die(self, name: str, choose: random.Random) -> None:
        self._hands[name] = []
        self.comm.process_dead_client_report(name, self.engine.new_context())

    def _come_back(self, name: str, choose: random.Random) -> None:
        self.comm.client_is_active(name, "it is back", self.engine.new_context())

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def _control(self, choose: random.Random) -> None:
        """Act as a controller: schedule, wait, give up."""
        try:
            while not self._stopping.is_set():
                self._schedule(choose)
                if choose.random() < 0.3:
                    signal = Signal()
                    timer = threading.Timer(choose.random() * 0.05, signal.trigger, ["enough"])
                    timer.start()
                    self.comm.broadcast_and_wait(self._task(choose), self.engine.new_context(), abort_signal=signal)
                    timer.join()
        except Exception as exc:
            self.tally.problems.append(f"the controller was let down: {exc!r}")

    def _task(self, choose: random.Random) -> Task:
        random_of_task = random.Random(choose.random())

        def counted(name: str) -> Callable[..., None]:
            def callback(fl_ctx: FLContext, **subject: Any) -> None:
                (one,) = subject.values()
                self.tally.count(name, task, one, lambda: self._misbehave(random_of_task))

            return callback

        names = ("before_task_sent_cb", "after_task_sent_cb", "result_received_cb")
        callbacks: dict[str, Any] = {name: counted(name) for name in names} if choose.random() < 0.7 else {}
        # the end of each task is counted
        task = Task("train", Shareable({"x": 1}), timeout=1, task_done_cb=counted("task_done_cb"), **callbacks)
        self._recent = [*self._recent[-20:], task]
        return task

    def _schedule(self, choose: random.Random) -> Task | None:
        if self._stopping.is_set() or self.comm.get_num_standing_tasks() > MOST_STANDING:
            self._stopping.wait(0.001)  # tasks end meanwhile
            return None
        task, ctx, names = self._task(choose), self.engine.new_context(), list(self._hands)
        some = choose.sample(names, choose.randint(1, 20))
        send_order = choose.choice(list(SendOrder))
        kind = choose.randrange(6)
        if kind == 0:
            self.comm.broadcast(task, ctx, list(some), min_responses=choose.randint(0, len(some)))
        elif kind == 1:
            self.comm.broadcast(task, ctx)
        elif kind == 2:
            self.comm.broadcast_forever(task, ctx, list(some[:3]))
        elif kind == 3:
            self.comm.send(task, ctx, list(some), send_order, choose.randint(0, 1))
        elif kind == 4:
            self.comm.send(task, ctx, None, SendOrder.ANY)
        else:
            self.comm.relay(
                task, ctx, list(some), send_order, choose.randint(0, 1), choose.randint(0, 1), bool(kind % 2)
            )
        return task

    def _misbehave(self, choose: random.Random) -> None:
        """Do at random what callbacks do besides their work."""
        dice = choose.random()
        if dice < 0.05:
            self._schedule(choose)
        elif dice < 0.08 and self._recent:
            self.comm.cancel_task(choose.choice(self._recent))
        elif dice < 0.10:
            raise OnPurpose
        elif dice < 0.11:
            signal = Signal()
            signal.trigger("no time")
            self.comm.send_and_wait(
                self._task(choose), self.engine.new_context(), ["site-1"], SendOrder.ANY, abort_signal=signal
            )
        elif dice < 0.112:
            self.comm.cancel_all_tasks()
