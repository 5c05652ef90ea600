"""``JobSites`` with a cell that replies at once: what a site has reported is not overwritten by what it replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redflare_broker.cell.request import Reply
from redflare_broker.job_store.record import SiteState
from redflare_workers.processes.how_ended import KILLED, NOT_RUNNING
from redflare_workers.protocol.parent_messages import AbortProof, SiteReport
from redflare_workers.server.parent.job_sites import DEPLOYED, JobSites

from tests.support.federation.client_parents import META
from tests.support.job.runner_bench import runner_bench


class RepliesAtOnce:
    """A cell whose requests are answered by ``reply`` before they return."""

    interval = 0.05

    def __init__(self) -> None:
        self.reply: Callable[[str], Reply] = lambda site: Reply("OK", {})

    def ask_many(
        self,
        channel: str,
        topic: str,
        targets: Mapping[str, Any],
        data: object = None,
        *,
        on_reply: Callable[[str, Reply], object],
    ) -> Any:
        for site in targets:
            on_reply(site, self.reply(site))
        return SimpleNamespace(cancel=lambda: None)


@pytest.fixture
def cell() -> RepliesAtOnce:
    return RepliesAtOnce()


@pytest.fixture
def sites(tmp_path: Path, cell: RepliesAtOnce) -> Iterator[JobSites]:
    with runner_bench(tmp_path) as bench:
        context = replace(bench.context, cell=cast("Any", cell))
        submission = bench.record().submission
        meta = bench.runner.meta
        yield JobSites("job-1", submission, meta, ("site-1",), META, context, threading.Condition(), lambda: False)


def report(status: str, reason: str = "", code: int | None = None) -> SiteReport:
    return SiteReport(site="site-1", job="job-1", run="r", status=status, reason=reason, exit_code=code)


def test_a_site_that_has_reported_its_end_before_it_replies_to_the_start_does_not_seem_to_run(
    sites: JobSites, cell: RepliesAtOnce
) -> None:
    def end_first(site: str) -> Reply:
        sites.record(report("exception", "no such device", 1))
        return Reply("OK", {})

    sites.record(report(DEPLOYED))
    cell.reply = end_first
    sites.start(["site-1"])
    assert (sites.states()["site-1"].status, sites.states()["site-1"].reason) == ("exception", "no such device")
    assert sites.participants == []


def test_a_site_that_has_not_reported_yet_runs_when_it_replies_to_the_start(sites: JobSites) -> None:
    sites.record(report(DEPLOYED))
    sites.start(["site-1"])
    assert sites.states()["site-1"].status == "starting"


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [(NOT_RUNNING, "exception", "no such device"), (KILLED, "stopped", "aborted: enough")],
)
def test_an_abort_keeps_the_reason_of_a_site_that_had_ended_before(
    sites: JobSites, cell: RepliesAtOnce, how: str, status: str, reason: str
) -> None:
    sites.record(report("exception", "no such device", 1))
    cell.reply = lambda site: Reply(
        "OK", AbortProof(how=how, at=1.0, exit_code=1, agents={"site-1--a": "killed"}).to_meta()
    )
    assert sites.abort("enough", ["site-1"])["site-1"].how == how
    record = sites.context.store.get("job-1")
    assert record is not None
    for state in (sites.states()["site-1"], record.sites["site-1"]):
        assert (state.status, state.reason) == (status, reason)
        assert state.agents_left == ("agent site-1--a killed" if how == KILLED else "")


def test_what_the_last_server_recorded_of_a_site_does_not_replace_what_the_site_has_reported_since(
    sites: JobSites,
) -> None:
    recorded = {"site-1": SiteState(status="started"), "site-2": SiteState(status="started")}
    sites.record(report("exception", "no such device", 1))
    sites.restore(recorded)
    assert {site: state.status for site, state in sites.states().items()} == {"site-1": "exception"}
