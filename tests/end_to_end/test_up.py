"""``redflare up`` as a user runs it: jobs run, it goes on after Ctrl-C and SIGKILL, and no process is left behind."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer

from tests.support.federation.up import UpFolderOfTest
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

COMPLETED = "FINISHED:COMPLETED"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[UpFolderOfTest]:
    with UpFolderOfTest(tmp_path) as made:
        yield made


def test_a_job_runs_ctrl_c_leaves_nothing_and_the_next_start_knows_it(folder: UpFolderOfTest) -> None:
    folder.job(rounds=3)
    up = folder.up()

    assert "round 3 of 3 finished" in folder("job", "submit", "means", "--id", "monday", "--wait")
    assert "2 of 2 sites connected" in folder("status")
    assert "agent-1 | " in up.text
    assert "has task" in (folder.folder / "redflare-up" / "logs" / "agent-1.log").read_text()

    assert up.end() == 130
    assert folder.processes() == []
    ends = [up.text.index(f"redflare: {name}: ended") for name in ("agent-2", "site-2", "server", "redis")]
    assert ends == sorted(ends)
    folder("status", "--patience", "0", code=3)

    again = folder.up()
    assert folder.status_of("monday") == COMPLETED
    assert any("out/" in line for line in folder("job", "download", "monday", "--json").splitlines())
    assert again.end(signal.SIGTERM) == 0
    assert folder.processes() == []


@pytest.mark.parametrize("page", ["README.md", "docs/up.md"])
def test_the_commands_of_the_pages_run_the_example(folder: UpFolderOfTest, page: str) -> None:
    shutil.copytree(ROOT / "examples" / "operate", folder.folder, dirs_exist_ok=True)
    shown = re.findall(r"^(?:\$ )?redflare (\S.*?)(?: {2,}#.*)?$", (ROOT / page).read_text(), re.M)
    first = next(number for number, each in enumerate(shown) if each.startswith("up --sites"))
    _, *arguments = shlex.split(shown[first])
    up = folder.up(*arguments)
    submit = next(each for each in shown[first:] if each.startswith("job submit"))
    assert "round 5 of 5 finished" in folder(*shlex.split(submit))
    assert "2 of 2 agents connected" in folder("status")
    assert up.end() == 130


def test_a_job_goes_on_after_ctrl_c(folder: UpFolderOfTest) -> None:
    folder.job(rounds=12)
    (folder.folder / "slow").touch()
    up = folder.up()
    folder("job", "submit", "means", "--id", "long")
    folder.await_round(3)
    assert up.end() == 130
    assert folder.processes() == []

    folder.up()
    (folder.folder / "slow").unlink()

    log = folder("job", "log", "long", "--follow")
    assert folder.status_of("long") == COMPLETED
    assert all(log.count(f"round {number} of 12 finished") == 1 for number in range(1, 13))


def test_a_job_goes_on_after_the_supervisor_was_killed_and_nothing_of_it_is_left(folder: UpFolderOfTest) -> None:
    folder.job(rounds=12)
    (folder.folder / "slow").touch()
    up = folder.up()
    folder("job", "submit", "means", "--id", "long")
    folder.await_round(3)
    before = folder.processes()
    # one that hears nothing: the next start must kill it
    deaf = folder.processes_of("agent", "site-1")[0]
    deaf.suspend()
    up.end(signal.SIGKILL)

    again = folder.up()

    assert [process for process in before if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    assert "the last `redflare up` in this folder was killed" in again.text
    (folder.folder / "slow").unlink()
    folder("job", "log", "long", "--follow")
    assert folder.status_of("long") == COMPLETED
    assert again.end() == 130
    assert folder.processes() == []


def test_without_a_next_start_all_end_after_the_supervisor_was_killed(folder: UpFolderOfTest) -> None:
    folder.up().end(signal.SIGKILL)
    wait_until(lambda: not folder.processes(), 30, "the end of all processes")


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        ("nowhere:train", "there is no module 'nowhere'"),
        ("trainer:tran", "module 'trainer' has no 'tran'; did you mean 'train'?"),
        ("trainer:TRAINER", "must be a function"),
    ],
)
def test_a_bad_function_ends_it_with_the_reason(folder: UpFolderOfTest, train: str, reason: str) -> None:
    (folder.folder / "trainer.py").write_text("TRAINER = 1\ndef train(task): pass\n")
    up = folder.up(train=train, connected=False)
    assert up.wait() == 2
    last = up.text.splitlines()[-1]
    assert last.startswith("redflare: agent-")
    assert reason in last
    assert folder.processes() == []


def test_a_port_that_is_taken_ends_it_with_the_reason(folder: UpFolderOfTest) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = folder.up("--port", str(port), connected=False)
        assert up.wait() == 2
    assert up.text.splitlines()[-1] == (
        f"redflare: redis cannot run: port {port} of 127.0.0.1 is taken: give another one"
    )
    assert folder.processes() == []


def test_a_second_one_in_the_folder_is_refused_and_the_first_goes_on(folder: UpFolderOfTest) -> None:
    folder.job(rounds=2)
    up = folder.up()
    second = folder.up(connected=False)
    assert second.wait() == 4
    assert f"process {up.process.pid} runs `redflare up`" in second.text
    folder("job", "submit", "means", "--wait")
    assert up.end() == 130


def test_what_is_killed_comes_back_and_the_job_goes_on(folder: UpFolderOfTest) -> None:
    folder.job(rounds=40)
    (folder.folder / "slow").touch()
    up = folder.up()
    folder("job", "submit", "means", "--id", "long")
    victims = {
        "site-1": ("site", "site-1"),
        "agent-2": ("agent", "site-2"),
        "server": ("server", "--name"),
        "redis": ("redflare_workers.up.redis_main",),
    }
    for name, parts in victims.items():
        folder.await_round(max(folder.rounds(), default=0) + 2)
        folder.processes_of(*parts)[0].kill()
        up.await_text(f"redflare: {name}: died, killed by SIGKILL; starting it again in 1 s")
        up.await_text(f"redflare: {name}: connected again")
    folder.await_round(max(folder.rounds(), default=0) + 2)
    folder.valkey().kill()
    up.await_text("redflare: redis: died, exit code 1 .*; starting it again in 2 s")
    up.await_text("redflare: redis: connected again", 2)
    (folder.folder / "slow").unlink()
    folder("job", "log", "long", "--follow")
    assert folder.status_of("long") == COMPLETED
    assert up.end() == 130
    assert folder.processes() == []


def test_what_hears_no_signal_is_killed_after_a_while_or_on_the_second_ctrl_c(folder: UpFolderOfTest) -> None:
    up = folder.up("--sites", "1")
    folder.processes_of("agent", "site-1")[0].suspend()
    folder.processes_of("site", "site-1")[0].suspend()
    folder.valkey().suspend()
    up.process.send_signal(signal.SIGINT)
    up.await_text("killing agent-1")
    assert up.end() == 130
    assert all(f"killing {name}\n" in up.text for name in ("site-1", "redis"))
    assert folder.processes() == []


def test_an_agent_that_takes_a_name_over_is_left_alone(folder: UpFolderOfTest) -> None:
    up = folder.up("--sites", "1")
    with folder.background("agent", "run", "trainer:train", "--site", "site-1", "--take-over"):
        up.await_text("redflare: agent-1: .*not started again: another process has its name")
        assert "1 of 1 agents connected" in folder("status")
    assert up.end() == 130


def test_a_redis_that_is_given_is_used_and_stays(folder: UpFolderOfTest) -> None:
    folder.job(rounds=2)
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        up = folder.up("--url", server.url)
        folder("job", "submit", "means", "--wait")
        assert client.dbsize() > 0
        assert up.end() == 130
        assert client.ping()
    assert folder.processes() == []


def test_a_redis_that_is_given_and_away_is_told_at_once(folder: UpFolderOfTest) -> None:
    up = folder.up("--url", "unix:///nowhere/server.sock", connected=False)
    assert up.wait() == 3
    assert "nowhere" in up.text
    assert folder.processes() == []


def test_it_ends_all_when_nobody_reads_what_it_prints(folder: UpFolderOfTest) -> None:
    with folder.piped() as (process, output):
        for line in output:
            if "all are connected" in line:
                break
        output.close()
        folder.processes_of("agent", "site-1")[0].kill()
        assert process.wait(60) == 0
    assert folder.processes() == []
