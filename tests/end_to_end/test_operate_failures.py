"""Jobs whose code fails, on three sites: each ends with a status and the reason, and the next one completes."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.support.federation.commands import OperatedFederation
from tests.support.federation.faulty_jobs import EXECUTOR, FLOW, FaultyJobs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

RAISED = "FINISHED:EXECUTION_EXCEPTION"
AT_IMPORT = "raise OSError('no licence')\n"

#: By job: options that make it fail, and a part of the reason.
AT_SITE: dict[str, tuple[dict[str, Any], str]] = {
    "import": ({"executor": EXECUTOR + AT_IMPORT}, "no licence"),
    "start": ({"site": {"at": "init"}}, "no such device"),
    "round-2": ({"site": {"at": "round 2"}}, "min_clients is 3"),
    "crash": ({"site": {"at": "crash"}}, "exit code 77"),
}
AT_SERVER: dict[str, tuple[dict[str, Any], str]] = {
    "import": ({"flow": FLOW + AT_IMPORT}, "no licence"),
    "start": ({"server": {"at": "start"}}, "no such table"),
    "round-2": ({"server": {"at": "round 2"}}, "the disk is full"),
}


@pytest.mark.parametrize(
    ("cases", "hangs", "logged", "how"),
    [
        (AT_SITE, {"site": {"at": "hang"}}, "works on round 1", {"site-1": "killed"}),
        (AT_SERVER, {"server": {"at": "hang"}}, "round 1 of 3 finished", {}),
    ],
    ids=["at a site", "at the server"],
)
def test_a_job_whose_code_raises_or_hangs_ends_with_the_reason(
    operated: OperatedFederation,
    cases: dict[str, tuple[dict[str, Any], str]],
    hangs: dict[str, Any],
    logged: str,
    how: dict[str, str],
) -> None:
    faulty = FaultyJobs(operated)
    faulty.allow_code(abort_grace=1.0, stop_grace=1.0)
    operated.server()
    for number in (1, 2, 3):
        operated.site(number, allow_custom=True, abort_grace=1.0, stop_grace=1.0)

    for job, (options, reason) in cases.items():
        faulty.submit(job, "--wait", code=1, **options)
        record = operated.record(job)
        assert (record["status"], reason in record["reason"]) == (RAISED, True), record
        assert not operated.processes_of("job_main", f"/{job}/")

    faulty.submit("hangs", **hangs)
    operated.await_log("hangs", logged)
    assert operated("job", "abort", "hangs", "--reason", "it hangs").startswith("hangs FINISHED:ABORTED")
    sites = operated.record("hangs")["sites"]
    assert [sites[f"site-{number}"]["status"] for number in (1, 2, 3)] == ["stopped"] * 3
    assert {site: sites[site]["how"] for site in how} == how
    assert not operated.processes_of("job_main")

    faulty.submit("well", "--wait")
    faulty.assert_clean("well", "hangs", *cases)
    operated.assert_nothing_is_left("well", "hangs", *cases)
