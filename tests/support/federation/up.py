"""``redflare up`` as a user runs it, in a folder with a trainer and a job."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import psutil
from redflare_workers.ipc.exchanger import IPCExchanger
from redflare_workers.jobs import FedJob
from redflare_workers.workflow import FedAvg

from tests.support.waiting import wait_until

REDFLARE: Final = Path(sys.executable).with_name("redflare")
#: Seconds that one command, or one change, may take.
PATIENCE: Final = 60.0
CONNECTED: Final = "redflare: all are connected"
_MARK: Final = "REDFLARE_TEST"
#: Adds 1 to each weight; slow while there is a file of that name.
TRAINER: Final = """
from pathlib import Path
from redflare_agent import TaskResult

def train(task):
    with Path(f"rounds-{task.site}").open("a") as rounds:
        print(task.meta["current_round"], file=rounds)
    if Path("slow").exists():
        task.wait_aborted(0.3)
    return TaskResult({"NUM_STEPS_CURRENT_ROUND": 10}, {"w": [each + 1 for each in task.data["w"]]})
"""


class UpFolderOfTest:
    """A folder in which ``redflare up`` and other commands are run; what is left of them in the end is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = uuid.uuid4().hex
        self._env = {**os.environ, _MARK: self._mark, "COLUMNS": "200", "NO_COLOR": "1"}
        self._env.pop("REDFLARE_URL", None)
        self._running: list[subprocess.Popen[bytes]] = []
        (folder / "trainer.py").write_text(TRAINER)

    # -- redflare up ---------------------------------------------------------------------------------------------------

    def up(self, *args: str, train: str = "trainer:train", name: str = "up", connected: bool = True) -> Running:
        """Start it; ``connected``: wait until all are."""
        output = self.folder / f"{name}-{len(self._running)}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [str(REDFLARE), "up", "--agent", train, *args],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._running.append(process)
        running = Running(process, output)
        if connected:
            running.await_text(CONNECTED)
        return running

    def processes(self) -> list[psutil.Process]:
        """All processes that were started here, and that those have started, whatever their group or parent."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def processes_of(self, *parts: str) -> list[psutil.Process]:
        """Those whose command has all of these parts."""
        found = []
        for process in self.processes():
            try:
                if set(parts) <= set(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def valkey(self) -> psutil.Process:
        """The embedded Redis itself."""
        return next(process for process in self.processes() if process.name().startswith("valkey"))

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    @contextmanager
    def background(self, *args: str) -> Iterator[None]:
        """Run a command beside it."""
        with (self.folder / "background.out").open("wb") as output:
            command = [str(REDFLARE), *args]
            process = subprocess.Popen(command, cwd=self.folder, env=self._env, stdout=output, stderr=output)
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)

    @contextmanager
    def piped(self) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
        """Run it with a pipe for what it prints."""
        command = [str(REDFLARE), "up", "--agent", "trainer:train"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=self.folder, env=self._env, stderr=pipe, text=True) as process:
            assert process.stderr is not None
            try:
                yield process, process.stderr
            finally:
                process.kill()

    # -- other commands ------------------------------------------------------------------------------------------------

    def __call__(self, *args: str, code: int = 0) -> str:
        """Run a command in the same folder, which is told of no URL; return what it has printed."""
        ran = subprocess.run(
            [str(REDFLARE), *args],
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == code, f"{args} ended with {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def status_of(self, job: str) -> Any:
        """The status of a job."""
        return json.loads(self("job", "show", job, "--json"))[0]["record"]["status"]

    def job(self, *, rounds: int) -> None:
        """Write the job ``means``."""
        job = FedJob("means", min_clients=2, agent_id="trainer")
        job.to_server(
            FedJob.component(FedAvg, initial_model={"w": [0.0, 0.0]}, min_clients=2, num_rounds=rounds, save_dir="out")
        )
        job.to_clients(IPCExchanger, tasks=["train"])
        job.export(self.folder / "means")

    def rounds(self, site: str = "site-1") -> list[int]:
        """The rounds that the trainer of a site has begun."""
        file = self.folder / f"rounds-{site}"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def await_round(self, number: int) -> None:
        """Wait until a trainer has begun a round."""
        wait_until(lambda: number in self.rounds(), PATIENCE, f"round {number}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        for left in self.processes():
            left.kill()


class Running:
    """One run of ``redflare up``."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def text(self) -> str:
        """All that it has printed so far."""
        return self._output.read_text(errors="replace")

    def await_text(self, text: str, count: int = 1) -> None:
        """Wait until it has printed a text; a regular expression."""

        def is_there() -> bool:
            if len(re.findall(text, self.text)) >= count:
                return True
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.text}"
            return False

        wait_until(is_there, PATIENCE, f"{text!r} in the output of redflare up")

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send it a signal; return its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        return self.process.wait(PATIENCE)
