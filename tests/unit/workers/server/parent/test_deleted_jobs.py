"""Folders of jobs that were deleted: which go, and which sites are told of it; on fakeredis, without processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redflare_broker.cell.cell import HandlerResult, Request
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.job_state.members import Member
from redflare_broker.job_store.record import COMPLETED, UNFINISHED
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_workers.protocol.parent_messages import DeleteRunsRequest
from redflare_workers.server.parent.deleted_jobs import DeletedJobs
from redflare_workers.server.parent.job_files import prepare, run_meta
from redflare_workers.workspace.run_folder import RunFolder

from tests.support.cell.cells import RETENTION, Cells, cells_on_fakeredis
from tests.support.federation.client_parents import META
from tests.support.waiting import wait_until


class Bench:
    """A server that deletes folders, and the sites that it tells."""

    def __init__(self, cells: Cells, workspace: Path) -> None:
        self.cells = cells
        self.workspace = workspace
        policy = JobRetentionPolicy(job_retention=RETENTION, upload_keep=RETENTION, event_retention=RETENTION)
        self.store = JobStore(cells.server, Keys(cells.settings.namespace), policy)
        self.cell = cells.make("server")
        self.sites: list[Member] = []
        self.running: set[str] = set()
        #: what each site was told
        self.told: dict[str, list[dict[str, list[str]]]] = {}
        self.restart()

    def restart(self) -> None:
        self.deleted = DeletedJobs(
            self.store, self.workspace, self.cell, lambda: self.sites, lambda job_id: job_id in self.running
        )

    def connect(self, name: str, instance: str = "a") -> None:
        if name not in self.told:
            self.told[name] = []

            def on_request(request: Request) -> HandlerResult:
                self.told[name].append({job: list(each) for job, each in request.meta["jobs"].items()})
                return None

            cell = self.cells.make(name)
            cell.register_request_cb(DeleteRunsRequest.CHANNEL, DeleteRunsRequest.TOPIC, on_request)
        about = {"host": "h", "pid": 1, "joined": 1, "heartbeat_ms": 1_000, "left": 0}
        member = Member(name=name, instance=instance, epoch=1, cell=name, **about)  # type: ignore[arg-type]
        self.sites = [*(site for site in self.sites if site.name != name), member]

    def run(self, job_id: str = "job-1") -> str:
        """Run a job to its end; return its submission."""
        self.store.submit(META, b"zip", job_id, submitter="ann")
        record = self.store.advance(job_id, UNFINISHED, COMPLETED)
        assert record is not None
        prepare(RunFolder(self.workspace, job_id), "app", (), run_meta(record))
        return record.submission

    def told_of(self, name: str, count: int) -> list[dict[str, list[str]]]:
        wait_until(lambda: len(self.told[name]) >= count, 10.0, f"{count} messages to {name}")
        return self.told[name]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with cells_on_fakeredis() as cells:
        yield Bench(cells, tmp_path)


def test_a_deleted_job_loses_its_folder_and_connected_sites_are_told_once(bench: Bench) -> None:
    bench.connect("site-1")
    first = bench.run()
    bench.deleted.reconcile()
    assert (bench.workspace / "job-1").is_dir()
    bench.store.delete("job-1")
    for _ in range(2):
        bench.deleted.reconcile()
    assert not (bench.workspace / "job-1").exists()
    second = bench.run("job-2")
    bench.store.delete("job-2")
    bench.deleted.reconcile()
    assert bench.told_of("site-1", 2) == [{"job-1": [first]}, {"job-2": [second]}]


def test_a_site_that_connects_is_told_of_all_deletions(bench: Bench) -> None:
    submissions = []
    for _ in range(2):
        submissions.append(bench.run())
        bench.store.delete("job-1")
    bench.deleted.reconcile()
    bench.connect("site-1")
    for instance in ("a", "a", "b"):
        bench.connect("site-1", instance)
        bench.deleted.reconcile()
    assert bench.told_of("site-1", 2) == [{"job-1": sorted(submissions)}] * 2
    bench.sites, sites = [], bench.sites
    bench.deleted.reconcile()
    bench.sites = sites
    bench.deleted.reconcile()
    assert len(bench.told_of("site-1", 3)) == 3, "it was disconnected"


def test_a_server_that_was_down_removes_the_folder_at_its_start(bench: Bench) -> None:
    bench.run()
    bench.store.delete("job-1")
    bench.restart()
    bench.deleted.reconcile()
    assert not (bench.workspace / "job-1").exists()


def test_a_job_that_was_submitted_under_the_id_of_a_deleted_one_keeps_its_folder(bench: Bench) -> None:
    first = bench.run()
    bench.store.delete("job-1")
    bench.run()
    bench.deleted.note("job-1")
    bench.connect("site-1")
    bench.deleted.reconcile()
    assert (bench.workspace / "job-1").is_dir()
    assert bench.told_of("site-1", 1) == [{"job-1": [first]}]


def test_an_empty_store_proves_nothing_and_a_deletion_that_was_asked_for_counts(bench: Bench) -> None:
    bench.connect("site-1")
    bench.run()
    bench.run("job-2")
    bench.cells.redis("FLUSHALL")
    bench.deleted.reconcile()
    assert (bench.workspace / "job-1").is_dir()
    bench.running = {"job-2"}
    for job_id in ("job-1", "job-2", "..", None):
        bench.deleted.note(job_id)
    bench.deleted.reconcile()
    assert not (bench.workspace / "job-1").exists()
    assert (bench.workspace / "job-2").is_dir(), "its record is about to be restored"
    assert bench.told_of("site-1", 1) == [{"job-1": []}]
