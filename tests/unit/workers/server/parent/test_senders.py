"""A site reports and logs for itself, and only for jobs that it has a part in, and for the submission that it has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import Reply
from redflare_broker.job_store.record import ABNORMAL, APPROVED
from redflare_broker.job_store.store import JobStore
from redflare_broker.transport.server import Server
from redflare_workers.protocol.message import WRONG_SENDER, Message
from redflare_workers.protocol.parent_messages import SiteLog, SiteReport
from redflare_workers.server.parent import job_checks
from redflare_workers.server.parent.log_writer import LogWriter
from redflare_workers.server.parent.site_messages import SiteMessages

from tests.support.cell.cells import SETTINGS
from tests.support.federation.client_parents import META
from tests.support.federation.parent_bench import ParentBench
from tests.support.waiting import wait_until


class Sites:
    """A server with a job that has run at site-1, and the cells of two sites."""

    def __init__(self, server: Server, store: JobStore) -> None:
        self.store = store
        self.cells = [Cell(server, name, SETTINGS) for name in ("site-1", "site-2")]
        for cell in self.cells:
            cell.start()

    def send(self, number: int, message: Message) -> Reply:
        return self.cells[number - 1].send_request(
            message.CHANNEL, message.TOPIC, "server", message.to_meta(), timeout=10
        )

    def lines(self) -> list[str]:
        return [line.text for line in self.store.read_log("job-1") if line.site]


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sites]:
    monkeypatch.setattr(job_checks, "refusal", lambda *args: "")
    bench = ParentBench(tmp_path)
    bench.store.submit(META, b"zip", "job-1")
    wait_until(lambda: bench.status() == APPROVED)
    # over, or the server would take it up
    assert bench.store.advance("job-1", APPROVED, ABNORMAL)
    assert bench.store.set_site("job-1", "site-1", "started")
    made = Sites(bench.server, bench.store)
    yield made
    for cell in made.cells:
        cell.stop()
    bench.close()


def test_a_report_in_the_name_of_another_site_changes_nothing(sites: Sites) -> None:
    report = SiteReport(site="site-1", job="job-1", run="r", status="stopped", exit_code=1, reason="says site-2")
    reply = sites.send(2, report)
    assert reply.rc == WRONG_SENDER
    assert "may be sent by site-1 only, but came from site-2" in reply.error
    record = sites.store.get("job-1")
    assert record is not None
    assert record.sites["site-1"].status == "started"
    assert sites.send(1, report).ok


def test_a_log_line_in_the_name_of_another_site_is_not_stored(sites: Sites) -> None:
    assert sites.send(2, SiteLog(site="site-1", job="job-1", lines=["of site-2"])).rc == WRONG_SENDER
    assert sites.send(1, SiteLog(site="site-1", job="job-1", lines=["of site-1"])).ok
    wait_until(sites.lines)
    assert sites.lines() == ["of site-1"]


def test_a_site_without_a_part_in_a_job_has_no_lines_in_its_log(sites: Sites) -> None:
    reply = sites.send(2, SiteLog(site="site-2", job="job-1", lines=["of a stranger"]))
    assert (reply.rc, "site-2 has no part in job job-1" in reply.error) == ("BAD_REQUEST_DATA", True)
    assert sites.send(1, SiteLog(site="site-1", job="job-1", lines=["of site-1"])).ok
    wait_until(sites.lines)
    assert sites.lines() == ["of site-1"]


def test_what_an_earlier_job_of_the_same_id_says_is_not_the_new_ones(sites: Sites) -> None:
    record = sites.store.get("job-1")
    assert record is not None
    now = record.submission
    assert sites.send(1, SiteLog(site="site-1", job="job-1", lines=["old"], submission="an earlier one")).ok
    report = SiteReport(site="site-1", job="job-1", run="r", status="exception", submission="an earlier one")
    assert sites.send(1, report).meta["abort"] == "the job is unknown to the server"
    assert sites.send(1, replace(report, exit_code=1)).meta.get("abort", "") == ""
    assert sites.send(1, SiteLog(site="site-1", job="job-1", lines=["new"], submission=now)).ok
    wait_until(sites.lines)
    assert sites.lines() == ["new"]
    record = sites.store.get("job-1")
    assert record is not None
    assert record.sites["site-1"].status == "started"


@pytest.mark.parametrize("submission", ["", "this-one", "an-earlier-one"])
def test_a_report_of_an_earlier_job_does_not_reach_the_runner_of_another_of_its_id(
    sites: Sites, submission: str
) -> None:
    reports: list[SiteReport] = []
    runner: Any = SimpleNamespace(submission="this-one", on_report=reports.append, sites=("site-1",))
    ready = threading.Event()
    ready.set()
    with Cell(sites.cells[0].server, "other", SETTINGS) as cell:
        SiteMessages(sites.store, LogWriter(sites.store), ready, lambda job: runner).register(cell)
        report = SiteReport(site="site-1", job="job-1", run="r", status="started", submission=submission)
        reply = sites.cells[0].send_request(report.CHANNEL, report.TOPIC, "other", report.to_meta(), timeout=10)
    earlier = submission == "an-earlier-one"
    assert reports == ([] if earlier else [report])
    assert bool(reply.meta.get("abort")) is earlier
