"""For whom a job waits that is being given to its sites; on fakeredis, with a cell whose requests the test answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import fakeredis
import pytest
from redflare_broker.cell.cell import Reply, ReplyCode
from redflare_broker.job_store.record import APPROVED, DISPATCHED, SUBMITTED, JobRecord
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.jobs.job_folder import JobDefinition
from redflare_workers.jobs.job_meta import parse_meta
from redflare_workers.server.parent.job_sites import JobSites

from tests.support.calls import in_thread
from tests.support.federation.client_parents import META
from tests.support.job.runner_bench import runner_context
from tests.support.waiting import wait_until

SITES = ("site-1", "site-2")


class AskingCell:
    """A cell that asks sites; the test replies."""

    def __init__(self) -> None:
        self.reply: Callable[[str, Reply], object] | None = None
        #: how often somebody has begun to wait for replies
        self.waits = 0

    @property
    def interval(self) -> float:
        self.waits += 1
        return 0.02

    def ask_many(self, *_: object, on_reply: Callable[[str, Reply], object]) -> AskingCell:
        self.reply = on_reply
        return self

    def cancel(self) -> None:
        self.reply = None

    def answer(self, site: str) -> None:
        wait_until(lambda: self.reply)
        assert self.reply is not None
        self.reply(site, Reply(ReplyCode.OK, {}))


class OneApp:
    """A job with one app."""

    apps: Mapping[str, object] = {"app": None}

    def app_archive(self, app: str) -> bytes:
        return b""


class Bench:
    """A job that is dispatched to two sites."""

    def __init__(self, server: Server, workspace: Path) -> None:
        self.cell = AskingCell()
        self.store = JobStore(server, Keys())
        context = runner_context(self.store, workspace, self.cell)
        self.logs = context.logs
        self.store.submit(META, b"zip", "job-1", submitter="ann")
        self.store.advance("job-1", SUBMITTED, APPROVED, "")
        self.store.advance("job-1", APPROVED, DISPATCHED, "")
        submission = self.record().submission
        self.sites = JobSites(
            "job-1", submission, parse_meta(META)[0], SITES, META, context, threading.Condition(), lambda: False
        )

    def record(self) -> JobRecord:
        record = self.store.get("job-1")
        assert record is not None
        return record

    def waiting(self) -> str:
        waiting = self.record().waiting
        return waiting.reason if waiting else ""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=client) as server:
        bench = Bench(server, tmp_path)
        bench.logs.start()
        yield bench
        bench.logs.stop(5)


def test_the_record_and_the_log_say_which_sites_have_not_taken_the_job(bench: Bench) -> None:
    definition = cast("JobDefinition", OneApp())
    deploying = in_thread(lambda: bench.sites.deploy(definition, SITES, noted=True))
    wait_until(lambda: bench.waiting() == "waiting for site-1, site-2 to unpack the job, 120 s at most")
    bench.cell.answer("site-1")
    wait_until(lambda: bench.waiting() == "waiting for site-2 to unpack the job, 120 s at most")
    bench.cell.answer("site-2")
    deploying.join(10)
    starting = in_thread(lambda: bench.sites.start(SITES, noted=True))
    bench.cell.answer("site-2")
    wait_until(lambda: bench.waiting() == "waiting for site-1 to start the job, 60 s at most")
    bench.cell.answer("site-1")
    starting.join(10)
    assert bench.logs.flush(10)
    lines = [line.text for line in bench.store.read_log("job-1")]
    assert [line for line in lines if "site-2 to unpack" in line and "site-1" not in line]


def test_a_job_that_runs_does_not_wait_for_a_site_that_joins(bench: Bench) -> None:
    joining = in_thread(lambda: bench.sites.deploy(cast("JobDefinition", OneApp()), SITES))
    # a dispatch says something after the first
    wait_until(lambda: bench.cell.waits > 2)
    for site in SITES:
        bench.cell.answer(site)
    joining.join(10)
    assert bench.waiting() == ""
