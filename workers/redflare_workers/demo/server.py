"""The server of the demo's job: federated averaging by ``FedAvg``, reported to the display.

Run as ``python -m redflare_workers.demo.server SCRATCH``. Killed and started again, it resumes in the same round.
"""

from __future__ import annotations

import sys
import time

from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow.fedavg import FedAvg
from redflare_workers.workflow.model_tree import Model
from redflare_workers.workflow.model_update import update_of

from .data import Samples
from .lifeline import Lifeline
from .model import accuracy, initial
from .settings import SAMPLES_FILE, SERVER, DemoSettings


class ShownFedAvg(FedAvg):
    """Federated averaging that reports every result and every round, with the accuracy on the images ``held_out``."""

    def __init__(self, settings: DemoSettings, held_out: Samples, lifeline: Lifeline) -> None:
        super().__init__(
            lambda: initial(settings.seed),
            min_clients=len(settings.sites),
            num_rounds=settings.rounds,
            wait_time_after_min_received=0,
            save_dir=settings.folder(SERVER),
            evaluate=self._measure,
        )
        self._held_out = held_out
        self._lifeline = lifeline
        self._round_began = 0.0
        #: (loss, how much it counts) of each result of this round
        self._losses: list[tuple[float, float]] = []

    def _run_round(self, abort_signal: Signal, fl_ctx: FLContext) -> bool:
        self._round_began = time.monotonic()
        self._losses = []
        return super()._run_round(abort_signal, fl_ctx)

    def _take_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Take a result as the base does, and report it."""
        result = client_task.result
        super()._take_result(client_task, fl_ctx)
        try:
            update = update_of(result)
        except ValueError:
            return  # it does not count, and the log says why
        loss = float(update.meta["loss"])
        self._losses.append((loss, update.steps))
        self._lifeline.report(
            "answered",
            self.current_round + 1,
            site=client_task.client.name,
            loss=loss,
            accuracy=accuracy(update.data, self._held_out),
            seconds=time.time() - (client_task.task_sent_time or time.time()),
        )

    def _measure(self, model: Model) -> float:
        """Measure the model of a round, and report the round."""
        measured = accuracy(model, self._held_out)
        loss = sum(loss * weight for loss, weight in self._losses) / sum(weight for _, weight in self._losses)
        seconds = time.monotonic() - self._round_began
        self._lifeline.report("round", self.current_round, loss=loss, accuracy=measured, seconds=seconds)
        return measured


def main() -> None:
    """Run the job and report its outcome."""
    settings = DemoSettings.load(sys.argv[1])
    held_out = Samples.load(settings.folder(SERVER) / SAMPLES_FILE)
    lifeline = Lifeline(lambda: job.abort("the demo has ended"), settings.scratch)
    controller = ShownFedAvg(settings, held_out, lifeline)
    job = ServerJob(controller, redis_url=settings.url, job_id=settings.job_id)
    with lifeline:
        outcome = job.run()
        if outcome.ok:
            lifeline.report("done", controller.current_round)
        else:
            lifeline.report("failed", controller.current_round, reason=str(outcome))


if __name__ == "__main__":
    main()
