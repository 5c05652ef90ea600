"""Both sides may start before their server: they wait for it, and run the preflight when it is reachable."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from redflare_agent import AgentClosed, IPCAgent, TaskResult
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import PreflightError
from redflare_workers.ipc.exchanger import IPCExchanger

from tests.support.redis_server.node import free_port


def test_a_task_is_completed_when_the_server_has_started(tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}"

    def serve() -> None:
        with IPCAgent(url, "site-1", "late", tmp_path) as agent:
            for task in agent.tasks():
                agent.submit_result(TaskResult({}, task.data))

    serving = threading.Thread(target=serve)
    serving.start()
    with IPCExchanger(redis_url=url, site_name="site-1", agent_id="late") as exchanger:
        results: list[TaskResult] = []
        asking = threading.Thread(target=lambda: results.append(exchanger.run("train", 7, timeout=30)))
        asking.start()
        with EmbeddedServer(port=port):
            asking.join(30)
            assert results[0].data == 7
            exchanger.stop()
            serving.join(30)
    assert not serving.is_alive()


def test_a_misconfigured_server_is_refused_by_the_first_call_that_reaches_it(tmp_path: Path) -> None:
    port = free_port()
    with IPCAgent(f"redis://127.0.0.1:{port}", "site-1", "late", tmp_path) as agent:
        with (
            EmbeddedServer(port=port, extra={"maxmemory-policy": "allkeys-lru"}),
            pytest.raises(PreflightError, match="noeviction"),
        ):
            agent.get_task(timeout=30)
        agent.stop()
        with pytest.raises(AgentClosed):
            agent.get_task(timeout=1)
