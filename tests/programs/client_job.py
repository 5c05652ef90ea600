"""A site's part in a job: a ``ClientJob`` whose executor is an exchanger for a trainer, or trains by itself."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection

from redflare_broker.config.settings import LinkSettings
from redflare_workers.apis import DXO, AppConstants, DataKind, Executor, FLContext, Shareable, Signal, from_shareable
from redflare_workers.apis.shareable import ReservedHeaderKey, make_reply
from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.ipc.exchanger import IPCExchanger

from tests.programs.child_pipe import Death, ParentPipe
from tests.programs.server_job import send_threads
from tests.programs.training import number_of, trained


@dataclass(frozen=True, kw_only=True)
class ClientJobArgs:
    """Arguments of the program."""

    url: str
    settings: LinkSettings
    site: str
    #: False: it trains by itself, and sends the messages of a trainer.
    agent: bool = True
    #: "training:2": in which round to wait for the test, after the task was taken.
    wait_at: str = ""
    #: The exchange with Redis at which it kills itself; None: it does not.
    die_at: Death | None = None
    #: Seconds of each training.
    work: float = 0.0


class TrainingExecutor(Executor):
    """Trains in the CJ's own process."""

    def __init__(self, pipe: ParentPipe, args: ClientJobArgs) -> None:
        super().__init__()
        self._pipe = pipe
        self._args = args

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        number, task_id = (
            shareable.get_header(AppConstants.CURRENT_ROUND),
            shareable.get_header(ReservedHeaderKey.TASK_ID),
        )
        self._pipe.send("training", number, task_id)
        self._pipe.reach(f"training:{number}", self._args.wait_at)
        aborted = threading.Event()
        with abort_signal.add_callback(aborted.set):
            if aborted.wait(self._args.work):
                self._pipe.send("dropped", number, task_id)
                return make_reply("TASK_ABORTED")
        weights = trained(from_shareable(shareable).data, self._args.site, number)
        meta = {"NUM_STEPS_CURRENT_ROUND": number_of(self._args.site)}
        return DXO(DataKind.WEIGHTS, weights, meta).to_shareable()


def main(connection: Connection, log: str, args: ClientJobArgs) -> None:
    """Take part until the job or the test ends it; tells ("outcome", status, reason)."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    pipe.die_at(args.die_at)
    executor: Executor = TrainingExecutor(pipe, args)
    if args.agent:
        executor = IPCExchanger(
            redis_url=args.url,
            site_name=args.site,
            agent_id="agent",
            agent_heartbeat_interval=args.settings.heartbeat_interval,
            settings=args.settings,
        )
    job = ClientJob(args.site, executor, redis_url=args.url, settings=args.settings)

    def run() -> None:
        outcome = job.run()
        pipe.send("outcome", outcome.status, outcome.reason)
        send_threads(pipe)

    pipe.send("started")
    pipe.run_command(run)
    pipe.serve({"stop": job.stop})
