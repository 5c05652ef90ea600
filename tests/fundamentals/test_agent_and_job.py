"""A job and its agent: the job hands out tasks, the agent trains, and results come back."""

from __future__ import annotations

import numpy as np
import pytest
from redflare_agent import RC, IPCAgent, Task, TaskResult, serve
from redflare_broker.testing import LinkUnderTest
from redflare_workers import IPCExchanger, TaskAborted

from tests.fundamentals.programs import Background


def test_a_task_goes_to_the_agent_and_its_result_to_the_job(
    redflare_link: LinkUnderTest, background: Background
) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as job, IPCAgent(**redflare_link.agent_args) as agent:
        result = background(job.run, "train", {"w": np.ones(2)}, {"current_round": 3})

        task = agent.get_task()
        assert task is not None
        assert (task.task_name, task.meta) == ("train", {"current_round": 3})
        assert agent.submit_result(TaskResult({"loss": 0.5}, {"w": task.data["w"] * 2}))

        assert result.result().meta == {"loss": 0.5}
        assert result.result().data["w"].tolist() == [2, 2]


def test_the_job_may_start_before_its_agent(redflare_link: LinkUnderTest, background: Background) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as job:
        result = background(job.run, "train", "a task")
        with IPCAgent(**redflare_link.agent_args) as agent:
            background(serve, lambda task: TaskResult({}, f"{task.data} is done"), agent)
            assert result.result().data == "a task is done"


def test_the_agent_may_start_before_its_job(redflare_link: LinkUnderTest, background: Background) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent:
        background(serve, lambda task: TaskResult({}, f"{task.data} is done"), agent)
        with IPCExchanger(**redflare_link.exchanger_args) as job:
            assert job.run("train", "a task").data == "a task is done"


def test_the_agent_s_loop_ends_when_the_job_ends(redflare_link: LinkUnderTest, background: Background) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent:
        with IPCExchanger(**redflare_link.exchanger_args) as job:
            tasks_done = background(serve, lambda task: TaskResult({}, None), agent)
            job.run("train", 1)
            job.run("train", 2)
        assert tasks_done.result(timeout=5) == 2


def test_an_exception_of_the_trainer_reaches_the_job(redflare_link: LinkUnderTest, background: Background) -> None:
    def train(task: Task) -> TaskResult:
        raise OSError("the data are gone")

    with IPCAgent(**redflare_link.agent_args) as agent, IPCExchanger(**redflare_link.exchanger_args) as job:
        background(serve, train, agent)
        result = job.run("train", {})
        assert result.return_code == RC.EXECUTION_EXCEPTION
        assert "OSError: the data are gone" in result.meta["traceback"]
        agent.stop()


def test_an_abort_cancels_the_task(redflare_link: LinkUnderTest, background: Background) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent, IPCExchanger(**redflare_link.exchanger_args) as job:
        result = background(job.run, "train", {})
        task = agent.get_task()
        assert task is not None

        job.abort("not needed any more")

        assert task.wait_aborted(timeout=5), "the trainer knows"
        assert not agent.submit_result(TaskResult({}, {})), "a late result does not count"
        with pytest.raises(TaskAborted, match="not needed any more"):
            result.result()
