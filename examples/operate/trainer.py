"""A training function for ``redflare agent run``: the model is a mean, of data that never leave the site.

Replace it by your own training: ``task.data`` is the model, and the result holds the updated model.
"""

from __future__ import annotations

import zlib

import numpy as np
from redflare_agent import MetaKey, Task, TaskResult

#: The data of this site; every site has data of its own.
DATA = np.random.default_rng(zlib.crc32(b"a seed of your own")).normal(3.0, 1.0, size=(200, 2))


def train(task: Task) -> TaskResult:
    """Move the weights half of the way to this site's mean; the job's model is a list, so a list is returned."""
    weights = np.asarray(task.data["w"], dtype=np.float64)
    for _ in range(10):
        if task.aborted:
            break
        weights = weights + (DATA.mean(axis=0) - weights) * 0.067
    loss = float(((DATA - weights) ** 2).mean())
    print(f"round {task.meta[MetaKey.CURRENT_ROUND] + 1}: loss {loss:.4f}", flush=True)
    return TaskResult({MetaKey.NUM_STEPS_CURRENT_ROUND: len(DATA), "loss": loss}, {"w": weights.tolist()})
