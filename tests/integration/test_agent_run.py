"""``redflare agent run``: a user's function as an agent in a process of its own, which is kept and stopped."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from redflare_agent import IPCAgent
from redflare_broker.config.settings import LinkSettings
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.inspection.federation import Inspector
from redflare_broker.transport.server import Server
from redflare_workers.ipc.exchanger import IPCExchanger, TaskAborted
from redflare_workers.simulator import simulate
from redflare_workers.workflow import FedAvg

from tests.support.paths import ROOT
from tests.support.waiting import wait_until

REDFLARE: Final = Path(sys.executable).with_name("redflare")
TRAINER: Final = """
import ctypes, os, pathlib, signal, subprocess, threading
from redflare_agent import TaskResult

def train(task):
    if task.task_name == "die" and task.attempt == 1:
        os._exit(7)
    if task.task_name == "hang":
        child = subprocess.Popen(["sleep", "300"])
        pathlib.Path("child").write_text(str(child.pid))
        threading.Event().wait()
    if task.task_name == "freeze":
        pathlib.Path("frozen").touch()
        while True:
            ctypes.PyDLL(None).sleep(300)
    if task.task_name == "freeze a while":
        ctypes.PyDLL(None).sleep(4)
    if task.task_name == "handlers":
        ignored = {each.name: str(signal.getsignal(each) is signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGCHLD)}
        return TaskResult({}, ignored)
    if task.task_name == "wait":
        pathlib.Path("waits").touch()
        task.wait_aborted()
    return TaskResult({"pid": os.getpid(), "attempt": task.attempt}, task.data)

def with_site(task, site):
    return TaskResult({"site": site, "of task": task.site}, None)

def nothing():
    pass

number = 7
"""


class AgentRun:
    """The command as a process."""

    def __init__(
        self, url: str, folder: Path, *more: str, function: str = "trainer:train", ignores: Sequence[str] = ()
    ) -> None:
        (folder / "trainer.py").write_text(TRAINER)
        command = [str(REDFLARE), "agent", "run", function, "--site", "site-1", "--url", url, "--json", *more]
        if ignores:
            # as a shell starts a job in the background, or nohup a command
            command = ["sh", "-c", f"trap '' {' '.join(ignores)}; exec \"$@\"", "sh", *command]
        with (folder / "err").open("w") as errors:
            self.process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.events: list[dict[str, Any]] = []
        self._folder = folder
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        # what the trainer prints is there, too
        self.events.extend(json.loads(line) for line in self.process.stdout if line.startswith("{"))

    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(20)
        self._thread.join(5)
        assert self.process.stdout
        self.process.stdout.close()
        for event in self.events:
            assert not alive(event["pid"])
        return code

    def errors(self) -> str:
        return (self._folder / "err").read_text()


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield server.url


def exchanger(url: str) -> IPCExchanger:
    return IPCExchanger(redis_url=url, site_name="site-1", agent_id="trainer", settings=LinkSettings())


def test_signals_that_a_parent_ignores_are_not_ignored(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path, ignores=["CHLD", "INT"])
    with exchanger(url) as job:
        handlers = job.run("handlers", {}, timeout=20).data
        assert job.run("die", {}, timeout=20).meta["attempt"] == 2
    assert handlers == {"SIGINT": "False", "SIGCHLD": "False"}
    assert agent.end(signal.SIGINT) == 130
    assert agent.kinds() == ["started", "died", "started", "stopping", "ended"]
    assert "code 7" in agent.events[1]["text"]


def test_a_hangup_that_nohup_ignores_ends_nothing(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path, ignores=["HUP"])
    wait_until(lambda: agent.kinds() == ["started"], 20)
    agent.process.send_signal(signal.SIGHUP)
    with exchanger(url) as job:
        assert job.run("train", {"w": 1}, timeout=20).data == {"w": 1}
    assert agent.end() == 0


def test_it_serves_one_job_after_the_other_and_exits_with_code_0(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path)
    for number in range(2):
        with exchanger(url) as job:
            assert job.run("train", {"w": number}, timeout=20).data == {"w": number}

    assert agent.end() == 0
    assert agent.kinds() == ["started", "stopping", "ended"]
    with Server.connect(url) as server:
        assert Inspector(server, "flare").status().links[0].agent.state == "left"


def test_a_process_that_dies_is_started_again_and_gets_its_task(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path)
    with exchanger(url) as job:
        assert job.run("die", {}, timeout=30).meta["attempt"] == 2

    assert agent.end(signal.SIGINT) == 130
    assert agent.kinds() == ["started", "died", "started", "stopping", "ended"]


def abort(url: str, name: str, ready: Path) -> None:
    """Begin a task, and abort it when it has begun."""
    with exchanger(url) as job:

        def when_begun() -> None:
            wait_until(ready.exists, 20)
            job.stop()

        thread = threading.Thread(target=when_begun)
        thread.start()
        with pytest.raises(TaskAborted):
            job.run(name, {}, timeout=40)
        thread.join()


def test_an_abort_ends_a_function_that_does_not_return_with_all_that_it_started(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path, "--abort-grace", "0.5")
    abort(url, "hang", tmp_path / "child")

    wait_until(lambda: agent.kinds() == ["started", "aborted", "started"], 10)
    assert not alive(int((tmp_path / "child").read_text()))
    with exchanger(url) as job:
        assert job.run("train", {}, timeout=20).meta["pid"] == agent.events[-1]["pid"]
    assert agent.end() == 0


def test_an_abort_ends_a_function_that_never_lets_another_thread_run(url: str, tmp_path: Path) -> None:
    (tmp_path / "comm_config.json").write_text(QUICK)
    agent = AgentRun(url, tmp_path, "--abort-grace", "0.5")
    abort(url, "freeze", tmp_path / "frozen")

    wait_until(lambda: agent.kinds() == ["started", "aborted", "started"], 20)
    with exchanger(url) as job:
        assert job.run("train", {}, timeout=20).meta["pid"] == agent.events[-1]["pid"]
    assert agent.end() == 0


def test_a_function_that_never_lets_another_thread_run_may_do_so_while_its_task_is_wanted(
    url: str, tmp_path: Path
) -> None:
    (tmp_path / "comm_config.json").write_text(QUICK)
    agent = AgentRun(url, tmp_path, "--abort-grace", "0")
    with exchanger(url) as job:
        assert job.run("freeze a while", {}, timeout=40).meta["attempt"] == 1
    assert agent.end() == 0
    assert agent.kinds() == ["started", "stopping", "ended"]


def test_a_function_that_returns_when_its_task_is_aborted_keeps_its_process(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path, "--abort-grace", "20")
    abort(url, "wait", tmp_path / "waits")

    with exchanger(url) as job:
        assert job.run("train", {}, timeout=20).meta["pid"] == agent.events[0]["pid"]
    assert agent.end() == 0
    assert agent.kinds() == ["started", "stopping", "ended"]


def test_it_ends_in_the_middle_of_a_task_and_leaves_it_to_its_successor(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path, "--stop-grace", "0.5")
    with exchanger(url) as job:

        def ask() -> None:
            with contextlib.suppress(TaskAborted):
                job.run("wait", {}, timeout=40)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until((tmp_path / "waits").exists, 20)
        assert agent.end() == 0
        assert thread.is_alive()
        successor = AgentRun(url, tmp_path)
        wait_until(lambda: "attempt 2" in successor.errors(), 20)
        job.stop()
        assert successor.end() == 0
        thread.join(10)


def test_its_process_ends_when_the_command_is_killed(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path)
    with exchanger(url) as job:
        pid = job.run("train", {}, timeout=20).meta["pid"]
    os.kill(agent.process.pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 10)
    agent.wait()


def test_a_job_s_own_agent_ends_with_its_job(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path, "--job", "job-7")
    settings = LinkSettings()
    with IPCExchanger(redis_url=url, site_name="site-1", agent_id="trainer", job_id="job-7", settings=settings) as job:
        job.run("train", {}, timeout=20)

    assert agent.wait() == 0


def test_a_function_of_task_and_site_gets_the_site(url: str, tmp_path: Path) -> None:
    agent = AgentRun(url, tmp_path, function="trainer:with_site")
    with exchanger(url) as job:
        assert job.run("train", {}, timeout=20).meta == {"site": "site-1", "of task": "site-1"}
    assert agent.end() == 0


def test_the_example_makes_the_same_of_a_model_as_an_agent_and_in_a_simulation(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "examples" / "operate" / "trainer.py", tmp_path / "example.py")
    monkeypatch.syspath_prepend(tmp_path)
    example = importlib.import_module("example")
    workflow = FedAvg(example.initial_model, min_clients=1, num_rounds=1)
    assert simulate(workflow, example.train, sites=1, processes=0, url=url).ok

    agent = AgentRun(url, tmp_path, function="example:train")
    with exchanger(url) as job:
        result = job.run("train", example.initial_model, {"current_round": 0}, timeout=20)
    assert agent.end() == 0
    assert result.data["w"] != [0.0, 0.0]
    assert result.data == workflow.model
    simulated = subprocess.run(
        [REDFLARE, "simulate", "example:train", "--sites", "1", "--rounds", "1", "--url", url, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(simulated.stdout)["rounds"] == {"done": 1, "planned": 1}


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("trainer:trian", "did you mean 'train'?"),
        ("trainer:number", "trainer:number must be a function train(task) or train(task, site), but is a int"),
        ("trainer:nothing", "train(task) or train(task, site), but its signature is ()"),
        ("nothing:train", "nothing"),
    ],
)
def test_a_missing_function_is_an_error_and_ends_the_command(
    url: str, tmp_path: Path, function: str, error: str
) -> None:
    agent = AgentRun(url, tmp_path, function=function)

    assert agent.wait() == 2
    assert error in agent.errors()


#: Settings of a workspace, so that heartbeats come quickly.
QUICK: Final = '{"heartbeat_interval": 0.2, "heartbeat_ttl": 3.0}'


def test_an_agent_that_is_alive_is_not_replaced_unless_that_is_asked_for(url: str, tmp_path: Path) -> None:
    (tmp_path / "comm_config.json").write_text(QUICK)
    agent = AgentRun(url, tmp_path)
    wait_until(lambda: "started at" in agent.errors(), 20)
    (tmp_path / "other").mkdir()
    refused = AgentRun(url, tmp_path / "other")
    assert refused.wait() == 4
    assert refused.events == []
    assert "agent site-1--trainer runs already: process" in refused.errors()
    assert f" {agent.process.pid} on {socket.gethostname()}" in refused.errors(), "the command, and not its process"

    other = AgentRun(url, tmp_path / "other", "--take-over")
    assert agent.wait() == 4
    assert "has taken over" in agent.errors()
    assert other.end() == 0


def test_an_agent_of_a_user_s_own_program_is_not_replaced_and_replaces_without_asking(url: str, tmp_path: Path) -> None:
    (tmp_path / "comm_config.json").write_text(QUICK)
    with IPCAgent(url, "site-1", "trainer", tmp_path) as own:
        refused = AgentRun(url, tmp_path)
        assert refused.wait() == 4
        assert f"process {os.getpid()} on" in refused.errors()
        assert not own.closed
    agent = AgentRun(url, tmp_path)
    wait_until(lambda: "started at" in agent.errors(), 20)
    with IPCAgent(url, "site-1", "trainer", tmp_path):
        assert agent.wait() == 4


def test_an_agent_that_was_killed_with_its_command_is_replaced_when_its_heartbeats_are_missing(
    url: str, tmp_path: Path
) -> None:
    (tmp_path / "comm_config.json").write_text(QUICK)
    agent = AgentRun(url, tmp_path)
    wait_until(lambda: "started at" in agent.errors(), 20)
    for pid in (agent.events[0]["pid"], agent.process.pid):
        os.kill(pid, signal.SIGSTOP)
    for pid in (agent.process.pid, agent.events[0]["pid"]):
        os.kill(pid, signal.SIGKILL)
    agent.wait()
    successor = AgentRun(url, tmp_path)
    with exchanger(url) as job:
        assert job.run("train", {"w": 1}, timeout=20).data == {"w": 1}
    assert successor.end() == 0
