"""An agent that trains: it sends which round it trains, for which task, and whether the result was accepted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from multiprocessing.connection import Connection

from redflare_agent import AgentClosed, IPCAgent, Task, TaskResult
from redflare_broker.config.settings import LinkSettings

from tests.programs.child_pipe import Death, ParentPipe
from tests.programs.training import number_of, trained


@dataclass(frozen=True, kw_only=True)
class TrainerArgs:
    """Arguments of the program."""

    url: str
    settings: LinkSettings
    site: str
    #: "training:2": in which round to wait for the test, after the task was taken.
    wait_at: str = ""
    #: The exchange with Redis at which it kills itself; None: it does not.
    die_at: Death | None = None
    #: Seconds that a training takes.
    work: float = 0.0


class TrainerProgram:
    """One IPCAgent that serves."""

    def __init__(self, pipe: ParentPipe, args: TrainerArgs) -> None:
        self._pipe = pipe
        self._args = args
        self.agent = IPCAgent(args.url, args.site, "agent", ".", resend_result_interval=0.5, settings=args.settings)

    def serve(self) -> None:
        """Train until the agent is closed."""
        while True:
            try:
                task = self.agent.get_task()
                if task is not None:
                    self._train(task)
            except AgentClosed as exc:
                self._pipe.send("closed", str(exc))
                return

    def _train(self, task: Task) -> None:
        number = task.meta["current_round"]
        self._pipe.send("training", number, task.task_id)
        self._pipe.reach(f"training:{number}", self._args.wait_at)
        if task.wait_aborted(self._args.work):
            self._pipe.send("dropped", number, task.task_id)
            return
        weights = trained(task.data, self._args.site, number)
        meta = {"NUM_STEPS_CURRENT_ROUND": number_of(self._args.site)}
        self._pipe.send("submitted", number, self.agent.submit_result(TaskResult(meta, weights)))


def main(connection: Connection, log: str, args: TrainerArgs) -> None:
    """Serve until the test ends it."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    pipe.die_at(args.die_at)
    pipe.send("started")
    program = TrainerProgram(pipe, args)
    program.agent.start()
    pipe.run_command(program.serve)
    pipe.serve({})
    program.agent.stop()
    pipe.send("stopped")
