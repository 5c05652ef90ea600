"""The job store on every kind of server, with the smallest rights, and the cell that it wakes."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import Request
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import Unavailable
from redflare_broker.job_store.store import STORE_CHANNEL, STORE_TOPIC, JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server

from tests.support.redis_server import kinds
from tests.support.redis_server.kinds import KINDS, AnyServer
from tests.support.waiting import wait_until

CONTENT = bytes(range(251)) * 20_000


@pytest.fixture(params=KINDS, scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    with KINDS[request.param]() as server:
        yield server


def test_a_job_from_its_submission_to_its_deletion(running: AnyServer, tmp_path: Path) -> None:
    changes: list[str] = []

    def on_event(request: Request) -> None:
        changes.append(f"{request.meta['job_id']} {request.meta['change']}")

    with Server.connect(running.url, running.options) as server:
        store = JobStore(server, Keys())
        # before the server is there
        job_id = store.submit({"name": "hello"}, CONTENT, "job-1")
        cell = Cell(server, "server", LinkSettings(connection=running.options))
        cell.register_request_cb(STORE_CHANNEL, STORE_TOPIC, on_event)
        with cell:
            wait_until(lambda: "job-1 submitted" in changes)
            assert store.advance(job_id, "SUBMITTED", "DISPATCHED") is not None
            assert store.fetch_archive(job_id, tmp_path / "job.zip").read_bytes() == CONTENT
            store.set_site(job_id, "site-1", "started")
            lines: list[str] = []
            with store.follow(job_id) as follower:
                reader = threading.Thread(target=lambda: lines.extend(line.status or line.text for line in follower))
                reader.start()
                wait_until(lambda: lines[-1:] == ["DISPATCHED"])
                store.append_log(job_id, "site-1", ["line"])
                wait_until(lambda: lines[-1:] == ["line"])
                store.put_result(job_id, CONTENT[1:])
                assert store.request_abort(job_id, "ann").abort_requested
                wait_until(lambda: "job-1 abort" in changes)
                assert store.advance(job_id, "DISPATCHED", "FINISHED:ABORTED") is not None
                reader.join(10)
            assert lines[-1] == "FINISHED:ABORTED"
            assert store.renew([job_id, "gone"]) == {"gone"}
            assert store.fetch_result(job_id, tmp_path / "result.zip").read_bytes() == CONTENT[1:]
            assert [record.id for record in store.list()] == ["job-1"]
            with running.client() as client:
                assert [key for key in client.scan_iter("flare:*") if client.pttl(key) < 0] == []
            store.delete(job_id)
            wait_until(lambda: "job-1 deleted" in changes)
    with running.client() as client:
        left = [key.decode() for key in client.scan_iter("flare:*")]
        assert [key for key in left if ":job" in key] == []
        assert [key for key in left if "blob" in key] == []
        assert [key for key in left if client.pttl(key) < 0] == []


def test_a_large_archive_costs_little_memory(server_url: str, namespace: str, tmp_path: Path) -> None:
    path = tmp_path / "job.zip"
    with path.open("wb") as file:
        for number in range(64):
            file.write(bytes([number]) * (1 << 20))
    with Server.connect(server_url) as server:
        store = JobStore(server, Keys(namespace))
        tracemalloc.start()
        try:
            store.submit({}, path, "job-1")
            fetched = store.fetch_archive("job-1", tmp_path / "fetched.zip")
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()
        assert fetched.read_bytes() == path.read_bytes()
        store.request_abort("job-1", "ann")
        store.delete("job-1")
        assert not list(server.scan(f"{namespace}:*blob*"))


def test_a_step_is_repeated_until_the_server_is_back_or_it_is_stopped(tmp_path: Path) -> None:
    with kinds.embedded(durable=True) as running, Server.connect(running.url) as server:
        store = JobStore(server, Keys())
        store.submit({}, CONTENT, "job-1")
        running.kill()
        asked = time.monotonic()
        with pytest.raises(Unavailable):
            JobStore(server, Keys(), stop=lambda: True).submit({}, CONTENT, "job-2")
        assert time.monotonic() - asked < 10
        moved: list[object] = []
        step = threading.Thread(target=lambda: moved.append(store.advance("job-1", "SUBMITTED", "DISPATCHED")))
        step.start()
        running.restart()
        step.join(20)
        assert moved != []
        assert moved[0] is not None
        assert store.read_archive("job-1") == CONTENT
        assert [record.id for record in store.list()] == ["job-1"]
