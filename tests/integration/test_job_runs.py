"""Jobs on a real server: idle ones send heartbeats only; broken connections and lost data cost only time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_workers.apis.dxo import DXO, DataKind, from_shareable
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.protocol.job_outcome import COMPLETED, FENCED
from redflare_workers.workflow.fedavg import FedAvg

from tests.support.job.runs import FunctionController, FunctionExecutor, JobRuns, RawSite, parked_requests, task
from tests.support.redis_server.kinds import embedded
from tests.support.redis_server.proxy import Proxy
from tests.support.waiting import wait_until

BIG = 300_000


@pytest.fixture
def runs(server_url: str, namespace: str) -> Iterator[JobRuns]:
    with JobRuns(url=server_url, namespace=namespace) as made:
        yield made
    with redis.Redis.from_url(server_url) as client:
        keys = [str(key, "utf8") for key in client.scan_iter(f"{namespace}:*")]
        assert not [key for key in keys if ":blob:" in key], "payloads are left"
        assert not [key for key in keys if client.pttl(key) == -1], "keys without an end are left"
        if keys:
            client.delete(*keys)


def plus_one(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
    dxo = from_shareable(data)
    return DXO(DataKind.WEIGHTS, {key: value + 1 for key, value in dxo.data.items()}).to_shareable()


def fedavg(rounds: int, size: int = BIG, sites: int = 3) -> FedAvg:
    model = {"w": np.zeros(size, np.float32)}
    return FedAvg(model, min_clients=sites, num_rounds=rounds, wait_time_after_min_received=0)


def commands(client: redis.Redis, seconds: float) -> Counter[str]:
    """Count the commands that other connections send within some seconds, without those of scripts."""
    counted: Counter[str] = Counter()
    over = threading.Timer(seconds, lambda: client.echo("over"))
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]
        over.start()
        for line in monitor.listen():
            if line["command"].startswith("ECHO over"):
                break
            if line["client_type"] != "lua":
                counted[line["command"].split()[0].upper()] += 1
    over.join()
    return counted


def test_a_job_whose_sites_wait_costs_heartbeats_and_nothing_else() -> None:
    beat, seconds, sites = 1.0, 4.0, 20
    go = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        # one task is standing, for a client that never joins
        controller.broadcast(task(), fl_ctx, targets=["nobody"])
        with abort.add_callback(go.set):
            go.wait(60)

    with EmbeddedServer() as server, JobRuns(url=server.url, beat=beat) as job:
        served = job.serve(flow)
        for number in range(sites):
            job.join(f"site-{number}")
        with redis.Redis.from_url(server.url) as client:
            wait_until(lambda: len(parked_requests(served)) == sites)
            counted = commands(client, seconds)
        go.set()
        assert job.outcome().status == COMPLETED
    beats = seconds / (0.95 * beat) + 1
    # each cell and each member beats, and the server reads the member list
    assert counted["EVALSHA"] <= beats * (2 * sites + 2)
    assert counted["EVALSHA"] >= 2 * sites
    # blocked reads end and begin again, each with a check of the cell's lease
    others = counted.total() - counted["EVALSHA"]
    assert others <= 2 * (sites + 1), counted


def test_a_connection_that_breaks_again_and_again_costs_time_and_no_second_execution(
    server_url: str, namespace: str
) -> None:
    proxy = Proxy(server_url)
    executors = [FunctionExecutor(plus_one) for _ in range(3)]
    controller = fedavg(12)
    try:
        with JobRuns(url=proxy.url, namespace=namespace) as job:
            job.serve(controller)
            for number, executor in enumerate(executors):
                job.join(f"site-{number}", executor)
            while job.servers[0][1].running:
                proxy.drop()
                proxy.pass_through()
                job.servers[0][1].thread.join(0.15)
            assert job.outcome().status == COMPLETED
            assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED] * 3
    finally:
        proxy.close()
    assert controller.model["w"][0] == 12
    assert [len(set(executor.done)) for executor in executors] == [12] * 3
    assert [len(executor.done) for executor in executors] == [12] * 3


@pytest.mark.parametrize("size", [10, BIG], ids=["small", "large"])
def test_a_restart_of_redis_without_data_costs_only_time(size: int) -> None:
    go, restarted = threading.Event(), threading.Event()
    controller = fedavg(4, size)

    def work(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        if from_shareable(data).data["w"][0] >= 1:
            go.set()
            restarted.wait(30)
        return plus_one(name, data, fl_ctx, abort)

    with embedded() as node, JobRuns(url=node.url) as job:
        job.serve(controller)
        for number in range(3):
            job.join(f"site-{number}", work)
        assert go.wait(20)
        node.kill()
        node.restart()
        restarted.set()
        assert job.outcome().status == COMPLETED
        assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED] * 3
    assert controller.model["w"][0] == 4


def test_a_redis_that_loses_its_data_again_and_again_ends_no_job(server_url: str, namespace: str) -> None:
    with EmbeddedServer() as server, JobRuns(url=server.url) as job, redis.Redis.from_url(server.url) as client:
        controller = fedavg(30)
        job.serve(controller)
        for number in range(3):
            job.join(f"site-{number}", plus_one)
        while job.servers[0][1].running:
            client.flushall()
            job.servers[0][1].thread.join(0.5)
        assert job.outcome().status == COMPLETED, job.outcome()
        assert [outcome.status for outcome in job.site_outcomes()] == [COMPLETED] * 3
    assert controller.model["w"][0] == 30


def test_a_large_job_ends_without_a_payload_or_a_message_left(runs: JobRuns) -> None:
    controller = fedavg(5, sites=8)
    runs.serve(controller)
    for number in range(8):
        runs.join(f"site-{number}", plus_one)
    assert runs.outcome().status == COMPLETED
    assert [outcome.status for outcome in runs.site_outcomes()] == [COMPLETED] * 8


def test_servers_that_take_over_from_each_other_lose_no_round_and_no_result(runs: JobRuns) -> None:
    executors = [FunctionExecutor(plus_one) for _ in range(3)]
    controllers = [fedavg(10)]
    runs.serve(controllers[0])
    for number, executor in enumerate(executors):
        runs.join(f"site-{number}", executor)

    def more_is_done(than: int) -> bool:
        return len(executors[0].done) > than or not runs.servers[-1][1].running

    while len(controllers) < 6 and runs.servers[-1][1].running:
        than = len(executors[0].done)
        wait_until(lambda than=than: more_is_done(than))  # type: ignore[misc]
        if runs.servers[-1][1].running:
            controllers.append(fedavg(10))
            runs.serve(controllers[-1])
    assert runs.outcome().status == COMPLETED
    assert {running.outcome().status for _, running in runs.servers[:-1]} <= {FENCED}
    assert controllers[-1].model["w"][0] == 10
    # only tasks that a server sent at the moment of its replacement may be executed again
    assert all(len(set(executor.done)) <= 10 + len(controllers) - 1 for executor in executors)


def test_a_late_result_of_a_replaced_site_changes_nothing(runs: JobRuns) -> None:
    results: list[Any] = []

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        one = task(DXO(DataKind.WEIGHTS, {"w": np.zeros(BIG)}).to_shareable())
        controller.send_and_wait(one, fl_ctx, targets=["a"], abort_signal=abort)
        results.extend(each.result for each in one.client_tasks)

    runs.serve(flow)
    with RawSite(runs, "a") as older:
        task_id = older.get_task().meta["task_id"]
        runs.join("a", plus_one)
        assert runs.outcome().status == COMPLETED
        assert older.host.cell.fenced or older.submit("train", task_id, Shareable()).rc in (FENCED, "JOB_ENDED")
    assert len(results) == 1


@pytest.mark.serial
def test_a_task_is_handed_out_within_milliseconds_of_its_scheduling(runs: JobRuns) -> None:
    waits: list[float] = []

    def work(name: str, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable:
        waits.append(time.time() - data.get_header("when"))
        return Shareable()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        for _ in range(30):
            wait_until(lambda: len(parked_requests(server)) == 1)
            data = Shareable()
            data.set_header("when", time.time())
            controller.send_and_wait(task(data), fl_ctx, targets=["a"], abort_signal=abort)

    server = runs.serve(flow)
    runs.join("a", work)
    assert runs.outcome().status == COMPLETED
    assert sorted(waits)[15] < 0.1
