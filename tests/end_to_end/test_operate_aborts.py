"""Three sites: jobs are aborted in each state that a job can have, and none of them leaves anything."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.support.federation.commands import RETENTION, OperatedFederation
from tests.support.federation.faulty_jobs import FaultyJobs, paused
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

ABORTED = "FINISHED:ABORTED"
COMPLETED = "FINISHED:COMPLETED"
SITES = ("site-1", "site-2", "site-3")


def abort(operated: OperatedFederation, job: str) -> dict[str, Any]:
    """Abort a job; return its record."""
    assert operated("job", "abort", job, "--reason", "enough").startswith(f"{job} {ABORTED}")
    record = operated.record(job)
    assert "enough" in record["reason"]
    assert not operated.processes_of("job_main", f"/{job}/")
    return record


def states(record: dict[str, Any]) -> list[str]:
    """The statuses in a job's history."""
    return [moment["status"] for moment in record["history"]]


def test_a_job_is_aborted_before_it_runs(operated: OperatedFederation) -> None:
    faulty = FaultyJobs(operated)
    faulty.allow_code(abort_grace=1.0, stop_grace=1.0)
    faulty.submit("submitted")
    assert states(abort(operated, "submitted")) == ["SUBMITTED", ABORTED]

    operated.server()
    for number in (1, 2):
        operated.site(number, allow_custom=True)
    faulty.submit("approved")
    operated.await_status("approved", "APPROVED")
    assert states(abort(operated, "approved")) == ["SUBMITTED", "APPROVED", ABORTED]

    operated.site(3, allow_custom=True)
    wait_until(lambda: "site-3" in operated("status"), 20)
    with paused(operated.processes_of("redflare", " site site-3 ")):
        faulty.submit_at_once("dispatched")
        operated.await_status("dispatched", "DISPATCHED")
        record = abort(operated, "dispatched")
        assert states(record) == ["SUBMITTED", "APPROVED", "DISPATCHED", ABORTED]
        assert "no reply from site-3" in record["reason"]

    faulty.submit("making", site={"at": "slow"})
    operated.await_log("making", "making")
    sites = abort(operated, "making")["sites"]
    assert sites["site-1"]["how"] == "terminated"
    assert {site["status"] for site in sites.values()} == {"stopped"}

    faulty.submit("server", server={"at": "slow"})
    operated.await_log("server", "making")
    abort(operated, "server")

    faulty.submit("well", "--wait")
    assert "is over already" in operated("job", "abort", "well")
    assert operated.record("well")["status"] == COMPLETED
    jobs = ("submitted", "approved", "dispatched", "making", "server", "well")
    faulty.assert_clean(*jobs)
    operated.assert_nothing_is_left(*jobs)


def test_of_two_jobs_at_once_one_is_aborted_and_the_other_completes(operated: OperatedFederation) -> None:
    faulty = FaultyJobs(operated)
    operated.server()
    operated.sites(1, 2, 3)
    for number in (1, 2, 3):
        operated.agent(number, "other")
        (operated.trainer(number) / "slow").touch()
    for job, agent_id, rounds in (("one", "trainer", 10_000), ("two", "other", 20)):
        operated.job(job, rounds=rounds, clients=3, agent_id=agent_id)
        operated("job", "submit", job, "--id", job)
    operated.job("third", rounds=1, clients=3)
    operated("job", "submit", "third", "--id", "third")
    for job in ("one", "two"):
        operated.await_log(job, "round 1 of")
    assert "agent trainer of site-1 is busy with job one" in operated("job", "show", "third")

    sites = abort(operated, "one")["sites"]
    assert {name: sites[name]["how"] for name in SITES} == dict.fromkeys(SITES, "cooperative")
    for job in ("third", "two"):
        operated.await_status(job, COMPLETED)
    for number in (1, 2, 3):
        (operated.trainer(number) / "slow").unlink()

    # what a trainer raises ends its job, and not its agent
    (operated.trainer(2) / "fail").touch()
    operated.job("raises", clients=3)
    operated("job", "submit", "raises", "--id", "raises", "--wait", code=1)
    assert operated.record("raises")["status"] == "FINISHED:EXECUTION_EXCEPTION"
    assert "the data are gone" in operated("job", "log", "raises", "--site", "site-2")
    jobs = ("one", "two", "third", "raises")
    faulty.assert_clean(*jobs)
    operated.assert_nothing_is_left(*jobs)
    wait_until(lambda: operated.client.dbsize() == 0, RETENTION + 4, "no key is left")
