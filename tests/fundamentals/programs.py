"""Programs that these tests kill: an agent, a job and a server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.context import ForkServerProcess
from typing import Any

import numpy as np
from redflare_agent import IPCAgent
from redflare_broker.config.settings import LinkSettings
from redflare_workers import IPCExchanger, ServerJob
from redflare_workers.workflow import FedAvg

#: Runs a function in a thread: ``background(function, *args)`` returns its Future.
Background = Callable[..., "Future[Any]"]
#: Runs a function in a process: ``program(function, *args)`` returns the process; it is killed at the end of the test.
Program = Callable[..., ForkServerProcess]


def agent_that_holds_its_task(agent_args: dict[str, Any]) -> None:
    """Take a task, and never submit a result."""
    with IPCAgent(**agent_args) as agent:
        task = agent.get_task()
        assert task is not None
        task.wait_aborted()


def job_that_waits_for_its_result(exchanger_args: dict[str, Any], task_id: str) -> None:
    """Hand out a task."""
    with IPCExchanger(**exchanger_args) as job:
        job.run("train", "a task", task_id=task_id)


def averaging(rounds: int, sites: int) -> FedAvg:
    """Federated averaging of one weight."""
    return FedAvg({"w": np.zeros(1)}, min_clients=sites, num_rounds=rounds, wait_time_after_min_received=0)


def server_of_three_rounds(url: str, settings: LinkSettings) -> None:
    """Run the workflow of a job with one site."""
    ServerJob(averaging(3, 1), redis_url=url, settings=settings).run()
