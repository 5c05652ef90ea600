"""``ServerParent`` without processes of jobs: unforeseen errors of jobs, and reports of sites."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.errors import ServerError, Unavailable
from redflare_broker.job_store.record import APPROVED, CAN_NOT_SCHEDULE, DISPATCHED, RUNNING, SUBMITTED, JobRecord
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_workers.protocol.parent_messages import SiteReport
from redflare_workers.server.parent import job_checks, server_parent
from redflare_workers.server.parent.record_keeper import RecordKeeper
from redflare_workers.server.parent.server_parent import ServerParent

from tests.support.cell.cells import SETTINGS
from tests.support.federation.client_parents import META
from tests.support.federation.parent_bench import ParentBench
from tests.support.process.handlers import NUMBER, handling
from tests.support.waiting import wait_until


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ParentBench]:
    made = ParentBench(tmp_path)
    yield made
    made.close()


def test_a_job_whose_check_fails_unexpectedly_is_rejected(bench: ParentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> str:
        raise LookupError("an unforeseen error")

    monkeypatch.setattr(job_checks, "refusal", fails)
    bench.store.submit(META, b"zip", "job-1")
    wait_until(lambda: bench.status() == CAN_NOT_SCHEDULE)
    record = bench.store.get("job-1")
    assert record is not None
    assert "an unforeseen error" in record.reason


def test_a_check_that_redis_refuses_is_not_tried_again_at_once(
    bench: ParentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    often = threading.Event()

    def refuses(record: Any, *args: Any) -> str:
        tried.append(record.id)
        # a beat may have come between
        if len(tried) > 3:
            often.set()
        raise ServerError("OOM command not allowed")

    monkeypatch.setattr(job_checks, "refusal", refuses)
    bench.store.submit(META, b"zip", "job-1")
    wait_until(lambda: tried)
    assert not often.wait(0.5)
    assert bench.status() == SUBMITTED


def test_a_site_is_asked_to_abort_a_job_that_is_over_but_not_one_that_runs(
    bench: ParentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running job may have no runner, when that failed to record something and the next was not made yet."""
    bench.store.submit(META, b"zip", "job-1")
    wait_until(lambda: bench.status() == CAN_NOT_SCHEDULE)
    monkeypatch.setattr(job_checks, "refusal", lambda *args: "")
    bench.store.submit(META, b"zip", "job-2")
    wait_until(lambda: (record := bench.store.get("job-2")) is not None and record.waiting)
    # a heartbeat would have the server take it up
    monkeypatch.setattr(bench.parent, "_reconcile", lambda: None)
    assert bench.store.advance("job-2", APPROVED, DISPATCHED)
    assert bench.store.advance("job-2", DISPATCHED, RUNNING)
    with Cell(bench.server, "site-1", SETTINGS) as cell:

        def abort_reason(job: str) -> Any:
            report = SiteReport(site="site-1", job=job, run="r", status="started")
            reply = cell.send_request(report.CHANNEL, report.TOPIC, "server", report.to_meta(), timeout=10)
            return reply.meta.get("abort")

        assert abort_reason("job-2") is None
        assert "CAN_NOT_SCHEDULE" in abort_reason("job-1")
        assert "unknown" in abort_reason("job-3")


def test_an_error_while_processing_the_open_jobs_does_not_end_the_server(
    bench: ParentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fails(*args: Any, **more: Any) -> Any:
        failed.set()
        raise LookupError("an unforeseen error")

    monkeypatch.setattr(job_checks, "refusal", lambda *args: "")
    with monkeypatch.context() as once:
        once.setattr(server_parent, "plan", fails)
        bench.store.submit(META, b"zip", "job-1")
        assert failed.wait(20)
    bench.store.submit(META, b"zip", "job-2")
    wait_until(lambda: (record := bench.store.get("job-2")) is not None and record.waiting)


def test_the_records_are_compared_as_soon_as_redis_is_back(bench: ParentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = threading.Event()

    def compare(self: RecordKeeper, records: list[Any], runners: list[Any]) -> list[Any]:
        compared.set()
        return records

    monkeypatch.setattr(RecordKeeper, "compare", compare)
    monkeypatch.setattr(server_parent, "_RENEW_EVERY", 3600.0)
    bench.parent._cell.on_silence(Unavailable("a failover"))
    assert compared.wait(10)


def test_a_signal_handler_leaves_the_stopping_of_a_cell_that_starts_to_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = ServerParent(tmp_path, settings=SETTINGS, client=fakeredis.FakeRedis(server=fakeredis.FakeServer()))
    threads: list[str] = []
    stop, start = Cell.stop, Cell.start

    def note_thread(cell: Cell, *args: Any) -> None:
        threads.append(threading.current_thread().name)
        stop(cell, *args)

    def interrupted(cell: Cell) -> None:
        signal.raise_signal(NUMBER)
        start(cell)

    monkeypatch.setattr(Cell, "stop", note_thread)
    monkeypatch.setattr(Cell, "start", interrupted)
    with handling(parent.stop):
        assert parent.run() == "it was stopped"
    assert threads[0] == "redflare-server-stop"


def test_the_server_publishes_the_policy_of_its_settings(bench: ParentBench) -> None:
    assert bench.parent.settings.job_store == JobRetentionPolicy(job_retention=77.0)
    assert JobStore.as_server_keeps_it(bench.server, Keys(SETTINGS.namespace)).policy.job_retention == 77.0


def test_a_job_without_a_runner_gets_another_one(bench: ParentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one could not record how the job ended, because Redis was away."""
    resumed: list[str] = []

    def recover(records: list[JobRecord], context: Any) -> list[Any]:
        resumed.extend(record.id for record in records)
        return []

    monkeypatch.setattr(server_parent, "recover", recover)
    monkeypatch.setattr(job_checks, "refusal", lambda *args: "")
    bench.store.submit(META, b"zip", "job-1")
    wait_until(lambda: bench.status() == APPROVED)
    assert bench.store.advance("job-1", APPROVED, DISPATCHED)
    bench.store.submit(META, b"zip", "job-2")
    wait_until(lambda: resumed)
    assert set(resumed) == {"job-1"}


def test_the_jobs_that_wait_are_looked_at_as_soon_as_one_has_ended(
    bench: ParentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()

    def compare(self: RecordKeeper, records: list[Any], runners: list[Any]) -> list[Any]:
        looked.set()
        return records

    wait_until(lambda: bench.parent._renewed)
    monkeypatch.setattr(server_parent, "_RENEW_EVERY", 3600.0)
    monkeypatch.setattr(RecordKeeper, "compare", compare)
    bench.parent._context.on_done("job-1", True)
    assert looked.wait(10)


def test_jobs_that_are_not_over_are_kept_alive(bench: ParentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed: list[str] = []
    monkeypatch.setattr(job_checks, "refusal", lambda *args: "")
    monkeypatch.setattr(server_parent, "_RENEW_EVERY", 0.0)
    monkeypatch.setattr(JobStore, "renew", lambda self, job_ids: renewed.extend(job_ids))
    bench.store.submit(META, b"zip", "job-1")
    wait_until(lambda: renewed)
    assert set(renewed) == {"job-1"}
