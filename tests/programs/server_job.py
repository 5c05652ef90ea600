"""An SJ that runs a workflow, sends which results it receives, and waits for its test at any point."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
from redflare_broker.config.settings import LinkSettings
from redflare_workers.apis import ClientTask, FLContext
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow.cyclic import Cyclic
from redflare_workers.workflow.fedavg import FedAvg

from tests.programs.child_pipe import Death, ParentPipe

#: Elements of a model that is small enough for an entry.
SMALL: Final = 8
#: Threads of a child that do not belong to the job.
_OWN: Final = ("MainThread", "command-")
#: Seconds that threads have to end after a run.
_END_WITHIN: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class ServerJobArgs:
    """Arguments of the program."""

    url: str
    settings: LinkSettings
    workflow: str = "FedAvg"
    #: Of the workflow.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Elements of the model.
    size: int = SMALL
    #: "taken:2:1", a point of ``WatchedFedAvg``, at which to wait for the test.
    wait_at: str = ""
    #: The exchange with Redis at which it kills itself; None: it does not.
    die_at: Death | None = None


def initial_model(size: int) -> dict[str, Any]:
    """A model whose elements are all different, and can be halved a few times without rounding."""
    return {"w": np.arange(size, dtype=np.float32)}


def digest(model: dict[str, Any]) -> str:
    """A digest that is equal for models equal to the bit."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(model[name]).tobytes() for name in sorted(model))).hexdigest()


class WatchedFedAvg(FedAvg):
    """FedAvg whose points a test can wait at: ``checkpoint:n``, ``checkpointed:n`` and ``round:n`` around the beginning
    of round n, ``taking:n:k`` and ``taken:n:k`` around its k-th result, ``ending:n`` and ``ended:n`` around its end.
    """

    def __init__(self, pipe: ParentPipe, wait_at: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pipe = pipe
        self._reach = partial(pipe.reach, wanted=wait_at)
        self._taken = 0

    def checkpoint(self, fl_ctx: FLContext) -> None:
        self._reach(f"checkpoint:{self.current_round}")
        super().checkpoint(fl_ctx)
        self._reach(f"checkpointed:{self.current_round}")

    def stop_controller(self, fl_ctx: FLContext) -> None:
        # after the end of a job its next server begins a new run, so the process must not die any more
        self._pipe.spare()
        super().stop_controller(fl_ctx)

    def _run_round(self, abort_signal: Any, fl_ctx: FLContext) -> bool:
        self._taken = 0
        self._pipe.send("round", self.current_round)
        return super()._run_round(abort_signal, fl_ctx)

    def _take_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        number, nth = self.current_round, self._taken + 1
        self._reach(f"taking:{number}:{nth}")
        super()._take_result(client_task, fl_ctx)
        self._taken = nth
        self._pipe.send("taken", number, client_task.client.name, client_task.id)
        self._reach(f"taken:{number}:{nth}")

    def _end_round(self, fl_ctx: FLContext) -> None:
        number = self.current_round
        self._reach(f"ending:{number}")
        super()._end_round(fl_ctx)
        self._reach(f"ended:{number}")


def send_threads(pipe: ParentPipe) -> None:
    """Send ("threads", names of those that are left) when all have ended, or should have."""
    deadline = time.monotonic() + _END_WITHIN
    for thread in _threads():
        thread.join(max(deadline - time.monotonic(), 0))
    pipe.send("threads", [thread.name for thread in _threads()])


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.name.startswith(_OWN)]


def main(connection: Connection, log: str, args: ServerJobArgs) -> None:
    """Run the job; send ("outcome", status, reason), ("model", digest, model if it is small) and ("history", ...)."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    pipe.die_at(args.die_at)
    begin = partial(initial_model, args.size)
    controller: FedAvg | Cyclic
    if args.workflow == "FedAvg":
        controller = WatchedFedAvg(pipe, args.wait_at, begin, **args.options)
    else:
        controller = Cyclic(begin, **args.options)
    job = ServerJob(controller, redis_url=args.url, settings=args.settings)

    def run() -> None:
        outcome = job.run()
        pipe.send("history", controller.history)
        pipe.send("model", digest(controller.model), controller.model if args.size <= SMALL else None)
        pipe.send("outcome", outcome.status, outcome.reason)
        send_threads(pipe)

    pipe.send("started")
    pipe.run_command(run)
    pipe.serve({"abort": job.abort})
