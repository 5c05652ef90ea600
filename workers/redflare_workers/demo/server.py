"""The server of the demo's job: federated averaging by ``FedAvg``, and what the display is told of it.

Run as ``python -m redflare_workers.demo.server WORKSPACE``. Killed and started again, it goes on in the same round.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.scheduling_spec import Targets
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow.fedavg import FedAvg
from redflare_workers.workflow.model_tree import Model
from redflare_workers.workflow.model_update import update_of

from .data import Samples
from .job_settings import JobSettings
from .lifeline import Lifeline
from .model import accuracy, initial
from .site_settings import SAMPLES_FILE


class ShownFedAvg(FedAvg):
    """Federated averaging that tells of every result and of every round.

    Args:
        settings: of the job.
        held_out: what accuracy is measured on.
        lifeline: to the demo.
    """

    def __init__(self, settings: JobSettings, held_out: Samples, lifeline: Lifeline) -> None:
        super().__init__(
            lambda: initial(settings.seed),
            min_clients=len(settings.sites),
            num_rounds=settings.rounds,
            wait_time_after_min_received=0,
            save_dir=settings.server_workspace,
            evaluate=self._measure,
        )
        self._held_out = held_out
        self._lifeline = lifeline
        self._round_began = 0.0
        #: (loss, how much it counts) of each result of this round
        self._losses: list[tuple[float, float]] = []

    def broadcast_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: Targets = None,
        min_responses: int = 0,
        wait_time_after_min_received: int = 0,
        abort_signal: Signal | None = None,
    ) -> None:
        """As in the base, and listen to the results on their way."""
        take = task.result_received_cb
        assert take is not None

        def take_and_tell(client_task: ClientTask, fl_ctx: FLContext) -> None:
            result = client_task.result
            take(client_task, fl_ctx)
            self._tell_of(client_task, result)

        task.result_received_cb = take_and_tell
        self._round_began = time.monotonic()
        self._losses = []
        super().broadcast_and_wait(
            task, fl_ctx, targets, min_responses, wait_time_after_min_received, abort_signal=abort_signal
        )

    def _tell_of(self, client_task: ClientTask, result: object) -> None:
        try:
            update = update_of(result)
        except ValueError:
            return  # it does not count, and the log says why
        loss = float(update.meta["loss"])
        self._losses.append((loss, update.steps))
        self._lifeline.tell(
            "answered",
            self.current_round + 1,
            site=client_task.client.name,
            loss=loss,
            accuracy=accuracy(update.data, self._held_out),
            seconds=time.time() - (client_task.task_sent_time or time.time()),
        )

    def _measure(self, model: Model) -> float:
        """The accuracy of a round's model; ends the round for the display."""
        measured = accuracy(model, self._held_out)
        loss = sum(loss * weight for loss, weight in self._losses) / sum(weight for _, weight in self._losses)
        seconds = time.monotonic() - self._round_began
        self._lifeline.tell("round", self.current_round, loss=loss, accuracy=measured, seconds=seconds)
        return measured


def main() -> None:
    """Run the job; its outcome is the last thing that is told."""
    workspace = Path(sys.argv[1])
    settings = JobSettings.load(workspace)
    held_out = Samples.load(workspace / SAMPLES_FILE)
    lifeline = Lifeline(lambda: job.abort("the demo has ended"), settings.scratch)
    controller = ShownFedAvg(settings, held_out, lifeline)
    job = ServerJob(controller, redis_url=settings.url, job_id=settings.job_id)
    with lifeline:
        outcome = job.run()
        told: dict[str, Any] = {} if outcome.ok else {"reason": str(outcome)}
        lifeline.tell("done" if outcome.ok else "failed", controller.current_round, **told)


if __name__ == "__main__":
    main()
