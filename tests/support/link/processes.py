"""The real processes of a link on a real server, and the checks of its promises."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import redis
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.config.settings import LinkSettings
from redflare_broker.keys import Keys
from redflare_broker.scripts.link_scripts import LinkScripts
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.wire.codec import CodecLimits

from tests.programs import agent as agent_program
from tests.programs import cj as cj_program
from tests.programs.agent import AgentArgs
from tests.programs.cj import CJArgs
from tests.support.process.child import Child
from tests.support.redis_server.expiry import assert_expires
from tests.support.waiting import wait_until

#: Seconds that an open task is kept after the last heartbeat; longer than any pause in a test.
RETENTION: Final = 6.0

Fields = dict[bytes, bytes]


def quick_settings(namespace: str = "flare", **changes: Any) -> LinkSettings:
    """Settings with intervals for tests: what takes a minute by default takes a second."""
    return LinkSettings(
        **{
            "namespace": namespace,
            "heartbeat_interval": 0.2,
            "heartbeat_ttl": 2.0,
            "block": 1.0,
            "connection": ConnectionOptions(socket_timeout=0.5, connect_timeout=0.5),
            "limits": CodecLimits(),
            "policy": RetentionPolicy(retention=RETENTION, settled_retention=4.0, result_keep=3.0),
            **changes,
        }
    )


class LinkProcesses:
    """The processes of one link in a namespace of its own, watched through a connection of the test's own.

    Args:
        url: the server.
        folder: for the logs of the processes.
        client: the test's connection to it.
    """

    def __init__(self, url: str, folder: Path, client: redis.Redis, namespace: str = "flare", **changes: Any) -> None:
        self.url = url
        self.client = client
        self.settings = quick_settings(namespace, **changes)
        self.keys = Keys(namespace).link("site-1--agent")
        self.agents: list[Child] = []
        self.cjs: list[Child] = []
        self._folder = folder
        self._children = ExitStack()

    # -- processes -----------------------------------------------------------------------------------------------------

    def agent(self, **args: Any) -> Child:
        """Start an agent; it is connected when this returns."""
        child = self.start(agent_program.main, AgentArgs(**{"url": self.url, "settings": self.settings, **args}))
        self.agents.append(child)
        return child

    def cj(self, **args: Any) -> Child:
        """Start a CJ; it is connected when this returns."""
        child = self.start(cj_program.main, CJArgs(**{"url": self.url, "settings": self.settings, **args}))
        self.cjs.append(child)
        return child

    def start(self, main: Any, args: object) -> Child:
        """Start a child program; it is connected when this returns."""
        number = len(self.agents) + len(self.cjs)
        name = type(args).__name__.removesuffix("Args").lower()
        child = self._children.enter_context(Child(main, args, self._folder / f"{number}-{name}.log"))
        child.receive("started")
        return child

    def agent_with_task(self, **args: Any) -> Child:
        """Start an agent and let it fetch the open task."""
        child = self.agent(**args)
        child.send("get")
        child.receive("task")
        return child

    # -- keys in Redis -------------------------------------------------------------------------------------------------

    def status(self, task_id: str) -> str | None:
        """The task's status by its ledger."""
        status = self.client.hget(self.keys.task(task_id), "status")
        return status.decode() if isinstance(status, bytes) else None

    def until(self, task_id: str, *statuses: str, timeout: float = 20.0) -> None:
        """Wait until the task's ledger has one of these."""
        wait_until(lambda: self.status(task_id) in statuses, timeout)

    def entries(self, stream: str) -> list[tuple[bytes, Fields]]:
        """All entries of a stream, id and fields."""
        return cast("list[tuple[bytes, Fields]]", self.client.xrange(stream))

    def own_keys(self) -> list[str]:
        """All keys of the namespace."""
        return sorted(key.decode() for key in self.client.scan_iter(f"{self.settings.namespace}:*", 1000))

    def abort_as_operator(self, task_id: str) -> None:
        """Abort a task by hand, as the command line does."""
        scripts = LinkScripts(keys=self.keys, publish="PUBLISH", policy=self.settings.policy)
        with Server.connect(self.url) as server, server.borrow(self.keys.link) as connection:
            assert scripts.abort(connection, None, task_id, "an operator").status == "ABORTED"

    # -- the promises --------------------------------------------------------------------------------------------------

    def executions(self) -> list[tuple[str, int]]:
        """Every take of a task by an agent: (task id, attempt)."""
        return [(task_id, attempt) for child in self.agents for task_id, attempt in child.received("task")]

    def assert_settled(self, statuses: Mapping[str, str], executions: Mapping[str, int] | None = None) -> None:
        """Check the promises after the last task.

        Args:
            statuses: the expected status of each task: ACCEPTED, REJECTED or ABORTED.
            executions: how often each task was taken; once each, when not given.
        """
        results = [message for child in self.cjs for message in child.received("result")]
        for task_id, status in statuses.items():
            assert self.status(task_id) == status, f"{task_id} is {self.status(task_id)}"
            answers = [pickle.dumps(data) for found, data in results if found == task_id]
            assert bool(answers) == (status == "ACCEPTED"), f"{task_id} is {status}, but gave {len(answers)} results"
            assert len(set(answers)) <= 1, f"{task_id} gave different results"
        counted = [task_id for task_id, _ in self.executions()]
        for task_id, count in (dict.fromkeys(statuses, 1) if executions is None else executions).items():
            assert counted.count(task_id) == count, f"{task_id} was taken {counted.count(task_id)} times"
        assert self.client.xlen(self.keys.tasks) == 0
        assert self.client.hget(self.keys.link, "task") in (b"", None)
        accepted = sum(child.received("submitted").count((True,)) for child in self.agents)
        assert accepted <= list(statuses.values()).count("ACCEPTED"), "more submissions accepted than there are tasks"
        self.assert_all_keys_expire()

    def assert_all_keys_expire(self) -> None:
        """Check that each key has a TTL, and none longer than expected."""
        for key in self.own_keys():
            assert_expires(key, self.client.pttl(key), RETENTION)

    def assert_nothing_is_left(self) -> None:
        """End all processes, and wait until all keys have expired."""
        self.close()
        wait_until(lambda: not self.own_keys(), RETENTION + 4)

    def close(self) -> None:
        """Kill the processes that are left."""
        self._children.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pause(*children: Child) -> None:
    """SIGSTOP."""
    for child in children:
        child.signal(signal.SIGSTOP)


def resume(*children: Child) -> None:
    """SIGCONT."""
    for child in children:
        child.signal(signal.SIGCONT)
