"""An agent that runs its test's commands: fetch, submit, wait for an abort, or serve until it is closed."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from redflare_agent import AgentClosed, IPCAgent, Task, TaskResult
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import EncodeError

from tests.programs.child_pipe import ParentPipe


@dataclass(frozen=True, kw_only=True)
class AgentArgs:
    """Arguments of the agent program."""

    url: str
    settings: LinkSettings
    site: str = "site-1"
    agent_id: str = "agent"
    #: "before:submit" or "after:submit": where to wait for the test.
    wait_at: str = ""
    #: Seconds one task takes when serving.
    work: float = 0.0
    #: Answer with {"data": ..., "by": "<pid>:<attempt>"}, so that no two executions give the same result.
    sign: bool = False
    #: Seconds of silence after which the CJ counts as dead.
    heartbeat_timeout: float | None = None


class AgentProgram:
    """One IPCAgent and the commands for it."""

    def __init__(self, pipe: ParentPipe, args: AgentArgs) -> None:
        self._pipe = pipe
        self._args = args
        self._task: Task | None = None
        self.agent = IPCAgent(
            args.url,
            args.site,
            args.agent_id,
            ".",
            flare_site_heartbeat_timeout=args.heartbeat_timeout,
            resend_result_interval=0.5,
            settings=args.settings,
        )

    def start(self) -> None:
        self.agent.start()
        self._pipe.send("started")

    def get(self, timeout: float | None = None) -> None:
        """Fetch a task, see ``fetch``."""
        self.fetch(timeout)

    def fetch(self, timeout: float | None = None) -> bool:
        """Send ("task", id, attempt), "none" or "closed"."""
        try:
            self._task = self.agent.get_task(timeout)
        except AgentClosed as exc:
            self._pipe.send("closed", str(exc))
            return False
        if self._task is None:
            self._pipe.send("none")
        else:
            self._pipe.send("task", self._task.task_id, self._task.attempt)
        return True

    def submit(self, data: Any) -> None:
        """Send ("submitted", accepted), "closed" or "refused"."""
        try:
            self._pipe.send("submitted", self.agent.submit_result(TaskResult({}, data)))
        except AgentClosed as exc:
            self._pipe.send("closed", str(exc))
        except EncodeError as exc:
            self._pipe.send("refused", str(exc))

    def echo(self) -> None:
        """Submit the task's own data."""
        assert self._task is not None
        data = self._task.data
        self.submit({"data": data, "by": f"{os.getpid()}:{self._task.attempt}"} if self._args.sign else data)

    def await_abort(self, timeout: float) -> None:
        """Send ("aborted", whether it was)."""
        assert self._task is not None
        self._pipe.send("aborted", self._task.wait_aborted(timeout))

    def serve(self) -> None:
        """Answer every task with its own data until the agent is closed."""
        while self.fetch():
            assert self._task is not None
            if self._args.work and self._task.wait_aborted(self._args.work):
                self._pipe.send("dropped", self._task.task_id)
                continue
            self.echo()


def main(connection: Connection, log: str, args: AgentArgs) -> None:
    """Run the agent until the test ends it."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    pipe.wait_at(args.wait_at)
    program = AgentProgram(pipe, args)
    program.start()
    pipe.serve(
        {
            "get": program.get,
            "submit": program.submit,
            "echo": program.echo,
            "serve": program.serve,
            "await_abort": program.await_abort,
        }
    )
    program.agent.stop()
    pipe.send("stopped")
