"""What simulated sites do in tests; their processes import it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import numpy as np
from redflare_agent import MetaKey, Task, TaskResult

initial_model = {"w": np.zeros(3, np.float32)}


def train(task: Task, site: str) -> TaskResult:
    """Add one."""
    return TaskResult({MetaKey.NUM_STEPS_CURRENT_ROUND: 1}, {"w": task.data["w"] + 1})


def by_name(task: Task, site: str) -> TaskResult:
    """Add the number of the site."""
    return TaskResult({}, {"w": task.data["w"] + int(site.rpartition("-")[2])})


def failing(task: Task, site: str) -> TaskResult:
    """At one site it always fails."""
    if site == "site-2":
        raise ValueError("there is no data here")
    return train(task, site)


def killing(task: Task, site: str) -> TaskResult:
    """One site's process is killed in the second round."""
    if site == "site-2" and task.meta["current_round"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(task, site)


def leaving(task: Task, site: str) -> TaskResult:
    """One site raises what is no Exception, and so ends its thread."""
    if site == "site-2":
        raise KeyboardInterrupt("enough of this")
    return train(task, site)


def vanishing(task: Task, site: str) -> TaskResult:
    """One site ends its process as if all were well."""
    if site == "site-2":
        os._exit(0)
    return train(task, site)


def endless(task: Task, site: str) -> TaskResult:
    """Never returns, and has started a process that does not end either."""
    subprocess.Popen(["sleep", "600"])
    print(f"{site} works", flush=True)
    threading.Event().wait()
    return train(task, site)


def patient(task: Task, site: str) -> TaskResult:
    """Trains until its task is aborted."""
    print(f"{site} works", flush=True)
    task.wait_aborted(600)
    return train(task, site)
