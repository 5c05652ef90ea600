"""A test bench for the communicator: with a clock that the test sets, and clients whose requests the test sends.

Nothing checks the tasks unless the test calls ``check``, or starts the monitor: ``CommunicatorBench(monitor=True)``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Self

from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.communicator.comm_observer import CommObserver
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.workflow.controller import Controller

from tests.support.clock import Clock
from tests.support.communicator.local_engine import LocalEngine
from tests.support.waiting import wait_until

#: A date, so that a test fails where an age is taken for a date.
START = 1_700_000_000.0


class IdleController(Controller):
    """Schedules nothing; keeps the results of unknown tasks."""

    def __init__(self, task_check_period: float = 0.01, *, resume: bool = False) -> None:
        super().__init__(task_check_period, resume=resume)
        self.unknown: list[tuple[str, str, str]] = []
        self.started = self.stopped = 0

    def start_controller(self, fl_ctx: FLContext) -> None:
        self.started += 1

    def control_flow(self, abort_signal: Any, fl_ctx: FLContext) -> None: ...

    def stop_controller(self, fl_ctx: FLContext) -> None:
        self.stopped += 1

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        self.unknown.append((client.name, task_name, client_task_id))


@dataclass
class RecordingObserver(CommObserver):
    """An observer that records its calls."""

    asked: list[frozenset[str] | None] = field(default_factory=list)
    ends: list[tuple[Task, list[ClientTask]]] = field(default_factory=list)
    schedules: list[Task] = field(default_factory=list)
    adopt: Callable[[Task], list[ClientTask]] = lambda task: []

    def scheduled(self, task: Task) -> list[ClientTask]:
        self.schedules.append(task)
        return self.adopt(task)

    def may_ask(self, names: Any) -> None:
        self.asked.append(names)

    def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
        self.ends.append((task, unanswered))


class CommunicatorBench(AbstractContextManager["CommunicatorBench"]):
    """See the module's docstring.

    Args:
        clients: names of clients that have joined.
        monitor: start the monitor, which checks the tasks periodically.
    """

    def __init__(
        self,
        clients: Iterable[str] = (),
        *,
        monitor: bool = False,
        job_meta: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock(START)
        self.engine = LocalEngine(clients, job_meta=job_meta)
        self.comm = WFCommServer(0.01, clock=self.clock, **options)
        self.observer = self.comm.observer = RecordingObserver()
        self.controller = IdleController()
        self.controller.set_communicator(self.comm)
        self.ctx = self.engine.new_context()
        if monitor:
            self.comm.initialize_run(self.ctx)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.comm.finalize_run(self.ctx)

    def task(self, name: str = "train", data: dict[str, Any] | None = None, **options: Any) -> Task:
        """A task whose age is counted on the bench's clock."""
        task = Task(name, Shareable(data), **options)
        task.create_time = self.clock()
        return task

    def ask(self, name: str, fl_ctx: FLContext | None = None) -> str:
        """Request a task for a client; return its id, "" if there is none."""
        return self.ask_fully(name, fl_ctx)[1]

    def ask_fully(self, name: str, fl_ctx: FLContext | None = None) -> tuple[str, str, Shareable | None]:
        """Request a task for a client; return its name, id and data."""
        return self.comm.process_task_request(self.engine.join(name), fl_ctx or self.engine.new_context())

    def answer(self, name: str, task_id: str, task_name: str = "train", result: Shareable | None = None) -> None:
        """Submit a result for a client."""
        result = Shareable() if result is None else result
        self.comm.process_submission(self.engine.join(name), task_name, task_id, result, self.engine.new_context())

    def do(self, name: str, task_name: str = "train") -> str:
        """Request a task for a client and submit a result; return the task's id."""
        task_id = self.ask(name)
        assert task_id, f"{name} got nothing"
        self.answer(name, task_id, task_name)
        return task_id

    def check(self, after: float = 0.0) -> None:
        """Put the clock forward, and check all tasks."""
        self.clock.now += after
        self.comm.check_tasks()

    def settle(self, task: Task) -> None:
        """Wait until a task has ended and its callbacks have run."""
        wait_until(lambda: task.completion_status is not None, what=f"the end of {task!r}")
        self.comm.wait_for_task(task)


class Gate:
    """A callback that blocks until ``opened`` is set."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, **arguments: Any) -> None:
        self.entered.set()
        assert self.opened.wait(30), "the gate was not opened"
