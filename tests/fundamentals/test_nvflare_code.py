"""The names and calls are those of NVIDIA FLARE: what is written for it moves by changing its imports."""

from __future__ import annotations

import inspect
from typing import Any

import nvflare.client.ipc.ipc_agent as nvflare_agent
import pytest
import redflare_agent
import redflare_workers
from nvflare.app_common.executors import ipc_exchanger as nvflare_exchanger
from redflare_agent import Task as AgentTask
from redflare_agent import TaskResult
from redflare_broker.config.settings import LinkSettings
from redflare_workers import DXO, DataKind, FLContext, Shareable, Signal, Task, from_shareable, simulate
from redflare_workers.workflow import Controller


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (redflare_agent.IPCAgent, nvflare_agent.IPCAgent),
        (redflare_workers.IPCExchanger, nvflare_exchanger.IPCExchanger),
    ],
    ids=["IPCAgent", "IPCExchanger"],
)
def test_arguments_are_those_of_nvflare_in_the_same_order(ours: Any, theirs: Any) -> None:
    known = [name for name in inspect.signature(theirs).parameters if name != "decomposer_module"]
    assert list(inspect.signature(ours).parameters)[: len(known)] == known


class Sum(Controller):
    """A controller as one writes it for NVFlare: ask every site once, and add up."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def start_controller(self, fl_ctx: FLContext) -> None:
        pass

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        task = Task("ask", DXO(DataKind.WEIGHTS, {"x": 20.0}).to_shareable())
        self.broadcast_and_wait(task, fl_ctx, min_responses=2, abort_signal=abort_signal)
        self.total = sum(from_shareable(client_task.result).data["x"] for client_task in task.client_tasks)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        pass

    def process_result_of_unknown_task(
        self, client: Any, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        pass


def test_a_controller_of_nvflare_s_kind_runs(server_url: str, settings: LinkSettings) -> None:
    def answer(task: AgentTask, site: str) -> TaskResult:
        return TaskResult({}, {"x": task.data["x"] + 1})

    controller = Sum()
    job_meta = {"min_clients": 2}
    outcome = simulate(controller, answer, 2, processes=0, url=server_url, settings=settings, job_meta=job_meta)
    assert outcome.ok
    assert controller.total == 42
