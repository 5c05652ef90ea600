"""The view of a running job with a real server and real sites, on every kind of Redis, from start to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from redflare_broker.config.settings import LinkSettings
from redflare_broker.inspection.federation import Inspector
from redflare_broker.inspection.job_view import JobView, SiteView
from redflare_broker.transport.server import Server
from redflare_workers.apis.dxo import DXO, DataKind, from_shareable
from redflare_workers.apis.executor import Executor
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.protocol.job_outcome import COMPLETED
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow import FedAvg

from tests.support.redis_server.kinds import KINDS
from tests.support.waiting import wait_until

SITES = ("site-1", "site-2", "site-3")


class HeldBack(Executor):
    """Adds one to a model, as soon as the test allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = threading.Event()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        assert self.may_answer.wait(30)
        model = from_shareable(shareable).data
        return DXO(DataKind.WEIGHTS, {name: array + 1 for name, array in model.items()}).to_shareable()


class Federation:
    """One job: its server and its sites are threads of this process."""

    def __init__(self, redis: str, settings: LinkSettings, model: int = 50_000) -> None:
        self.executors = {name: HeldBack() for name in SITES}
        self.workflow = FedAvg({"w": np.zeros(model, np.float32)}, min_clients=3, num_rounds=1)
        self.server = ServerJob(self.workflow, redis_url=redis, job_id="job-7", settings=settings)
        self.sites = [
            ClientJob(name, executor, redis_url=redis, job_id="job-7", settings=settings)
            for name, executor in self.executors.items()
        ]
        self.threads: list[threading.Thread] = []

    def start(self, *runs: ServerJob | ClientJob) -> None:
        for run in runs:
            self.threads.append(threading.Thread(target=run.run))
            self.threads[-1].start()

    def stop(self) -> None:
        self.server.abort()
        for executor in self.executors.values():
            executor.may_answer.set()
        for site in self.sites:
            site.stop()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(params=["unix", "redis70", "cluster"])
def running(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Federation]]:
    with KINDS[request.param]() as redis, Server.connect(redis.url, redis.options) as server:
        federation = Federation(redis.url, LinkSettings(connection=redis.options))
        try:
            yield server, federation
        finally:
            federation.stop()


def site(job: JobView, name: str) -> SiteView:
    return next(each for each in job.sites if each.name == name)


class Watcher:
    """Reads the job until it is in the expected state."""

    def __init__(self, server: Server) -> None:
        self.inspector = Inspector(server)

    def sees(self, what: Callable[[JobView], object]) -> JobView:
        def find() -> JobView | None:
            return next((job for job in self.inspector.jobs.find("job-7") if what(job)), None)

        job = wait_until(find, what="the expected state of the job")
        assert job is not None
        return job

    def reads(self, waiting: str) -> JobView:
        return self.sees(lambda job: waiting in job.waiting)


def test_a_job_is_seen_from_its_first_site_to_its_end(running: tuple[Server, Federation]) -> None:
    server, federation = running
    watcher = Watcher(server)

    federation.start(federation.sites[0])
    watcher.sees(lambda job: site(job, "site-1").requested)
    job = watcher.reads("waiting for a server (none seen yet)")
    assert (job.status, job.server.state) == ("", "never")

    federation.start(federation.server, *federation.sites[1:])
    job = watcher.sees(lambda job: job.tasks and len(job.tasks[0].pending) == 3)
    assert "waiting for 3 more of at least 3 results: site-" in job.waiting
    assert job.server.connected
    assert [each.presence.state for each in job.sites] == ["connected"] * 3
    [task] = job.tasks
    assert (task.record.name, task.record.kind, task.record.targets) == ("train", "broadcast", None)
    assert (task.size > 200_000, task.stored) == (True, 200_000)

    federation.executors["site-1"].may_answer.set()
    federation.executors["site-3"].may_answer.set()
    job = watcher.reads("waiting for 1 more of at least 3 results: site-2 (sent ")
    assert [each.site for each in job.tasks[0].pending] == ["site-2"]
    assert sorted(each.site for each in job.tasks[0].answered) == ["site-1", "site-3"]
    watcher.sees(lambda job: site(job, "site-3").requested)

    federation.executors["site-2"].may_answer.set()
    job = watcher.reads(COMPLETED)
    assert (job.tasks, [(ended.record.name, ended.record.status) for ended in job.ended_tasks]) == (
        (),
        [("train", "ok")],
    )
    assert [len(ended.answered) for ended in job.ended_tasks] == [3]
    watcher.sees(lambda job: {each.presence.state for each in job.sites} == {"left"})
    assert watcher.inspector.status().jobs[0].fqcn == "server.job-7"
