"""The audit logs of a server and its sites: what is in them of each job, and that a change of them is found."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.config.settings import LinkSettings
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.audit.audit_files import audit_files, audit_folder
from redflare_workers.jobs import pack_files
from redflare_workers.protocol.job_control import AbortRun
from redflare_workers.protocol.message import WRONG_SENDER, Message
from redflare_workers.protocol.parent_messages import AbortRequest, SiteReport

from tests.support.federation.commands import OperatedFederation
from tests.support.federation.faulty_jobs import files_of
from tests.support.waiting import wait_until

COMPLETED: Final = "FINISHED:COMPLETED"
ABORTED: Final = "FINISHED:ABORTED"
WORKSPACES: Final = ("server", "site-1", "site-2")


def entries(operated: OperatedFederation, workspace: str, *options: str) -> list[dict[str, Any]]:
    """The entries of a log, as the command shows them."""
    ran = operated.run("audit", "show", workspace, "--json", *options)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def actions(operated: OperatedFederation, workspace: str, job: str) -> list[str]:
    return [entry["action"] for entry in entries(operated, workspace, "--job", job)]


def assert_whole(operated: OperatedFederation) -> None:
    for workspace in WORKSPACES:
        assert "entries are as they were written" in operated("audit", "verify", workspace)


def verified(operated: OperatedFederation, *arguments: str) -> subprocess.CompletedProcess[str]:
    return operated.run("audit", "verify", *arguments)


def test_the_logs_tell_of_jobs_that_complete_are_aborted_and_are_refused(operated: OperatedFederation) -> None:
    operated.server()
    operated.sites(1, 2)
    operated.job(rounds=2)
    operated("job", "submit", "means", "--wait", "--id", "monday")
    operated("job", "delete", "monday")
    wait_until(lambda: not operated.folders_of("monday"))
    wait_until(lambda: actions(operated, "server", "monday")[-1] == "delete")

    assert actions(operated, "server", "monday") == ["submit", "approve", "dispatch", "start", "end", "delete"]
    for site in ("site-1", "site-2"):
        assert actions(operated, site, "monday") == ["deploy", "start", "end", "delete"]
    submit, approve, dispatch, start, end, _ = entries(operated, "server", "--job", "monday")
    assert submit["claimed"]
    assert "@" in submit["by"]
    assert (approve["by"], approve["claimed"]) == ("server", False)
    assert sorted(dispatch["facts"]["sites"]) == ["site-1", "site-2"]
    assert end["facts"]["status"] == COMPLETED
    assert {site: each["exit_code"] for site, each in end["facts"]["sites"].items()} == {"site-1": 0, "site-2": 0}
    assert dispatch["facts"]["heads"].keys() == end["facts"]["heads"].keys() == {"site-1", "site-2"}
    assert len({each["subject"]["submission"] for each in (submit, approve, dispatch, start, end)}) == 1

    abort_a_job(operated)
    refuse_jobs(operated)
    table = operated("audit", "show", "server", "--action", "refuse")
    assert "odd" in table
    assert "mallory" not in table
    for name in ("agent-1", "agent-2", "site-1", "site-2", "server"):
        operated.end(name)
    assert_whole(operated)
    assert_cuts_are_found(operated)


def abort_a_job(operated: OperatedFederation) -> None:
    (operated.trainer(1) / "hang").touch()
    operated.job("stuck", rounds=100)
    operated("job", "submit", "stuck", "--id", "stuck")
    wait_until(lambda: "sent to site-1" in operated("job", "show", "stuck"), 40)
    operated("job", "abort", "stuck", "--reason", "enough")
    assert actions(operated, "server", "stuck") == ["submit", "approve", "dispatch", "start", "abort", "end"]
    assert actions(operated, "site-2", "stuck") == ["deploy", "start", "abort", "end"]
    abort, end = entries(operated, "server", "--job", "stuck")[-2:]
    assert (abort["reason"], abort["claimed"]) == ("enough", True)
    assert "@" in abort["by"]
    assert "confirmed: " in end["reason"]
    assert end["facts"]["status"] == ABORTED
    assert {each["how"] for each in end["facts"]["sites"].values()} <= {"cooperative", "terminated", "killed"}
    (operated.trainer(1) / "hang").unlink()


def refuse_jobs(operated: OperatedFederation) -> None:
    """Have the server refuse a job, and the sites another one."""
    (operated.folder / "odd.zip").write_bytes(pack_files(files_of("odd", clients=2)))
    with Server.connect(operated.url) as connection:
        meta = json.loads(files_of("odd", clients=2)["meta.json"])
        JobStore(connection, Keys("flare")).submit(meta, operated.folder / "odd.zip", "odd", submitter="mallory")
    operated.await_status("odd", "FINISHED:CAN_NOT_SCHEDULE")
    submit, refuse = entries(operated, "server", "--job", "odd")
    assert (submit["action"], submit["by"], refuse["action"]) == ("submit", "mallory", "refuse")
    assert "flow.Flow is code that the job brings" in refuse["reason"]
    custom = operated.job("custom") / "app"
    (custom / "custom").mkdir()
    (custom / "custom" / "mine.py").write_text("from redflare_workers import Executor\nclass Mine(Executor): pass\n")
    executors = {"format_version": 2, "executors": [{"tasks": ["train"], "executor": {"path": "mine.Mine"}}]}
    (custom / "config" / "config_fed_client.json").write_text(json.dumps(executors))
    operated("job", "submit", "custom", "--wait", "--id", "custom", code=1)
    assert actions(operated, "server", "custom") == ["submit", "approve", "dispatch", "end"]
    [refuse] = entries(operated, "site-1", "--job", "custom")
    assert refuse["action"] == "refuse"
    assert "mine.Mine" in refuse["reason"]


def assert_cuts_are_found(operated: OperatedFederation) -> None:
    """Check that a site's log, and the server's, cannot be cut without the other's telling."""
    for one, other in (("site-1", "server"), ("server", "site-1")):
        assert "as the other log has noted them" in operated("audit", "verify", one, "--against", other)
        [path] = audit_files(audit_folder(operated.folder / one))
        content = path.read_bytes()
        last = next(entry for entry in reversed(entries(operated, other)) if _head_of(entry, one))
        sequence = int(_head_of(last, one).split()[0])
        path.write_bytes(b"".join(content.splitlines(keepends=True)[: sequence - 1]))
        assert verified(operated, one).returncode == 0
        cut = verified(operated, one, "--against", other)
        assert cut.returncode == 1
        assert f"entry {sequence} and those behind it were cut" in cut.stderr
        # an entry in the middle
        path.write_bytes(content.replace(b'"action":"deploy"', b'"action":"delete"').replace(b"approve", b"improve"))
        altered = verified(operated, one)
        assert altered.returncode == 1
        assert "was altered" in altered.stderr
        assert str(path) in altered.stderr
        path.write_bytes(content)


def _head_of(entry: dict[str, Any], writer: str) -> str:
    return str(entry["facts"].get("heads", {}).get(writer, ""))


def test_a_job_that_is_withdrawn_before_the_server_comes_is_in_its_log(operated: OperatedFederation) -> None:
    operated.job()
    operated("job", "submit", "means", "--id", "unwanted")
    operated("job", "abort", "unwanted", "--reason", "by mistake")
    operated.server()
    wait_until(lambda: len(actions(operated, "server", "unwanted")) == 3)
    operated.end("server")
    operated.server()
    operated("job", "delete", "unwanted")
    wait_until(lambda: len(actions(operated, "server", "unwanted")) == 4)
    assert actions(operated, "server", "unwanted") == ["submit", "abort", "end", "delete"]
    assert entries(operated, "server", "--action", "abort")[0]["reason"] == "by mistake"
    # a job of this id would be in the way of the log
    assert operated("job", "submit", "means", "--wait", "--id", "audit", code=1)
    assert "is not the run of a job" in operated.record("audit")["reason"]
    operated.end("server")
    operated.server()
    # nothing is told again after a restart
    assert actions(operated, "server", "unwanted") == ["submit", "abort", "end", "delete"]
    assert actions(operated, "server", "audit") == ["submit", "refuse"]


def in_a_long_job(operated: OperatedFederation, rounds: int) -> None:
    """Begin a job called long, and wait until it is in the middle of a round."""
    operated.server()
    operated.sites(1, 2)
    (operated.trainer(1) / "slow").touch()
    operated.job(rounds=rounds)
    operated("job", "submit", "means", "--id", "long")
    wait_until((operated.trainer(2) / "began-2").exists, 40)


@pytest.mark.parametrize("killed", [("server", "site-1")])
def test_logs_whose_writers_are_killed_in_the_middle_of_a_job_verify(
    operated: OperatedFederation, killed: tuple[str, ...]
) -> None:
    in_a_long_job(operated, rounds=15)
    for name in killed:
        operated.kill(name)
    operated.server()
    operated.site(1)
    operated("job", "log", "long", "--follow")
    operated.await_status("long", COMPLETED)
    assert actions(operated, "server", "long")[:4] == ["submit", "approve", "dispatch", "start"]
    assert actions(operated, "server", "long")[-1] == "end"
    assert actions(operated, "site-1", "long") == ["deploy", "start", "start", "end"]
    assert_whole(operated)
    for site in ("site-1", "site-2"):
        operated("audit", "verify", site, "--against", "server")


def test_a_server_whose_disk_is_full_takes_no_job_and_goes_on_with_those_that_run(operated: OperatedFederation) -> None:
    in_a_long_job(operated, rounds=15)
    [server] = operated.processes_of("redflare server --workspace")
    [path] = audit_files(audit_folder(operated.folder / "server"))
    resource.prlimit(server, resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY))

    operated("job", "submit", "means", "--id", "late")
    wait_until(lambda: "cannot be written" in operated("job", "show", "late"), 20)
    operated.await_status("long", COMPLETED)
    assert operated.record("late")["status"] == "SUBMITTED"
    assert verified(operated, "server").returncode == 0
    assert actions(operated, "server", "long")[-1] == "start"

    resource.prlimit(server, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (operated.trainer(1) / "slow").unlink()
    operated.await_status("late", COMPLETED)
    assert actions(operated, "server", "long") == ["submit", "approve", "dispatch", "start", "end"]
    assert actions(operated, "server", "late") == ["submit", "approve", "dispatch", "start", "end"]
    assert_whole(operated)


def test_messages_that_are_refused_are_in_the_logs_of_server_and_site(operated: OperatedFederation) -> None:
    in_a_long_job(operated, rounds=20)
    report = SiteReport(site="site-1", job="long", run="x", status="started")
    mallory(operated.url, "server", report, 30)
    mallory(operated.url, "server.long", AbortRun(run="x"), 3)
    mallory(operated.url, "site-1", AbortRequest(job="long"), 2)
    mallory(operated.url, "site-1.long", AbortRun(run="x"), 4)
    operated.await_status("long", COMPLETED)
    kind = "sent in the name of another"
    assert entries(operated, "server", "--job", "long")[-1]["facts"]["faults"] == {kind: 3}
    assert entries(operated, "site-1", "--job", "long")[-1]["facts"]["faults"] == {kind: 4}
    for name, count in (("server", 30), ("site-1", 2)):
        operated.end(name)
        first, rest = entries(operated, name, "--action", "fault")
        assert (first["by"], first["claimed"], first["facts"]["kind"]) == ("mallory", True, kind)
        assert rest["facts"] == {"kind": kind, "count": count - 1, "senders": {"mallory": count - 1}}


def mallory(url: str, target: str, message: Message, count: int) -> None:
    """Send a cell what it takes from another only."""
    with Server.connect(url) as connection:
        cell = Cell(connection, "mallory", LinkSettings(heartbeat_interval=0.2, heartbeat_ttl=2.0))
        cell.start()
        for _ in range(count):
            reply = cell.send_request(message.CHANNEL, message.TOPIC, target, message.to_meta(), timeout=20)
            assert reply.rc == WRONG_SENDER
        cell.stop()


def test_a_workspace_without_a_log_is_an_error(tmp_path: Path, operated: OperatedFederation) -> None:
    for command in ("show", "verify"):
        ran = operated.run("audit", command, str(tmp_path))
        assert ran.returncode == 2
        assert "there is no audit log" in ran.stderr
