"""What an agent does with a task: here, the mean of numbers that never leave the site, one step of the way.

Put your training in its place: ``task.data`` is the model, and what you return is your update of it.
"""

from __future__ import annotations

import zlib

import numpy as np
from redflare_agent import MetaKey, Task, TaskResult

#: A site's own data; each agent has its own.
DATA = np.random.default_rng(zlib.crc32(b"a seed of your own")).normal(3.0, 1.0, size=(200, 2))


def train(task: Task) -> TaskResult:
    """Go half of the way to this site's mean; the job's model is a list, so a list goes back."""
    weights = np.asarray(task.data["w"], dtype=np.float64)
    for _ in range(10):
        if task.aborted:
            break
        weights = weights + (DATA.mean(axis=0) - weights) * 0.067
    loss = float(((DATA - weights) ** 2).mean())
    print(f"round {task.meta[MetaKey.CURRENT_ROUND] + 1}: loss {loss:.4f}", flush=True)
    return TaskResult({MetaKey.NUM_STEPS_CURRENT_ROUND: len(DATA), "loss": loss}, {"w": weights.tolist()})
