"""Many agents in one process share what is not theirs alone."""

# mypy: allow-untyped-calls

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from redflare_agent import AgentClosed, IPCAgent, Task, TaskResult
from redflare_broker.config.settings import LinkSettings
from redflare_broker.runtime import shared_connection
from redflare_workers import IPCExchanger
from redflare_workers.errors import TaskAborted

from tests.support.redis_server import kinds
from tests.support.redis_server.node import Node
from tests.support.waiting import wait_until

MANY = 30
SETTINGS = LinkSettings(namespace="many", heartbeat_interval=0.5)


@pytest.fixture
def node() -> Iterator[Node]:
    with kinds.embedded(durable=True) as running:
        yield running


class Agents:
    """Agents that echo their tasks, each in a thread of its own."""

    def __init__(self, url: str) -> None:
        self.agents = [IPCAgent(url, f"site-{number}", "a", ".", settings=SETTINGS) for number in range(MANY)]
        self.threads = [threading.Thread(target=self._serve, args=(agent,), daemon=True) for agent in self.agents]

    @staticmethod
    def _serve(agent: IPCAgent) -> None:
        for task in agent.tasks():
            agent.submit_result(TaskResult({}, task.data))

    def __enter__(self) -> Agents:
        for agent in self.agents:
            agent.start()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        for agent in self.agents:
            agent.stop()
        for thread in self.threads:
            thread.join(10)


def until_all_read(node: Node) -> None:
    wait_until(lambda: node.info("clients")["blocked_clients"] == MANY, 30, "all agents read")
    wait_until(lambda: node.info("stats")["pubsub_channels"] == 2 * MANY, 30, "all agents listen")


def test_they_have_one_heartbeat_thread_and_one_subscriber_and_come_back_over_few_connections(node: Node) -> None:
    before = set(threading.enumerate())
    with Agents(node.url) as agents:
        until_all_read(node)
        shared = set(threading.enumerate()) - before - set(agents.threads)
        assert sorted(thread.name for thread in shared) == ["redflare-heartbeat", "redflare-subscriber"]
        node.kill()
        node.restart()
        until_all_read(node)
        clients = [entry for entry in node.client().client_list() if entry["cmd"] != "client|list"]
        # each reads on a connection of its own; beside them the heartbeats, the subscriber, and idle ones
        assert len(clients) <= MANY + 4
        with IPCExchanger(redis_url=node.url, site_name="site-7", agent_id="a", settings=SETTINGS) as exchanger:
            assert exchanger.run("echo", {"x": 1}, timeout=20).data == {"x": 1}
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_one_that_stops_leaves_the_others_their_connection(node: Node) -> None:
    with ExitStack() as stack:
        first, second = (IPCAgent(node.url, f"site-{number}", "a", ".", settings=SETTINGS) for number in (1, 2))
        stack.enter_context(first)
        stack.enter_context(second)
        exchanger = stack.enter_context(
            IPCExchanger(redis_url=node.url, site_name="site-2", agent_id="a", settings=SETTINGS)
        )
        running = stack.enter_context(ThreadPoolExecutor()).submit(exchanger.run, "train", 1)
        task = second.get_task(timeout=10)
        assert isinstance(task, Task)
        first.stop()
        # the message of the abort still reaches the second
        exchanger.abort("enough")
        assert task.wait_aborted(10)
        with pytest.raises(TaskAborted, match="enough"):
            running.result(10)
        with pytest.raises(AgentClosed):
            first.get_task(timeout=1)


def test_one_that_is_dropped_without_a_stop_gives_its_share_back(node: Node) -> None:
    agent = IPCAgent(node.url, "site-1", "a", ".", settings=SETTINGS)
    assert shared_connection._connections
    del agent
    gc.collect()
    assert not shared_connection._connections
