"""A federation as it is operated: every process and every action of the operator is a ``redflare`` command."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.federation.commands import OperatedFederation
from tests.support.waiting import wait_until

COMPLETED = "FINISHED:COMPLETED"
ABORTED = "FINISHED:ABORTED"


def test_a_job_is_submitted_run_downloaded_and_deleted(operated: OperatedFederation) -> None:
    operated.server()
    operated.sites(1, 2)
    operated.job(rounds=3, save_dir="models")

    assert operated("job", "submit", "means", "--id", "monday") == "monday\n"
    log = operated("job", "log", "monday", "--follow")

    assert "round 3 of 3 finished" in log
    record = operated.record("monday")
    assert record["status"] == COMPLETED
    assert [moment["status"] for moment in record["history"]] == [
        "SUBMITTED",
        "APPROVED",
        "DISPATCHED",
        "RUNNING",
        COMPLETED,
    ]
    assert {name: site["exit_code"] for name, site in record["sites"].items()} == {"site-1": 0, "site-2": 0}
    assert "COMPLETED" in operated("job", "list")
    files = operated.json("job", "download", "monday", "--to", "result")["files"]
    assert "log.txt" in files
    assert any(name.startswith("models/") for name in files), files
    assert operated("job", "download", "monday", "--archive", "--to", "again") == "again\n"
    assert json.loads((operated.folder / "again" / "meta.json").read_text())["name"] == "means"

    assert operated("job", "delete", "monday") == "deleted monday\n"
    assert operated.json("job", "list", code=1) == []
    wait_until(lambda: not operated.folders_of("monday"))
    operated.assert_nothing_is_left("monday")


def test_an_abort_ends_a_trainer_that_ignores_it_and_names_the_sites_that_confirmed_it(
    operated: OperatedFederation,
) -> None:
    operated.server()
    operated.sites(1, 2)
    (operated.trainer(1) / "hang").touch()
    operated.job(rounds=100)
    operated("job", "submit", "means", "--id", "stuck")
    wait_until((operated.trainer(1) / "began-0").exists, 40)
    wait_until(lambda: "sent to site-1" in operated("job", "show", "stuck"), 20)

    aborted = operated("job", "abort", "stuck", "--reason", "enough")

    assert aborted.startswith(f"stuck {ABORTED}")
    record = operated.record("stuck")
    assert "enough" in record["reason"]
    assert {site["how"] for site in record["sites"].values()} <= {"cooperative", "terminated", "killed"}
    assert {site["status"] for site in record["sites"].values()} == {"stopped"}
    wait_until(lambda: "aborted: its task was aborted" in operated.log("agent-1"), 20)
    # the site takes part in the next job
    (operated.trainer(1) / "hang").unlink()
    operated.job("next", rounds=2)
    operated("job", "submit", "next", "--wait", "--id", "next")
    operated("job", "delete", "stuck", "next")
    wait_until(lambda: not operated.folders_of("stuck") + operated.folders_of("next"))
    operated.assert_nothing_is_left("stuck", "next")


def test_a_job_that_waits_for_server_and_sites_shows_the_reason_and_is_aborted_at_once(
    operated: OperatedFederation,
) -> None:
    operated.job()
    operated("job", "submit", "means", "--id", "early")
    assert "no server is running" in operated("job", "show", "early")
    operated("job", "submit", "means", "--id", "unwanted")
    assert operated("job", "abort", "unwanted").startswith(f"unwanted {ABORTED}")

    operated.server()
    operated.sites(1)
    wait_until(lambda: (operated.record("early")["waiting"] or {}).get("reason", "").count("site"), 40)
    assert "delete" in operated.json("job", "delete", "early", code=1)["refused"][0]
    operated.sites(2)

    operated.await_status("early", COMPLETED)
    assert operated.record("unwanted")["status"] == ABORTED
    operated("job", "delete", "early", "unwanted")
    operated.assert_nothing_is_left()


def test_a_job_continues_although_each_process_is_killed_once(operated: OperatedFederation) -> None:
    operated.server()
    operated.sites(1, 2)
    (operated.trainer(1) / "slow").touch()
    operated.job(rounds=30)
    operated("job", "submit", "means", "--id", "long")
    wait_until((operated.trainer(2) / "began-2").exists, 40)

    operated.kill("agent-1")
    operated.agent(1)
    wait_until((operated.trainer(2) / "began-5").exists, 40)
    operated.kill("site-1")
    operated.site(1)
    wait_until((operated.trainer(2) / "began-9").exists, 40)
    operated.kill("server")
    operated.server()

    operated("job", "log", "long", "--follow")
    record = operated.record("long")
    assert record["status"] == COMPLETED, record["reason"]
    operated("job", "delete", "long")
    wait_until(lambda: not operated.folders_of("long"))
    operated.assert_nothing_is_left("long")


def test_a_job_whose_trainer_dies_each_time_ends_with_its_last_exit(operated: OperatedFederation) -> None:
    operated.server()
    operated.sites(1, 2)
    (operated.trainer(1) / "die").touch()
    operated.job(rounds=2)

    operated("job", "submit", "means", "--wait", "--id", "dies", code=1)

    record = operated.record("dies")
    assert record["status"] == "FINISHED:EXECUTION_EXCEPTION"
    assert "site-1" in record["reason"]
    assert "3 agents have died with it (max_attempts); the last one: killed by SIGKILL" in record["reason"]
    log = operated("job", "log", "dies")
    # a heartbeat sees the attempt: three quick deaths may be two for it
    assert re.search(r"is at attempt [23]: the agent that had it is gone", log)
    # the site takes part in the next job
    (operated.trainer(1) / "die").unlink()
    operated.job("next", rounds=2)
    operated("job", "submit", "next", "--wait", "--id", "next")
    operated("job", "delete", "dies", "next")
    wait_until(lambda: not operated.folders_of("dies") + operated.folders_of("next"))
    operated.assert_nothing_is_left("dies", "next")


def test_jobs_of_the_same_agents_run_one_after_the_other(operated: OperatedFederation) -> None:
    operated.server()
    operated.sites(1, 2)
    jobs = ("one", "two")
    for name in jobs:
        operated.job(name, rounds=3)
        operated("job", "submit", name, "--id", name)

    for name in jobs:
        operated.await_status(name, COMPLETED)
    over, begun = operated.record("one")["history"][-1], operated.record("two")["history"][-3]
    assert (over["status"], begun["status"]) == (COMPLETED, "DISPATCHED")
    assert over["at"] <= begun["at"]
    operated("job", "delete", *jobs)
    wait_until(lambda: not any(operated.folders_of(name) for name in jobs))
    operated.assert_nothing_is_left(*jobs)


def test_a_job_that_asks_for_what_a_site_does_not_admit_ends_with_the_reason(operated: OperatedFederation) -> None:
    operated.server()
    operated.sites(1, 2)
    custom_job(operated, "from redflare_workers import Executor\n\nclass Mine(Executor):\n    pass\n")

    ended = operated("job", "submit", "means", "--wait", "--id", "unsafe", code=1)

    assert "FINISHED:" in ended
    assert "mine.Mine" in operated.record("unsafe")["reason"]
    operated("job", "delete", "unsafe")
    operated.assert_nothing_is_left("unsafe")


CUSTOM = """
import threading
from redflare_workers import Executor

{at_import}

class Mine(Executor):
    def __init__(self):
        super().__init__()
        {at_start}

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        print("round", shareable.get_header("current_round"), flush=True)
        {in_a_task}
        return shareable
"""
FAIL = "raise RuntimeError('no such luck')"


@pytest.mark.parametrize("where", ["at_import", "at_start", "in_a_task"])
def test_a_job_whose_code_raises_ends_with_the_reason_and_its_log(operated: OperatedFederation, where: str) -> None:
    operated.server()
    for number in (1, 2):
        operated.site(number, allow_custom=True)
    code = CUSTOM.format(**{"at_import": "", "at_start": "pass", "in_a_task": "pass", where: FAIL})
    custom_job(operated, code)

    operated("job", "submit", "means", "--wait", "--id", "broken", code=1)

    record = operated.record("broken")
    assert record["status"].startswith("FINISHED:")
    reported = record["reason"] + json.dumps(record["sites"]) + operated("job", "log", "broken")
    assert "no such luck" in reported, reported
    operated("job", "delete", "broken")
    wait_until(lambda: not operated.folders_of("broken"))
    operated.assert_nothing_is_left("broken")


def test_a_job_that_hangs_in_the_site_s_process_is_ended_by_force(operated: OperatedFederation) -> None:
    operated.server()
    for number in (1, 2):
        operated.site(number, allow_custom=True, abort_grace=1, stop_grace=1)
    hang = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15}); threading.Event().wait()"
    custom_job(operated, CUSTOM.format(at_import="", at_start="pass", in_a_task=hang))
    operated("job", "submit", "means", "--id", "hangs")
    operated.await_log("hangs", "round", 2)

    operated("job", "abort", "hangs")

    record = operated.record("hangs")
    assert record["status"] == ABORTED
    assert {site["how"] for site in record["sites"].values()} <= {"terminated", "killed"}
    operated("job", "delete", "hangs")
    wait_until(lambda: not operated.folders_of("hangs"))
    operated.assert_nothing_is_left("hangs")


def custom_job(operated: OperatedFederation, code: str) -> None:
    """Write the job with ``code`` as executor, in place of agents."""
    app = operated.job() / "app"
    (app / "custom").mkdir(exist_ok=True)
    (app / "custom" / "mine.py").write_text(code)
    executors = {"format_version": 2, "executors": [{"tasks": ["train"], "executor": {"path": "mine.Mine"}}]}
    (app / "config" / "config_fed_client.json").write_text(json.dumps(executors))


def test_all_errors_of_a_job_are_reported_together_and_nothing_is_submitted(operated: OperatedFederation) -> None:
    folder = operated.job()
    (folder / "meta.json").write_text('{"name": "", "min_clients": -1, "deploy_map": {"app": ["@ALL"]}}')

    problems = operated.json("job", "submit", "means", code=2)["problems"]

    assert len(problems) >= 2
    assert {problem["file"] for problem in problems} == {"meta.json"}
    assert operated.json("job", "list", code=1) == []
