"""A whole job, its server and its sites, on every kind of server, with large models and small ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from redflare_broker.config.settings import LinkSettings
from redflare_workers import DXO, DataKind, Executor, FLContext, MetaKey, Shareable, Signal, from_shareable
from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.protocol.job_outcome import COMPLETED, JobOutcome
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow import FedAvg

from tests.support.redis_server.kinds import KINDS, AnyServer


class Adding(Executor):
    """Adds a number to each weight."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        weights = {name: array + self.number for name, array in from_shareable(shareable).data.items()}
        return DXO(DataKind.WEIGHTS, weights, {MetaKey.NUM_STEPS_CURRENT_ROUND: 1}).to_shareable()


@pytest.fixture(params=KINDS, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    with KINDS[request.param]() as running:
        yield running


@pytest.mark.parametrize("size", [10, 700_000], ids=["small", "large"])
def test_a_job_runs_to_its_end_and_leaves_nothing_behind(server: AnyServer, size: int) -> None:
    job_id = f"job-{size}"
    settings = LinkSettings(connection=server.options)
    workflow = FedAvg({"w": np.zeros(size, np.float32)}, min_clients=2, num_rounds=2, wait_time_after_min_received=0)
    outcomes: list[JobOutcome] = []

    def site(number: int) -> None:
        job = ClientJob(f"site-{number}", Adding(number), redis_url=server.url, job_id=job_id, settings=settings)
        outcomes.append(job.run())

    sites = [threading.Thread(target=site, args=(number,)) for number in (1, 3)]
    for thread in sites:
        thread.start()
    outcomes.append(ServerJob(workflow, redis_url=server.url, job_id=job_id, settings=settings).run())
    for thread in sites:
        thread.join(20)
    assert [outcome.status for outcome in outcomes] == [COMPLETED] * 3
    assert workflow.model["w"].tolist()[:2] == [4, 4]
    with server.client() as client:
        keys = [key.decode() for key in client.scan_iter("flare:*")]
        assert [key for key in keys if ":blob" in key] == []
        assert [key for key in keys if client.pttl(key) < 0] == []
