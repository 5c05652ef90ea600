"""A workflow over many sites: its model is stored once and passed on unread, and what is simulated runs distributed."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
import redis
from redflare_agent import IPCAgent, Task, TaskResult, serve
from redflare_broker.config.settings import LinkSettings
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_workers import ClientJob, IPCExchanger, ServerJob, Shareable, from_shareable, simulate
from redflare_workers.workflow import FedAvg

from tests.fundamentals.programs import Background, averaging


def add_the_number_of_the_site(task: Task, site: str) -> TaskResult:
    """Train: site-3 adds 3 to each weight."""
    return TaskResult({}, {"w": task.data["w"] + int(site.removeprefix("site-"))})


def test_federated_averaging_gives_the_mean_of_what_the_sites_have_trained(
    server_url: str, settings: LinkSettings
) -> None:
    workflow = averaging(rounds=2, sites=3)
    outcome = simulate(workflow, add_the_number_of_the_site, 3, processes=0, url=server_url, settings=settings)
    assert outcome.ok
    assert workflow.model["w"].tolist() == [4]  # (1 + 2 + 3) / 3, twice


def test_what_is_simulated_runs_distributed_with_the_same_result(
    server_url: str, settings: LinkSettings, background: Background
) -> None:
    simulated, distributed = averaging(rounds=2, sites=2), averaging(rounds=2, sites=2)
    simulate(simulated, add_the_number_of_the_site, 2, processes=0, url=server_url, settings=settings)

    with ExitStack() as agents:
        for site in ("site-1", "site-2"):
            agent = agents.enter_context(IPCAgent(server_url, site, "trainer", ".", settings=settings))
            background(serve, lambda task, site=site: add_the_number_of_the_site(task, site), agent)
            exchanger = IPCExchanger(redis_url=server_url, agent_id="trainer", settings=settings)
            background(ClientJob(site, exchanger, redis_url=server_url, settings=settings).run)
        assert ServerJob(distributed, redis_url=server_url, settings=settings).run().status == "FINISHED:COMPLETED"
    assert distributed.model["w"].tolist() == simulated.model["w"].tolist() == [3]


def test_a_model_that_is_broadcast_is_stored_once(server_url: str, namespace: str, settings: LinkSettings) -> None:
    all_have_it, stored = threading.Barrier(4), []

    def train(task: Task, site: str) -> TaskResult:
        all_have_it.wait()
        with redis.Redis.from_url(server_url) as client:
            stored.append(sum(client.strlen(key) for key in client.scan_iter(f"{namespace}:*:blob:*")))
        all_have_it.wait()
        return TaskResult({}, task.data)

    model = {"w": np.zeros(1_000_000, np.uint8)}
    workflow = FedAvg(model, min_clients=4, num_rounds=1, resume=False)  # no checkpoint, which has a copy
    simulate(workflow, train, 4, processes=0, url=server_url, settings=settings)
    assert stored == [1_000_000] * 4


def test_a_client_job_passes_a_model_on_without_reading_it(
    server_url: str, settings: LinkSettings, background: Background
) -> None:
    passed: list[Any] = []

    class Watched(IPCExchanger):
        def execute(self, task_name: str, shareable: Shareable, *more: Any) -> Shareable:
            reply = super().execute(task_name, shareable, *more)
            passed.extend((from_shareable(shareable).data, from_shareable(reply).data))
            return reply

    exchanger = Watched(redis_url=server_url, agent_id="trainer", settings=settings)
    background(ClientJob("site-1", exchanger, redis_url=server_url, settings=settings).run)
    with IPCAgent(server_url, "site-1", "trainer", ".", settings=settings) as agent:
        background(serve, lambda task: TaskResult({}, {"w": task.data["w"] + 1}), agent)
        workflow = averaging(rounds=1, sites=1)
        ServerJob(workflow, redis_url=server_url, settings=settings).run()
    assert workflow.model["w"].tolist() == [1]
    assert [type(data) for data in passed] == [EncodedPayload, EncodedPayload]


def test_an_abort_of_the_job_reaches_every_trainer(
    server_url: str, settings: LinkSettings, background: Background
) -> None:
    exchanger = IPCExchanger(redis_url=server_url, agent_id="trainer", settings=settings)
    site = ClientJob("site-1", exchanger, redis_url=server_url, settings=settings)
    server = ServerJob(averaging(rounds=100, sites=1), redis_url=server_url, settings=settings)
    ends = [background(site.run), background(server.run)]
    with IPCAgent(server_url, "site-1", "trainer", ".", settings=settings) as agent:
        task = agent.get_task()
        assert task is not None
        server.abort("enough")
        assert task.wait_aborted(timeout=10)
    assert [end.result().status for end in ends] == ["FINISHED:ABORTED"] * 2
