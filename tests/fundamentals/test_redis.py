"""All messages go through Redis, can be inspected there, and expire."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import redis
from redflare_agent import AgentClosed, IPCAgent, TaskResult, serve
from redflare_workers import IPCExchanger, TaskAborted

from tests.fundamentals import programs
from tests.fundamentals.programs import Background, Program


def test_nobody_opens_a_port(
    agent_args: dict[str, Any], exchanger_args: dict[str, Any], background: Background
) -> None:
    with IPCAgent(**agent_args) as agent, IPCExchanger(**exchanger_args) as job:
        background(serve, lambda task: TaskResult({}, None), agent)
        job.run("train", np.zeros(1_000_000))
        open_sockets = psutil.Process().net_connections("all")
        assert open_sockets, "both have connected to Redis"
        assert [socket for socket in open_sockets if socket.status == psutil.CONN_LISTEN] == []


def test_all_state_can_be_inspected_with_redis_cli(
    server_url: str, namespace: str, exchanger_args: dict[str, Any], agent_args: dict[str, Any], background: Background
) -> None:
    with (
        redis.Redis.from_url(server_url, decode_responses=True) as redis_cli,
        IPCExchanger(**exchanger_args) as job,
        IPCAgent(**agent_args) as agent,
    ):
        result = background(job.run, "train", {"lr": 0.1}, {"current_round": 3}, task_id="round-3")
        agent.get_task()
        link = f"{namespace}:{{site-1--trainer}}"
        assert redis_cli.hget(f"{link}:task:round-3", "status") == "FETCHED"
        ((_, entry),) = redis_cli.xrange(f"{link}:tasks")
        assert (entry["task_name"], entry["meta"], entry["data"]) == ("train", '{"current_round":3}', '{"lr":0.1}')
        assert json.loads(redis_cli.get(f"{link}:heartbeat:agent"))["interval"] == 0.2
        agent.submit_result(TaskResult({}, None))
        result.result()


def test_redflare_status_shows_connected_agents(server_url: str, namespace: str, agent_args: dict[str, Any]) -> None:
    redflare = str(Path(sys.executable).with_name("redflare"))
    with IPCAgent(**agent_args):
        command = [redflare, "status", "--url", server_url, "--namespace", namespace, "--json"]
        (link,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["links"]
    assert link["fqcn"] == "site-1--trainer"
    assert (link["agent"]["connected"], link["cj"]["connected"]) == (True, False)


def test_every_key_has_a_ttl(
    server_url: str, namespace: str, exchanger_args: dict[str, Any], agent_args: dict[str, Any], background: Background
) -> None:
    with IPCAgent(**agent_args) as agent, IPCExchanger(**exchanger_args) as job:
        background(serve, lambda task: TaskResult({}, task.data), agent)
        job.run("train", np.zeros(1_000_000))
    with redis.Redis.from_url(server_url) as client:
        keys = list(client.scan_iter(f"{namespace}:*"))
        assert keys
        assert [key for key in keys if client.pttl(key) == -1] == []


def test_a_dead_agent_is_found_by_its_missing_heartbeat(
    agent_args: dict[str, Any], exchanger_args: dict[str, Any], background: Background, program: Program
) -> None:
    agent_process = program(programs.agent_that_holds_its_task, agent_args)
    with IPCExchanger(**exchanger_args, agent_heartbeat_timeout=1.0) as job:
        result = background(job.run, "train", {})
        agent_process.kill()
        with pytest.raises(TaskAborted, match="agent"):
            result.result()


def test_a_dead_job_is_found_by_its_missing_heartbeat(
    agent_args: dict[str, Any], exchanger_args: dict[str, Any], program: Program
) -> None:
    job_process = program(programs.job_that_waits_for_its_result, exchanger_args, "t")
    with IPCAgent(**agent_args, flare_site_heartbeat_timeout=1.0) as agent:
        task = agent.get_task()
        assert task is not None
        job_process.kill()
        assert task.wait_aborted(timeout=10)
        with pytest.raises(AgentClosed):
            agent.get_task()
