"""Runs the commands that stand in ``docs/inspect.md`` and writes what they print under them.

In a block that is marked ``console`` each line that starts with ``$ `` is a command; the lines below it are replaced by
its output. A comment ``<!-- scene: name -->`` brings the federation of this script to the state that the text tells of;
a command that follows something live runs while its scene plays. What does not come in time is an error, and leaves the
page as it was. Needs redis-tools, jq, and port 6379 to be free::

    python docs/transcribe.py
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final, NoReturn

import numpy as np
from redflare_agent import IPCAgent, TaskResult
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.inspection.federation import Inspector
from redflare_broker.inspection.job_view import JobView
from redflare_broker.transport.server import Server
from redflare_workers import DXO, DataKind, Executor, FLContext, Shareable, Signal, from_shareable
from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.ipc.exchanger import IPCExchanger, TaskFailed
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow import FedAvg

PAGE: Final = Path(__file__).with_name("inspect.md")
URL: Final = "redis://127.0.0.1:6379"
_SCENE: Final = re.compile(r"<!-- scene: ([a-z-]+) -->")
#: In a terminal redis-cli numbers and quotes what it prints; through a pipe it has to be asked to.
_REDIS_CLI: Final = '#!/bin/sh\ncase "$1" in --scan) ;; *) set -- --no-raw "$@" ;; esac\nexec /usr/bin/redis-cli "$@"\n'


#: A scene or a command takes a few seconds at most.
_PATIENCE_SECONDS: Final = 20
#: A tail that has told of the CJ hears whatever happens from then on.
_FOLLOWING: Final = ("  cj  ",)
_FOLLOWED: Final = ("round-4.site-1 ACCEPTED", "accepted round-4.site-1", "bye agent", "it left")


@contextmanager
def in_time(what: str) -> Iterator[None]:
    """Fail where the main thread waits, whatever it waits for, when that takes too long."""

    def give_up(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"{what}: not over after {_PATIENCE_SECONDS} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


class Trainer(Executor):
    """Adds one to a model; from the second round on, when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = 0
        self.may_answer = threading.Event()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        self.rounds += 1
        if self.rounds > 1:
            self.may_answer.wait(_PATIENCE_SECONDS)
        model = from_shareable(shareable).data
        return DXO(DataKind.WEIGHTS, {name: array + 1 for name, array in model.items()}).to_shareable()


class Job:
    """A job of three sites, one of which takes its time in the second round."""

    def __init__(self) -> None:
        model = {"weights": np.zeros(600_000, dtype="float32")}
        self.slow = Trainer()
        self.server = ServerJob(FedAvg(model, min_clients=3, num_rounds=2), redis_url=URL, job_id="job-7")
        self.sites = [ClientJob(f"site-{n}", self._trainer(n), redis_url=URL, job_id="job-7") for n in (1, 2, 3)]
        self._threads = [threading.Thread(target=run.run, daemon=True) for run in (self.server, *self.sites)]

    def _trainer(self, number: int) -> Trainer:
        trainer = self.slow if number == 3 else Trainer()
        if trainer is not self.slow:
            trainer.may_answer.set()
        return trainer

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def end(self) -> None:
        self.server.abort()
        self.slow.may_answer.set()
        self.join()

    @staticmethod
    def waits_for_one(job: JobView) -> bool:
        """Two sites have answered and ask for more, the third works."""
        return len(job.ended_tasks) == 1 and sum(site.requested > 0 for site in job.sites) == 2


class Federation:
    """Two sites: an agent that works on command, and one that is awaited; later a job."""

    def __init__(self, stack: ExitStack) -> None:
        stack.enter_context(EmbeddedServer(port=6379))
        self._first = stack.enter_context(IPCExchanger(redis_url=URL, site_name="site-1", agent_id="trainer"))
        self._second = stack.enter_context(IPCExchanger(redis_url=URL, site_name="site-2", agent_id="trainer"))
        self._host = stack.enter_context(ExitStack())
        self._agent = self._host.enter_context(IPCAgent(URL, "site-1", "trainer", "."))
        self._inspector = Inspector(stack.enter_context(Server.connect(URL)))
        self._running: list[threading.Thread] = []
        self._job: Job | None = None

    def working(self) -> None:
        """Site 1 works on a small task; site 2 has a large one and no agent."""
        self._send(self._first, "round-3.site-1", {"weights": np.arange(3, dtype="float32")})
        self._send(self._second, "round-3.site-2", {"weights": np.zeros(600_000, dtype="float32")})
        self._agent.get_task()
        self._await("round-3.site-2", "NEW")

    def done(self) -> None:
        """Site 1 has handed in its result."""
        self._agent.submit_result(TaskResult({"loss": 0.31}, {"weights": np.ones(3, dtype="float32")}))
        self._await("round-3.site-1", "ACCEPTED")

    def round(self) -> None:
        """Another task of site 1 from end to end, then its agent leaves."""
        self._send(self._first, "round-4.site-1", {"weights": np.ones(3, dtype="float32")})
        self._agent.get_task()
        self._agent.submit_result(TaskResult({"loss": 0.25}, {"weights": np.ones(3, dtype="float32")}))
        self._await("round-4.site-1", "ACCEPTED")
        self._host.close()

    def buried(self) -> None:
        """The CJ of site 2 has moved the foreign entry away."""
        while not self._inspector.all_dead_letters():
            threading.Event().wait(0.05)

    def training(self) -> None:
        """A job is in its second round."""
        self._job = Job()
        self._job.start()
        while not any(map(Job.waits_for_one, self._inspector.jobs.find("job-7"))):
            threading.Event().wait(0.05)
        threading.Event().wait(2)  # to have ages that are some

    def trained(self) -> None:
        """The job is over."""
        assert self._job is not None
        self._job.slow.may_answer.set()
        self._job.join()

    def end(self) -> None:
        if self._job is not None:
            self._job.end()
        for exchanger in (self._first, self._second):
            exchanger.abort()
        for thread in self._running:
            thread.join()

    def _send(self, exchanger: IPCExchanger, task_id: str, data: object) -> None:
        def run() -> None:
            try:
                exchanger.run("train", data, {"current_round": 3}, task_id=task_id)
            except TaskFailed as error:
                print(error, file=sys.stderr)

        self._running.append(threading.Thread(target=run, daemon=True))
        self._running[-1].start()

    def _await(self, task_id: str, status: str) -> None:
        while not any(view.task.status == status for view in self._inspector.task(task_id)):
            threading.Event().wait(0.05)


def transcribe(page: str, run: Callable[[str], str], play: Callable[[str], None]) -> str:
    """The page with the output of its commands renewed."""
    lines: list[str] = []
    inside, skipping = False, False
    for line in page.splitlines():
        if scene := _SCENE.fullmatch(line):
            play(scene[1])
        if line.startswith("```"):
            inside, skipping = line == "```console", False
        if inside and line.startswith("$ "):
            lines.append(line)
            lines.extend(printed.rstrip() for printed in run(line[2:]).rstrip("\n").split("\n"))
            skipping = True
        elif not skipping:
            lines.append(line)
    return "\n".join(lines) + "\n"


class Terminal:
    """Plays the scenes and runs the commands of the page, in its order."""

    def __init__(self, federation: Federation, tools: Path) -> None:
        wrapper = tools / "redis-cli"
        wrapper.write_text(_REDIS_CLI)
        wrapper.chmod(0o755)
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._env = {**os.environ, "PATH": path, "COLUMNS": "80", "TZ": "UTC", "NO_COLOR": "1"}
        self._federation = federation
        self._follow = False

    def play(self, scene: str) -> None:
        """Bring the federation to a state; the scene of a command that follows plays when that runs."""
        if scene == "round":
            self._follow = True
            return
        with in_time(f"scene {scene}"):
            getattr(self._federation, scene)()

    def run(self, command: str) -> str:
        """What a command prints."""
        following, self._follow = self._follow, False
        with in_time(command):
            if following:
                return self._run_live(command)
            done = subprocess.run(["bash", "-c", command], env=self._env, capture_output=True, text=True, check=False)
            return done.stdout + done.stderr

    def _run_live(self, command: str) -> str:
        words = ["bash", "-c", f"exec {command}"]
        with subprocess.Popen(words, env=self._env, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                printed = _read(process.stdout, _FOLLOWING)
                self._federation.round()
                printed += _read(process.stdout, _FOLLOWED)
                process.send_signal(signal.SIGINT)
                return printed + process.communicate()[0] + "^C"
            finally:
                process.kill()


def _read(output: IO[str], awaited: tuple[str, ...]) -> str:
    """What a command prints until it has printed all that is awaited."""
    printed = ""
    while not all(text in printed for text in awaited):
        line = output.readline()
        if not line:
            raise EOFError(f"the command has ended without {awaited}; it printed {printed!r}")
        printed += line
    return printed


def main() -> None:
    with ExitStack() as stack:
        federation = Federation(stack)
        stack.callback(federation.end)
        terminal = Terminal(federation, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        page = transcribe(PAGE.read_text(), terminal.run, terminal.play)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
