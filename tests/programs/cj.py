"""A client job that runs the tasks its test names, for one agent or several."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import RedflareError
from redflare_workers.ipc.exchanger import IPCExchanger

from tests.programs.child_pipe import ParentPipe


@dataclass(frozen=True, kw_only=True)
class CJArgs:
    """Arguments of the CJ program."""

    url: str
    settings: LinkSettings
    site: str = "site-1"
    agent_ids: tuple[str, ...] = ("agent",)
    #: "before:settle", "after:assign" and the like: where to wait for the test.
    wait_at: str = ""
    #: Seconds of silence after which an agent counts as dead.
    heartbeat_timeout: float | None = None


class CJProgram:
    """Exchangers, and the commands for them."""

    def __init__(self, pipe: ParentPipe, args: CJArgs) -> None:
        self._pipe = pipe
        self.exchangers = {
            agent_id: IPCExchanger(
                redis_url=args.url,
                site_name=args.site,
                agent_id=agent_id,
                agent_heartbeat_timeout=args.heartbeat_timeout,
                agent_heartbeat_interval=args.settings.heartbeat_interval,
                settings=args.settings,
            )
            for agent_id in args.agent_ids
        }

    def start(self) -> None:
        for exchanger in self.exchangers.values():
            exchanger.start()
        self._pipe.send("started")

    def run(self, task_id: str, data: Any = None, timeout: float | None = None, agent_id: str = "agent") -> None:
        """Send ("result", id, data) or ("failed", id, error's name, its message)."""
        try:
            result = self.exchangers[agent_id].run("train", data, timeout=timeout, task_id=task_id)
        except RedflareError as exc:
            self._pipe.send("failed", task_id, type(exc).__name__, str(exc))
        else:
            self._pipe.send("result", task_id, result.data)

    def run_array(self, task_id: str, size: int, agent_id: str) -> None:
        """Send an array to an agent that signs; send ("result", id, its signature) or "failed", as ``run``.

        Neither the command nor the reply fills the pipe, in which a frozen process would block its test.
        """
        array = np.arange(float(size))
        try:
            result = self.exchangers[agent_id].run("train", array, task_id=task_id)
        except RedflareError as exc:
            self._pipe.send("failed", task_id, type(exc).__name__, str(exc))
        else:
            assert np.array_equal(result.data["data"], array), f"task {task_id} came back damaged"
            self._pipe.send("result", task_id, result.data["by"])

    def abort(self, agent_id: str = "agent") -> None:
        self.exchangers[agent_id].abort("the test says so")

    def stop(self) -> None:
        for exchanger in self.exchangers.values():
            exchanger.stop()
        self._pipe.send("stopped")


def main(connection: Connection, log: str, args: CJArgs) -> None:
    """Run the CJ until the test ends it."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    pipe.wait_at(args.wait_at)
    program = CJProgram(pipe, args)
    program.start()
    pipe.serve({"run": program.run, "run_array": program.run_array, "abort": program.abort})
    program.stop()
