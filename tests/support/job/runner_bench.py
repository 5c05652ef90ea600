"""A running job as its server has it: the record, the runner, and what else decides about them; without processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import fakeredis
from redflare_broker.job_store.record import APPROVED, COMPLETED, DISPATCHED, RUNNING, SUBMITTED, UNFINISHED, JobRecord
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.jobs.job_meta import parse_meta
from redflare_workers.server.parent.job_files import prepare
from redflare_workers.server.parent.job_runner import JobRunner
from redflare_workers.server.parent.job_verdict import JobVerdict
from redflare_workers.server.parent.log_writer import LogWriter
from redflare_workers.server.parent.record_keeper import RecordKeeper
from redflare_workers.server.parent.runner_context import RunnerContext
from redflare_workers.workspace.run_folder import RunFolder
from redflare_workers.workspace.site_settings import SiteSettings

from tests.support.federation.client_parents import META
from tests.support.redis_server.snapshot import Snapshot

#: How that job ends.
DONE: Final = JobVerdict(status=COMPLETED, reason="3 rounds")


def runner_context(store: JobStore, workspace: Path, cell: Any = None) -> RunnerContext:
    """What a server's runners share; ``cell``: asks the sites."""
    return RunnerContext(
        workspace=workspace,
        settings=SiteSettings(),
        cell=cell,
        store=store,
        logs=LogWriter(store),
        redis_url="",
        server_name="server",
        secure_mode=False,
        cell_of=str,
        is_alive=lambda site: True,
        has_left=lambda site: False,
        on_done=lambda job, ended: None,
    )


class RunnerBench:
    """A store, and the runner of a job that is at a site."""

    def __init__(self, server: Server, client: Any, workspace: Path) -> None:
        self.client = client
        self.store = JobStore(server, Keys())
        self.workspace = workspace
        self.keeper = RecordKeeper(self.store, workspace)
        self.context = runner_context(self.store, workspace)
        #: What a replica had when the job was of each status.
        self.replicas: dict[str, Snapshot] = {}
        self.store.submit(META, b"zip", "job-1", submitter="ann")
        self.move(SUBMITTED, APPROVED)
        self.move(APPROVED, DISPATCHED, "to 1 sites: site-1")
        running = self.move(DISPATCHED, RUNNING, "at 1 of 1 sites")
        self.runner = JobRunner(running, parse_meta(META)[0], ("site-1",), self.context)
        prepare(RunFolder(workspace, "job-1"), "app", ("site-1",), META)

    def move(self, before: str, after: str, reason: str = "") -> JobRecord:
        self.replicas[before] = self.snapshot()
        record = self.store.advance("job-1", before, after, reason)
        assert record is not None
        return record

    def record(self) -> JobRecord:
        record = self.store.get("job-1")
        assert record is not None
        return record

    def reconcile(self, *runners: JobRunner) -> list[str]:
        return [record.id for record in self.keeper.compare(self.store.list(UNFINISHED), runners)]

    def snapshot(self) -> Snapshot:
        """What a replica has, that a failover may restore."""
        return Snapshot(self.client)


@contextmanager
def runner_bench(workspace: Path) -> Iterator[RunnerBench]:
    """A bench on fakeredis."""
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=client) as server:
        yield RunnerBench(server, client, workspace)
