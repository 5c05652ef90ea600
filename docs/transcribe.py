"""Runs the commands that stand in ``docs/inspect.md`` and writes what they print under them.

In a block that is marked ``console`` each line that starts with ``$ `` is a command; the lines below it are replaced by
its output. A comment ``<!-- scene: name -->`` brings the federation of this script to the state that the text tells of;
before a command that follows something live, its scene plays while the command runs. Needs redis-tools, jq, and port
6379 to be free::

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
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
from redflare_agent import IPCAgent, TaskResult
from redflare_broker.connection import Server
from redflare_broker.embedded import EmbeddedServer
from redflare_broker.inspection import Inspector
from redflare_workers.exchanger import IPCExchanger, TaskFailed

PAGE: Final = Path(__file__).with_name("inspect.md")
URL: Final = "redis://127.0.0.1:6379"
_SCENE: Final = re.compile(r"<!-- scene: ([a-z-]+) -->")
#: In a terminal redis-cli numbers and quotes what it prints; through a pipe it has to be asked to.
_REDIS_CLI: Final = '#!/bin/sh\ncase "$1" in --scan) ;; *) set -- --no-raw "$@" ;; esac\nexec /usr/bin/redis-cli "$@"\n'


class Federation:
    """Two sites: an agent that works on command, and one that is awaited."""

    def __init__(self, stack: ExitStack) -> None:
        stack.enter_context(EmbeddedServer(port=6379))
        self._first = stack.enter_context(IPCExchanger(redis_url=URL, site_name="site-1", agent_id="trainer"))
        self._second = stack.enter_context(IPCExchanger(redis_url=URL, site_name="site-2", agent_id="trainer"))
        self._agent = stack.enter_context(IPCAgent(URL, "site-1", "trainer", "."))
        self._inspector = Inspector(stack.enter_context(Server.connect(URL)))
        self._running: list[threading.Thread] = []

    def working(self) -> None:
        """Site 1 works on a small task; site 2 has a large one and no agent."""
        self._send(self._first, "round-3.site-1", {"weights": np.arange(3, dtype="float32")})
        self._send(self._second, "round-3.site-2", {"weights": np.zeros(600_000, dtype="float32")})
        self._agent.get_task(timeout=10)
        self._await("round-3.site-2", "NEW")

    def done(self) -> None:
        """Site 1 has handed in its result."""
        self._agent.submit_result(TaskResult({"loss": 0.31}, {"weights": np.ones(3, dtype="float32")}))
        self._await("round-3.site-1", "ACCEPTED")

    def round(self) -> None:
        """Another task of site 1 from end to end."""
        self._send(self._first, "round-4.site-1", {"weights": np.ones(3, dtype="float32")})
        self._agent.get_task(timeout=10)
        self._agent.submit_result(TaskResult({"loss": 0.25}, {"weights": np.ones(3, dtype="float32")}))
        self._await("round-4.site-1", "ACCEPTED")

    def buried(self) -> None:
        """The CJ of site 2 has moved the foreign entry away."""
        while not self._inspector.all_dead_letters():
            threading.Event().wait(0.05)

    def end(self) -> None:
        self._second.abort()
        for thread in self._running:
            thread.join()

    def _send(self, exchanger: IPCExchanger, task_id: str, data: object) -> None:
        def run() -> None:
            try:
                exchanger.run("train", data, {"current_round": 3}, task_id=task_id)
            except TaskFailed as error:
                print(error, file=sys.stderr)

        self._running.append(threading.Thread(target=run))
        self._running[-1].start()

    def _await(self, task_id: str, status: str) -> None:
        while not any(view.story.status == status for view in self._inspector.task(task_id)):
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


def main() -> None:
    with ExitStack() as stack:
        federation = Federation(stack)
        tools = stack.enter_context(tempfile.TemporaryDirectory())
        wrapper = Path(tools, "redis-cli")
        wrapper.write_text(_REDIS_CLI)
        wrapper.chmod(0o755)
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "COLUMNS": "80", "TZ": "UTC", "NO_COLOR": "1"}
        live: list[str] = []

        def play(scene: str) -> None:
            if scene == "round":
                live.append(scene)
            else:
                getattr(federation, scene)()

        def run(command: str) -> str:
            if not live:
                done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=False)
                return done.stdout + done.stderr
            process = subprocess.Popen(["bash", "-c", f"exec {command}"], env=env, stdout=subprocess.PIPE, text=True)
            assert process.stdout
            printed = [process.stdout.readline()]
            getattr(federation, live.pop())()
            while not all(any(word in line for line in printed) for word in ("ACCEPTED", "notice")):
                printed.append(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            return "".join(printed) + process.communicate()[0] + "^C"

        stack.callback(federation.end)
        PAGE.write_text(transcribe(PAGE.read_text(), run, play))


if __name__ == "__main__":
    main()
