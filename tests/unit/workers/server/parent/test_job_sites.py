"""``JobSites`` with a cell that replies at once: what a site has reported is not overwritten by what it replies."""

from __future__ import annotations

import itertools
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
        self.silent: set[str] = set()
        self.on_reply: Callable[[str, Reply], object] = lambda site, reply: None

    def ask_many(
        self,
        channel: str,
        topic: str,
        targets: Mapping[str, Any],
        data: object = None,
        *,
        on_reply: Callable[[str, Reply], object],
    ) -> Any:
        self.on_reply = on_reply
        for site in targets:
            if site not in self.silent:
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


def test_a_site_that_says_bye_at_the_dispatch_is_not_waited_for(sites: JobSites, cell: RepliesAtOnce) -> None:
    two = of_two(sites, "site-2")
    cell.silent = {"site-2"}
    two.record(report(DEPLOYED))
    two.record(replace(report(DEPLOYED), site="site-2"))

    two.start(["site-1", "site-2"])

    # not failed either: it may join when it is back
    assert (two.sites, two.participants, two.shortage) == (("site-1",), ["site-1"], "")
    record = two.context.store.get("job-1")
    assert record is not None
    assert (record.sites["site-2"].status, record.sites["site-1"].status) == ("left", "starting")


def test_a_site_that_says_bye_and_that_the_job_needs_is_waited_for(sites: JobSites, cell: RepliesAtOnce) -> None:
    two = of_two(sites, "site-2", min_clients=2)
    cell.silent = {"site-2"}
    looks = itertools.count()

    def has_left(site: str) -> bool:
        if site == "site-2" and next(looks) == 20:
            cell.on_reply("site-2", Reply("OK", {}))
        return site == "site-2"

    two.context = replace(two.context, has_left=has_left)
    two.record(report(DEPLOYED))
    two.record(replace(report(DEPLOYED), site="site-2"))

    two.start(["site-1", "site-2"])

    assert two.participants == ["site-1", "site-2"]
    assert two.states()["site-2"].status == "starting"


def of_two(sites: JobSites, left: str, *, min_clients: int = 1) -> JobSites:
    """The same job at two sites, of which one has left."""
    return JobSites(
        sites.job,
        sites.submission,
        replace(sites.meta, min_clients=min_clients),
        ("site-1", "site-2"),
        META,
        replace(sites.context, has_left=lambda site: site == left),
        threading.Condition(),
        lambda: False,
    )
