"""A federation that is operated by the ``redflare`` command: each process is one that a user would start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.ipc.exchanger import IPCExchanger
from redflare_workers.jobs import FedJob
from redflare_workers.workflow import FedAvg

from tests.support.waiting import wait_until

REDFLARE: Final = Path(sys.executable).with_name("redflare")
#: Seconds that one command may take.
PATIENCE: Final = 60.0
_MARK: Final = "REDFLARE_TEST"
#: Folders outside the workspaces where a process might write.
_OUTSIDE: Final = {"TMPDIR": "tmp", "HOME": "home"}
#: Seconds that what is left is kept: longer than a server takes to start on a busy machine.
RETENTION: Final = 20.0
_CONFIG: Final = {
    "heartbeat_interval": 0.2,
    "heartbeat_ttl": 2.0,
    "max_attempts": 3,
    "retention": {"retention": RETENTION, "settled_retention": 4.0, "result_keep": 3.0},
}
#: Adds 1 to each weight. The file ``slow`` makes it take a while, with ``hang`` it never returns, with ``die`` its
#: process is killed, and with ``fail`` it raises in round 2.
TRAINER: Final = """
import os
import signal
import threading
from pathlib import Path
from redflare_agent import TaskResult

def train(task):
    Path(f"began-{task.meta['current_round']}").touch()
    if Path("slow").exists():
        task.wait_aborted(0.3)
    if Path("hang").exists():
        threading.Event().wait()
    if Path("die").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if Path("fail").exists() and task.meta["current_round"] == 1:
        raise OSError("the data are gone")
    return TaskResult({"NUM_STEPS_CURRENT_ROUND": 10}, {"w": [each + 1 for each in task.data["w"]]})
"""


class OperatedFederation:
    """Commands in a folder; what runs is ended, and leaves nothing.

    Args:
        url: of a Redis.
        folder: for workspaces and logs.
        client: the test's own connection.
    """

    def __init__(self, url: str, folder: Path, client: redis.Redis) -> None:
        self.url = url
        self.folder = folder
        self.client = client
        self._redis = Server.connect(url)
        self.store = JobStore(self._redis, Keys("flare"))
        self._mark = uuid.uuid4().hex
        self._env = {
            **os.environ,
            "REDFLARE_URL": url,
            _MARK: self._mark,
            "COLUMNS": "200",
            "NO_COLOR": "1",
            **{name: str(self._made(kind)) for name, kind in _OUTSIDE.items()},
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    # -- what runs -----------------------------------------------------------------------------------------------------

    def server(self) -> None:
        """Start the server, and wait until it is there."""
        self.start("server", "server", "--workspace", str(self._workspace("server")))
        wait_until(lambda: "accepting jobs" in self.log("server"), PATIENCE, "the server is ready")

    def site(self, number: int, **settings: Any) -> None:
        """Start a site."""
        name = f"site-{number}"
        workspace = self._workspace(name)
        (workspace / "local").mkdir(exist_ok=True)
        (workspace / "local" / "site.json").write_text(json.dumps(settings))
        self.start(name, "site", name, "--workspace", str(workspace))

    def agent(self, number: int, agent_id: str = "trainer") -> None:
        """Start its agent, or another one, in a folder with the trainer."""
        name = f"site-{number}"
        command = ["agent", "run", "trainer:train", "--site", name, "--id", agent_id, "--abort-grace", "1"]
        called = f"agent-{number}" if agent_id == "trainer" else f"{agent_id}-{number}"
        self.start(called, *command, "--workspace", str(self._workspace(name)), cwd=self.trainer(number))

    def sites(self, *numbers: int, **settings: Any) -> None:
        """Start sites with agents."""
        for number in numbers:
            self.site(number, **settings)
            self.agent(number)

    def trainer(self, number: int) -> Path:
        """Write a site's trainer; return its folder."""
        folder = self.folder / f"trainer-{number}"
        folder.mkdir(exist_ok=True)
        (folder / "trainer.py").write_text(TRAINER)
        return folder

    def kill(self, name: str) -> None:
        """SIGKILL a process, and wait until it is gone."""
        process = self._running.pop(name)
        process.kill()
        process.wait(PATIENCE)

    def end(self, name: str) -> None:
        """SIGTERM a process, and wait until it has ended with 0."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, self.log(name)

    def log(self, name: str) -> str:
        """The output of a process so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _workspace(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "comm_config.json").write_text(json.dumps(_CONFIG))
        return folder

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def start(self, name: str, *args: str, cwd: Path | None = None, **env: str) -> None:
        """Start a command that goes on, and keep it under a name."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(REDFLARE), *args],
                cwd=cwd or self.folder,
                env={**self._env, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    # -- an operator's commands ----------------------------------------------------------------------------------------

    def __call__(self, *args: str, code: int = 0) -> str:
        """Run a command to its end; return what it has printed."""
        ran = self.run(*args)
        assert ran.returncode == code, f"{args} ended with {ran.returncode}\n{ran.stdout}\n{ran.stderr}\n{self._logs()}"
        return ran.stdout

    def run(self, *args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever it ends with."""
        return subprocess.run(
            [str(REDFLARE), *args],
            cwd=cwd or self.folder,
            env={**self._env, **env},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def json(self, *args: str, code: int = 0) -> Any:
        """Run a command with --json."""
        return json.loads(self(*args, "--json", code=code))

    def job(
        self, name: str = "means", *, rounds: int = 3, clients: int = 2, agent_id: str = "trainer", **options: Any
    ) -> Path:
        """Write a job that adds 1 to two weights in each round."""
        job = FedJob(name, min_clients=clients, agent_id=agent_id)
        workflow = FedJob.component(
            FedAvg, initial_model={"w": [0.0, 0.0]}, min_clients=clients, num_rounds=rounds, **options
        )
        job.to_server(workflow)
        job.to_clients(IPCExchanger, tasks=["train"])
        folder = self.folder / name
        job.export(folder)
        return folder

    def record(self, job: str) -> dict[str, Any]:
        """The record of a job in the store."""
        record = self.json("job", "show", job)[0]["record"]
        assert isinstance(record, dict)
        return record

    def await_status(self, job: str, *statuses: str) -> None:
        """Wait until a job has one of these statuses."""

        def status() -> str:
            record = self.store.get(job)
            return record.status if record else "(not there)"

        wait_until(lambda: status() in statuses, PATIENCE, f"{job} is {' or '.join(statuses)}")

    def await_log(self, job: str, text: str, count: int = 1) -> None:
        """Wait until the job's log has a text."""

        def logged() -> int:
            return sum(line.text.count(text) for line in self.store.read_log(job))

        wait_until(lambda: logged() >= count, PATIENCE, f"{text!r} in the log of {job}")

    # -- what is left --------------------------------------------------------------------------------------------------

    def processes(self) -> list[str]:
        """Commands of all processes that this has started, and that those have."""
        return list(self._commands().values())

    def processes_of(self, *parts: str) -> list[int]:
        """Ids of those whose command has all of these parts."""
        return [pid for pid, command in self._commands().items() if all(part in command for part in parts)]

    def _commands(self) -> dict[int, str]:
        mark = f"{_MARK}={self._mark}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def folders_of(self, job: str) -> list[Path]:
        """Folders that a job has in the workspaces."""
        return [path for path in self.folder.glob(f"*/{job}") if path.is_dir()]

    def assert_nothing_is_left(self, *jobs: str) -> None:
        """End what runs: no process is left, nothing of these jobs, and no key without an end."""
        for name in list(self._running):
            self.end(name)
        wait_until(lambda: not self.processes(), what="no process is left")
        for job in jobs:
            assert not self.folders_of(job)
        for key in self.client.scan_iter("*"):
            assert self.client.pttl(key) != -1, f"{key!r} has no TTL"
            assert b"blob" not in key or self.client.pttl(key) <= RETENTION * 1000, f"{key!r} is a payload that is left"
            assert not any(f":job:{job}:".encode() in key for job in jobs), f"{key!r} is left of a job"
        # these are kept for a week
        self.client.delete(self.store.keys.deleted, self.store.keys.policy)

    def _logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        """Kill what is left."""
        for name in list(self._running):
            self.kill(name)
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
