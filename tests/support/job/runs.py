"""An SJ and its CJs in threads of this process, on any Redis; with controllers and executors for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from redflare_broker.cell.request import Reply
from redflare_broker.config.settings import LinkSettings
from redflare_workers.apis.client import Client
from redflare_workers.apis.executor import Executor
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import Task
from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.protocol.job_messages import GetTask, ServerEvent, Submit
from redflare_workers.protocol.job_outcome import JobOutcome
from redflare_workers.protocol.shareable_codec import to_message
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.server.job.serving_job import ServingJob
from redflare_workers.server.job.task_handler import ParkedRequests
from redflare_workers.workflow.controller import Controller

from tests.support.waiting import wait_until

#: The body of an executor.
Work = Callable[[str, Shareable, FLContext, Signal], Any]


class FunctionController(Controller):
    """A controller whose control flow is a function; ``unknown`` lists the results of unknown tasks.

    Args:
        flow: called as ``flow(controller, abort_signal, fl_ctx)``.
    """

    def __init__(self, flow: Callable[[Any, Signal, FLContext], None]) -> None:
        super().__init__()
        self._flow = flow
        self.unknown: list[tuple[str, str, Shareable]] = []
        self.stopped = 0

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to do."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self._flow(self, abort_signal, fl_ctx)

    def wait(self, task: Task, abort: Signal) -> None:
        """Wait until a task has ended."""
        assert isinstance(self.communicator, WFCommServer)
        self.communicator.wait_for_task(task, abort)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        self.stopped += 1

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        self.unknown.append((client.name, client_task_id, result))


class FunctionExecutor(Executor):
    """An executor that calls a function; ``done`` lists the ids of its tasks."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work
        self.done: list[str] = []

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Any:
        self.done.append(str(fl_ctx.get_prop("__task_id__")))
        return self._work(task_name, shareable, fl_ctx, abort_signal)


def echo(task_name: str, shareable: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
    """Return the task's data."""
    return shareable


def until_aborted(task_name: str, shareable: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
    """Work until aborted."""
    aborted = threading.Event()
    with abort.add_callback(aborted.set):
        aborted.wait(30)
    return shareable


class RunThread:
    """A thread that runs a job to its outcome."""

    def __init__(self, name: str, run: Callable[[], JobOutcome]) -> None:
        self._outcome: JobOutcome | BaseException | None = None
        self._run = run
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)
        self.thread.start()

    def _main(self) -> None:
        try:
            self._outcome = self._run()
        except BaseException as error:
            self._outcome = error

    @property
    def running(self) -> bool:
        return self.thread.is_alive()

    def outcome(self, timeout: float = 20.0) -> JobOutcome:
        """Wait for the outcome; raise the exception of the run."""
        self.thread.join(timeout)
        assert not self.thread.is_alive(), f"{self.thread.name} still runs"
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


class JobRuns:
    """One job; a context manager that ends all of its threads.

    Args:
        client: a redis-py or fakeredis client for all of them; None: ``url``.
        beat: seconds between two heartbeats.
    """

    def __init__(self, client: Any = None, url: str = "", namespace: str = "flare", beat: float = 0.2) -> None:
        self.settings = LinkSettings(
            namespace=namespace, heartbeat_interval=beat, heartbeat_ttl=max(6 * beat, 2.0), allow_eviction=True
        )
        self.place: dict[str, Any] = {"client": client, "redis_url": url, "settings": self.settings}
        self.servers: list[tuple[ServerJob, RunThread]] = []
        self.sites: list[tuple[ClientJob, RunThread]] = []

    def serve(self, controller: Controller | Callable[[Any, Signal, FLContext], None], **more: Any) -> ServerJob:
        """Run a controller at the server."""
        if not isinstance(controller, Controller):
            controller = FunctionController(controller)
        more.setdefault("communicator", WFCommServer(dead_client_grace_period=0.2, dead_client_check_lead_time=0.1))
        job = ServerJob(controller, **self.place, **more)
        self.servers.append((job, RunThread("server", job.run)))
        return job

    def join(self, name: str, work: Work | Executor | Mapping[str, Executor] = echo, **more: Any) -> ClientJob:
        """Run a site."""
        executors = work if isinstance(work, Executor | Mapping) else FunctionExecutor(work)
        job = ClientJob(name, executors, **self.place, **more)
        self.sites.append((job, RunThread(name, job.run)))
        return job

    def outcome(self) -> JobOutcome:
        """How the newest server's run ended."""
        return self.servers[-1][1].outcome()

    def site_outcomes(self) -> list[JobOutcome]:
        return [running.outcome() for _, running in self.sites]

    def joined(self, *names: str) -> None:
        """Wait until the newest server knows these sites."""
        job = self.servers[-1][0]
        wait_until(lambda: set(names) <= {client.name for client in job.engine.get_clients()}, what=f"{names} join")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server, _ in self.servers:
            server.abort("the test has ended")
        for site, _ in self.sites:
            site.stop("the test has ended")
        for _, running in [*self.servers, *self.sites]:
            running.thread.join(20)
        left = [running.thread.name for _, running in [*self.servers, *self.sites] if running.running]
        assert error or not left, f"still running: {left}"


def serving(server: ServerJob) -> ServingJob:
    """Wait until a server serves requests; return its serving job."""
    found = wait_until(lambda: server._serving)
    assert found is not None
    return found


def parked_requests(server: ServerJob) -> ParkedRequests:
    """The parked requests for tasks at a server."""
    return serving(server).tasks._parked


def task(data: Shareable | None = None, name: str = "train", **more: Any) -> Task:
    """A task for a test."""
    return Task(name, Shareable() if data is None else data, **more)


def prefix_of(reply: Reply) -> str:
    """The prefix of the chunks of a task that a site got."""
    assert reply.encoded.blob is not None
    return reply.encoded.blob.prefix


class RawSite:
    """A site that sends only the messages a test writes; a context manager."""

    def __init__(self, runs: JobRuns, name: str, job_id: str = "job") -> None:
        self.host = CellHost(
            name, job_id, client=runs.place["client"], redis_url=runs.place["redis_url"], settings=runs.settings
        )
        self.events: list[ServerEvent] = []
        self._name = name
        self._server = f"server.{job_id}"

    def ask(self, topic: str, data: object = None, *, timeout: float = 10.0, **meta: Any) -> Reply:
        """Send a request with this site's credentials, unless ``meta`` has others."""
        given = {**self.membership.credentials.to_meta(), **meta}
        return self.host.cell.send_request(GetTask.CHANNEL, topic, self._server, given, data, timeout=timeout)

    def get_task(self, **meta: Any) -> Reply:
        return self.ask(GetTask.TOPIC, **meta)

    def submit(self, name: object, task_id: object, result: Shareable, **meta: Any) -> Reply:
        message, data = to_message(result)
        return self.ask(Submit.TOPIC, data, **{"task_name": name, "task_id": task_id, "message": message, **meta})

    def __enter__(self) -> Self:
        self.host.start()
        self.membership = Membership(self.host, self._server, self._name, {}, lambda membership: None)
        self.host.add_site(self._name, self._server, self.events.append, lambda: None)
        self.membership.join(lambda: "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.membership.leave()
        self.host.stop()
