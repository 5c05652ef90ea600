"""An agent whose trainer forks data loaders, as torch does, in the middle of its tasks."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

from redflare_agent import CallStateError, IPCAgent, TaskResult

from tests.programs.agent import AgentArgs
from tests.programs.child_pipe import ParentPipe


def load(agent: IPCAgent, end: str, writer: Connection) -> None:
    """Run a loader: call the agent, which is an error, and end in one of three ways."""
    try:
        agent.get_task(timeout=1)
    except CallStateError as exc:
        writer.send(str(exc))
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)


def fork_loaders(agent: IPCAgent) -> list[tuple[str, int | None]]:
    """Fork loaders; return the error of each that called the agent, and its exit code."""
    forks = multiprocessing.get_context("fork")
    seen = []
    for end in ("return", "kill", "interrupt"):
        reader, writer = forks.Pipe(duplex=False)
        loader = forks.Process(target=load, args=(agent, end, writer))
        loader.start()
        error = reader.recv()
        loader.join()
        seen.append((error, loader.exitcode))
    return seen


def main(connection: Connection, log: str, args: AgentArgs) -> None:
    """Serve tasks; the result of each is how its loaders ended."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(process)d %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    with IPCAgent(args.url, args.site, args.agent_id, ".", settings=args.settings) as agent:
        pipe.send("started")
        for task in agent.tasks():
            pipe.send("task", task.task_id, task.attempt)
            pipe.send("submitted", agent.submit_result(TaskResult({}, fork_loaders(agent))))
