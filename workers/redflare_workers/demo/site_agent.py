"""The agent of one site: what a user of redflare writes, and the only part of the demo that imports ``redflare_agent``.

Run as ``python -m redflare_workers.demo.site_agent WORKSPACE``. The workspace holds the settings and the site's own
data, which never leaves it: only weights travel.
"""

from __future__ import annotations

import sys
from pathlib import Path

from redflare_agent import IPCAgent, MetaKey, Task, TaskResult

from .data import Samples
from .lifeline import Lifeline
from .model import STEPS, copied, descend, generator
from .site_settings import SAMPLES_FILE, DemoSiteSettings


def train(task: Task, samples: Samples, settings: DemoSiteSettings, lifeline: Lifeline) -> TaskResult:
    """One round: begin with the weights that came, take ``STEPS`` steps on this site's data, and answer."""
    round_number = task.meta[MetaKey.CURRENT_ROUND] + 1  # people count from 1
    lifeline.tell("training", round_number)
    weights = copied(task.data)
    losses: list[float] = []
    for loss in descend(weights, samples, generator(settings.seed, settings.index, round_number)):
        losses.append(loss)
        if len(losses) == STEPS // 2 and settings.ask_leave:
            lifeline.tell("halfway", round_number)
            lifeline.wait_for_leave()
        if task.aborted:
            break
    # every site takes as many steps; what it counts for in the mean is its number of images
    return TaskResult({MetaKey.NUM_STEPS_CURRENT_ROUND: len(samples), "loss": sum(losses) / len(losses)}, weights)


def main() -> None:
    """Take tasks until the demo says goodbye or is gone."""
    workspace = Path(sys.argv[1])
    settings = DemoSiteSettings.load(workspace)
    samples = Samples.load(workspace / SAMPLES_FILE)
    agent = IPCAgent(settings.url, settings.site, settings.agent_id, str(workspace))
    with Lifeline(agent.stop, settings.scratch) as lifeline, agent:
        lifeline.tell("ready", 0)
        for task in agent.tasks():
            agent.submit_result(train(task, samples, settings, lifeline))


if __name__ == "__main__":
    main()
