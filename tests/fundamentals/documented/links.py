"""A link at a real server: the agent is under test, and the test plays the client job."""

from __future__ import annotations

from typing import Any

from redflare_agent import IPCAgent, Task
from redflare_broker.config.settings import LinkSettings
from redflare_broker.testing import LinkUnderTest
from redflare_broker.transport.server import Server

from tests.support.link.steps import LinkSteps
from tests.support.waiting import SOON


class RealLink(LinkUnderTest):
    """The link of redflare's pytest plugin, at a real server."""

    def __init__(self, url: str, settings: LinkSettings) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.url = url
        self.settings = settings

    def server(self) -> Server:
        return Server.connect(self.url)

    @property
    def agent_args(self) -> dict[str, Any]:
        return {**super().agent_args, "flare_site_url": self.url}

    @property
    def exchanger_args(self) -> dict[str, Any]:
        return {**super().exchanger_args, "redis_url": self.url}


def fetched(agent: IPCAgent) -> Task:
    """Wait for the agent's next task."""
    task = agent.get_task(timeout=SOON)
    assert task is not None
    return task


def task_of_a_dead_job(link: LinkUnderTest) -> LinkSteps:
    """Let a client job hand out task "t" and die, without a goodbye."""
    steps = LinkSteps(link.server(), link.fqcn, link.settings.namespace)
    steps.hello("cj", "host:1:a")
    steps.assign("t")
    return steps


def status(steps: LinkSteps, field: str = "status") -> str:
    """What Redis says of task "t"."""
    with steps.server.borrow(steps.keys.link) as connection:
        value = connection.call("HGET", steps.keys.task("t"), field)
    return value.decode() if isinstance(value, bytes) else ""
