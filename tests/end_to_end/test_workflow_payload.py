"""The memory of Redis during a run: a broadcast's data is stored once for all sites, and deleted in the end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_workers.apis import Executor, FLContext, Shareable, Signal
from redflare_workers.apis.shareable import make_reply
from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.client.shared.cell_host import CellHost

from tests.support.federation.processes import Federation
from tests.support.waiting import wait_until

MIB = 1 << 20
#: Of float32: 20 MiB.
ELEMENTS = 5 * MIB
SITES = 50


class Holding(Executor):
    """Executes its task until it is aborted."""

    accepts_encoded = True

    def __init__(self) -> None:
        super().__init__()
        self.has_task = threading.Event()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        self.has_task.set()
        aborted = threading.Event()
        with abort_signal.add_callback(aborted.set):
            aborted.wait(60)
        return make_reply("TASK_ABORTED")


def memory(client: redis.Redis) -> int:
    """Bytes that Redis uses."""
    used: Any = client.info("memory")["used_memory"]
    return int(used)


def test_a_model_broadcast_to_fifty_sites_is_stored_once_and_redis_is_as_empty_as_before(tmp_path: Path) -> None:
    with (
        EmbeddedServer() as server,
        redis.Redis.from_url(server.url) as client,
        Federation(server.url, tmp_path, client) as federation,
    ):
        holding = [Holding() for _ in range(SITES)]
        with CellHost("hosts", "job", redis_url=server.url, settings=federation.settings) as host:
            jobs = [ClientJob(f"site-{number}", each, host=host) for number, each in enumerate(holding)]
            threads = [threading.Thread(target=job.run, name=f"site-{n}") for n, job in enumerate(jobs)]
            for thread in threads:
                thread.start()
            before = memory(client)
            options = {"min_clients": SITES, "num_rounds": 1, "wait_time_after_min_received": 0}
            job = federation.server(options=options, size=ELEMENTS)
            for each in holding:
                assert each.has_task.wait(30)
            stored = memory(client) - before
            payload = sum(client.strlen(chunk) for chunk in federation.blobs())
            job.send("abort", "enough of it")
            job.receive("outcome")
            for thread in threads:
                thread.join(10)
        # once as the task's data, once in the state that a successor would resume from
        assert payload < 2 * 4 * ELEMENTS + MIB, f"{payload / MIB:.1f} MiB"
        assert stored < 2.3 * 4 * ELEMENTS, f"{stored / MIB:.1f} MiB"
        assert job.receive("threads") == ([],)
        federation.assert_clean()
        wait_until(lambda: client.dbsize() == 0)
        assert memory(client) - before < 2 * MIB
