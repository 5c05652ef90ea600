"""Tasks and results survive crashes of the agent, the job, the workflow and Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from redflare_agent import AgentClosed, IPCAgent, TaskResult, serve
from redflare_broker.config.settings import LinkSettings
from redflare_broker.embedded import EmbeddedServer
from redflare_workers import ClientJob, Executor, IPCExchanger, Shareable

from tests.fundamentals import programs
from tests.fundamentals.programs import Background, Program
from tests.support.waiting import wait_until

Ledger = Callable[[str], dict[str, str]]


def test_a_killed_agent_started_again_gets_the_same_task_and_the_job_never_notices(
    agent_args: dict[str, Any], exchanger_args: dict[str, Any], ledger: Ledger, background: Background, program: Program
) -> None:
    with IPCExchanger(**exchanger_args) as job:
        result = background(job.run, "train", {"x": 1}, task_id="t")
        agent_process = program(programs.agent_that_holds_its_task, agent_args)
        wait_until(lambda: ledger("t").get("status") == "FETCHED")

        agent_process.kill()
        with IPCAgent(**agent_args) as agent:
            task = agent.get_task()
            assert task is not None
            assert (task.task_id, task.data, task.attempt) == ("t", {"x": 1}, 2)
            assert agent.submit_result(TaskResult({}, "done"))

        assert result.result().data == "done"


def test_the_successor_of_a_killed_job_gets_the_result_and_nothing_is_trained_twice(
    agent_args: dict[str, Any], exchanger_args: dict[str, Any], background: Background, program: Program
) -> None:
    job_process = program(programs.job_that_waits_for_its_result, exchanger_args, "t")
    with IPCAgent(**agent_args) as agent:
        task = agent.get_task()
        assert task is not None
        job_process.kill()
        job_process.join()

        accepted = background(agent.submit_result, TaskResult({}, f"{task.data} is done"))
        with IPCExchanger(**exchanger_args) as job:
            assert job.run("train", "a task", task_id="t").data == "a task is done"
        assert accepted.result()


def test_tasks_and_results_survive_a_crash_of_redis(tmp_path: Path, background: Background) -> None:
    with (
        EmbeddedServer(tmp_path, extra={"appendfsync": "always"}) as server,
        IPCExchanger(redis_url=server.url, site_name="site-1", agent_id="trainer") as job,
        IPCAgent(server.url, "site-1", "trainer", workspace_dir=".") as agent,
    ):
        result = background(job.run, "train", {"x": 1})
        task = agent.get_task()
        assert task is not None

        server.kill()
        server.stop()
        server.start()

        assert agent.submit_result(TaskResult({}, {"x": task.data["x"] + 1}))
        assert result.result().data == {"x": 2}


def test_the_successor_of_a_killed_server_continues_in_the_same_round(
    server_url: str, settings: LinkSettings, background: Background, program: Program
) -> None:
    rounds: list[int] = []
    server = program(programs.server_of_three_rounds, server_url, settings)

    class Training(Executor):
        def execute(self, task_name: str, shareable: Shareable, *_: Any) -> Shareable:
            rounds.append(shareable.get_header("current_round"))
            if len(rounds) == 2:
                server.kill()
                program(programs.server_of_three_rounds, server_url, settings)
            return shareable

    site = ClientJob("site-1", Training(), redis_url=server_url, settings=settings)
    assert site.run().status == "FINISHED:COMPLETED"
    assert rounds == [0, 1, 2]


def test_nothing_is_lost_and_nothing_happens_twice_while_connections_break(
    agent_args: dict[str, Any], exchanger_args: dict[str, Any], background: Background
) -> None:
    trained: list[int] = []

    def train(task: Any) -> TaskResult:
        trained.append(task.data)
        if task.data % 10 == 0:
            with redis.Redis.from_url(exchanger_args["redis_url"]) as admin:
                admin.execute_command("CLIENT", "KILL", "TYPE", "normal")
        return TaskResult({}, -task.data)

    with IPCAgent(**agent_args) as agent, IPCExchanger(**exchanger_args) as job:
        background(serve, train, agent)
        assert [job.run("train", number).data for number in range(50)] == [-number for number in range(50)]
    assert trained == list(range(50))


def test_of_two_agents_with_one_name_only_the_newer_counts(
    agent_args: dict[str, Any], exchanger_args: dict[str, Any], background: Background
) -> None:
    with IPCExchanger(**exchanger_args) as job, IPCAgent(**agent_args) as older:
        result = background(job.run, "train", {})
        older.get_task()
        with IPCAgent(**agent_args) as newer:
            newer.get_task()
            with pytest.raises(AgentClosed, match="a newer instance"):
                older.submit_result(TaskResult({}, "of the older"))
            assert newer.submit_result(TaskResult({}, "of the newer"))
        assert result.result().data == "of the newer"
