"""The agent of one site, as a user of redflare writes it; no other part of the demo imports ``redflare_agent``.

Run as ``python -m redflare_workers.demo.site_agent SCRATCH SITE``. The site's folder holds its images, which never
leave it: only weights travel.
"""

from __future__ import annotations

import sys

from redflare_agent import IPCAgent, MetaKey, Task, TaskResult

from .data import Samples
from .lifeline import Lifeline
from .model import STEPS, copied, descend, generator
from .settings import SAMPLES_FILE, DemoSettings


def train(task: Task, samples: Samples, site: int, settings: DemoSettings, lifeline: Lifeline) -> TaskResult:
    """Train one round: take ``STEPS`` steps from the weights of the task on this site's images.

    The number of the site, from 1, decides with seed and round the mini-batches.
    """
    round_number = task.meta[MetaKey.CURRENT_ROUND] + 1  # people count from 1
    lifeline.report("training", round_number)
    weights = copied(task.data)
    losses: list[float] = []
    for loss in descend(weights, samples, generator(settings.seed, site, round_number)):
        losses.append(loss)
        if len(losses) == STEPS // 2 and settings.ask_leave:
            lifeline.report("halfway", round_number)
            lifeline.wait_for_leave()
        if task.aborted:
            break
    # every site takes as many steps; its weight in the mean is its number of images
    return TaskResult({MetaKey.NUM_STEPS_CURRENT_ROUND: len(samples), "loss": sum(losses) / len(losses)}, weights)


def main() -> None:
    """Serve tasks until the demo ends the job or is gone."""
    settings, site = DemoSettings.load(sys.argv[1]), sys.argv[2]
    number, folder = settings.sites.index(site) + 1, settings.folder(site)
    samples = Samples.load(folder / SAMPLES_FILE)
    agent = IPCAgent(settings.url, site, settings.job_id, str(folder))
    with Lifeline(agent.stop, settings.scratch) as lifeline, agent:
        lifeline.report("ready", 0)
        for task in agent.tasks():
            agent.submit_result(train(task, samples, number, settings, lifeline))


if __name__ == "__main__":
    main()
