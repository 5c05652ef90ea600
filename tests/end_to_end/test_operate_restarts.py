"""Three sites, one job, and each of its processes ended once, properly or by SIGKILL: the job completes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import pytest

from tests.support.federation.commands import OperatedFederation
from tests.support.federation.faulty_jobs import FaultyJobs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

COMPLETED = "FINISHED:COMPLETED"


def test_a_job_completes_although_each_of_its_processes_is_ended_once(operated: OperatedFederation) -> None:
    rounds = 80  # more than come to pass while processes are ended; the rest is quick
    faulty = FaultyJobs(operated)
    operated.server()
    operated.sites(1, 2, 3)
    for number in (1, 2, 3):
        (operated.trainer(number) / "slow").touch()
    operated.job(rounds=rounds, clients=3, save_dir="models")
    operated("job", "submit", "means", "--id", "long")
    witness = operated.trainer(3)

    def progress() -> int:
        return len(list(witness.glob("began-*")))

    def assert_progress(what: str) -> None:
        begun = progress()
        wait_until(lambda: progress() >= begun + 2, 40, f"rounds go on after {what}")

    assert_progress("the start")

    def killed(*parts: str) -> None:
        os.kill(operated.processes_of(*parts)[0], signal.SIGKILL)

    def again(end: Callable[[str], None], name: str, start: Callable[[], None]) -> None:
        end(name)
        start()

    kills: dict[str, Callable[[], None]] = {
        "the job's server": lambda: killed("server.job.job_main"),
        "a site's process of the job": lambda: killed("client.job.job_main", "site-3"),
        "an agent": lambda: again(operated.kill, "agent-1", lambda: operated.agent(1)),
        "an agent, in order": lambda: again(operated.end, "agent-2", lambda: operated.agent(2)),
        "a site": lambda: again(operated.kill, "site-1", lambda: operated.site(1)),
        "a site, in order": lambda: again(operated.end, "site-2", lambda: operated.site(2)),
        "the server": lambda: again(operated.kill, "server", operated.server),
        "the server, in order": lambda: again(operated.end, "server", operated.server),
    }
    for what, kill in kills.items():
        kill()
        assert_progress(what)
    for number in (1, 2, 3):
        (operated.trainer(number) / "slow").unlink()
    operated.await_status("long", COMPLETED)

    assert progress() == rounds
    log = operated("job", "log", "long")
    assert all(log.count(f"round {number} of {rounds} finished") == 1 for number in range(1, rounds + 1))
    assert {site["exit_code"] for site in operated.record("long")["sites"].values()} == {0}
    operated("job", "delete", "long")
    faulty.assert_clean()
    operated.assert_nothing_is_left("long")
