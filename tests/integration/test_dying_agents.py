"""An agent whose process dies with its task each time: the task ends, and its job learns of it."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from redflare_agent import RC
from redflare_broker.config.settings import LinkSettings
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.inspection.federation import Inspector
from redflare_broker.transport.server import Server
from redflare_workers.agent_run import AgentProcessArgs, AgentSupervisor, ProcessEvent
from redflare_workers.ipc.exchanger import IPCExchanger, TaskRejected

TRAINER: Final = """
import os, signal, sys
from redflare_agent import TaskResult

def train(task):
    if task.task_name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.task_name == "exit":
        os._exit(0)
    if task.task_name == "break":
        open("trainer.py", "w").write("train = 3")
        os._exit(1)
    return TaskResult({"attempt": task.attempt}, task.data)
"""
#: A script of the Client API that an exception ends, so that it says bye at its exit.
SCRIPT: Final = """
import sys
from redflare_agent import flare

flare.init(redis_url=sys.argv[1], site_name="site-1", agent_id="trainer", workspace_dir=".")
if flare.receive(timeout=float(sys.argv[2])):
    raise OSError("the data are gone")
"""
SETTINGS: Final = LinkSettings(heartbeat_interval=0.2)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield server.url


class Supervised:
    """An agent's supervisor, in a thread."""

    def __init__(self, url: str, folder: Path, trainer: str = TRAINER) -> None:
        args = AgentProcessArgs(train="trainer:train", url=url, site="site-1", agent_id="trainer")
        self.events: list[ProcessEvent] = []
        self.code: tuple[int, int] | None = None
        self.supervisor = AgentSupervisor(args, self.events.append, first_pause=0.01)
        (folder / "trainer.py").write_text(trainer)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.supervisor.run()

    def kinds(self) -> list[str]:
        return [event.event for event in self.events]


@pytest.fixture
def supervised(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervised]:
    monkeypatch.chdir(tmp_path)
    found = Supervised(url, tmp_path)
    yield found
    found.supervisor.stop()
    found.thread.join(30)


def exchanger(url: str) -> IPCExchanger:
    return IPCExchanger(
        redis_url=url, site_name="site-1", agent_id="trainer", settings=SETTINGS, agent_heartbeat_interval=0.2
    )


@pytest.mark.parametrize(("name", "exit_code"), [("kill", "killed by SIGKILL"), ("exit", "exit code 0 (SUCCESS)")])
def test_the_task_of_a_process_that_is_given_up_ends_with_its_last_exit(
    url: str, supervised: Supervised, caplog: pytest.LogCaptureFixture, name: str, exit_code: str
) -> None:
    with caplog.at_level(logging.WARNING), exchanger(url) as job:
        result = job.run(name, {}, timeout=100)

    assert result.return_code == RC.EXECUTION_EXCEPTION
    assert exit_code in result.meta["exception"]
    supervised.thread.join(30)
    assert supervised.code is not None
    assert supervised.code[0] in (-signal.SIGKILL, 0)
    assert supervised.kinds() == ["started", "died"] * 5 + ["started", "ended"]
    assert "is answered" in supervised.events[-1].text
    assert any("is at attempt" in record.getMessage() for record in caplog.records)


def test_a_trainer_that_cannot_be_imported_again_ends_its_task(url: str, supervised: Supervised) -> None:
    with exchanger(url) as job:
        result = job.run("break", {}, timeout=100)

    assert result.return_code == RC.EXECUTION_EXCEPTION
    assert "exit code 103 (CONFIG)" in result.meta["exception"]


def test_a_process_is_given_up_when_there_is_no_task(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = Supervised(url, tmp_path, "import os; os._exit(7)")
    found.thread.join(100)

    assert found.code == (7, 0)
    with Server.connect(url) as server:
        assert Inspector(server, "flare").status().links[0].agent.state == "left"


def test_a_limit_below_that_of_the_supervisor_ends_the_task_and_keeps_the_agent(
    url: str, supervised: Supervised, tmp_path: Path
) -> None:
    (tmp_path / "comm_config.json").write_text('{"max_attempts": 2}')
    with exchanger(url) as job:
        with pytest.raises(TaskRejected, match=r"2 agents have died with it .*; the last one: killed by SIGKILL"):
            job.run("kill", {}, timeout=100)
        assert job.run("train", {"w": 1}, timeout=100).data == {"w": 1}


def test_a_script_that_an_exception_ends_has_died_with_its_task(url: str, tmp_path: Path) -> None:
    (tmp_path / "comm_config.json").write_text('{"max_attempts": 1}')
    (tmp_path / "script.py").write_text(SCRIPT)
    with exchanger(url) as job, ThreadPoolExecutor() as pool:
        task = pool.submit(job.run, "train", {}, timeout=100)
        for patience, code in ((60, 1), (0.5, 0)):
            command = [sys.executable, "script.py", url, str(patience)]
            ended = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=100, check=False)
            assert ended.returncode == code, ended.stderr
        with pytest.raises(TaskRejected, match="an agent has died with it"):
            task.result(30)
