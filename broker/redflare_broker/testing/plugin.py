"""A pytest plugin for users' own tests: a link on fakeredis, a CJ that feeds an agent, an agent that feeds a CJ.

Installed with redflare, so the fixture ``redflare_link`` is there without an import. ``pip install '.[testing]'``
installs what it needs::

    def test_my_trainer_doubles(redflare_link):
        with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
            answer = cj.send("train", {"x": 2})
            my_trainer(agent)                      # calls agent.get_task() and agent.submit_result(...)
            assert answer.result(timeout=5).data == {"x": 4}

    def test_my_controller_asks_twice(redflare_link):
        with redflare_link.agent(lambda task: TaskResult({}, task.data)) as agent, IPCExchanger(
            **redflare_link.exchanger_args
        ) as exchanger:
            my_controller(exchanger)
            assert [task.task_name for task in agent.received] == ["train", "validate"]

What is tested is the real code of both sides, with real Lua scripts; only the server is inside the process.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final, Protocol, Self

import pytest

from redflare_broker.config.settings import LinkSettings
from redflare_broker.constants import RC, TaskResult
from redflare_broker.errors import Fenced, Unavailable
from redflare_broker.fqcn import agent_site_fqcn
from redflare_broker.link.agent_link import AgentLink, ReceivedTask, encode_result
from redflare_broker.link.cj_link import CJLink
from redflare_broker.link.liveness import Liveness, Peer
from redflare_broker.link.session import Session
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.runtime.subscriber import Subscriber, Subscription
from redflare_broker.scripts.lease import Role
from redflare_broker.scripts.task_states import ACCEPTED
from redflare_broker.transport.server import Server

logger = logging.getLogger(__name__)

__all__ = ["FakeAgent", "FakeCJ", "LinkUnderTest", "TaskNotDone", "redflare_link"]

#: The fakes wait for each other no longer than this, in seconds, so that a test fails instead of hanging.
_PATIENCE: Final = 30.0


class TaskNotDone(AssertionError):
    """The agent under test gave no result: the task was aborted or rejected; the message says why."""


class _Client(Protocol):
    def close(self) -> None: ...


class LinkUnderTest:
    """A private link on a server inside this process.

    Args:
        client: a fakeredis client (or any redis-py client).
    """

    def __init__(self, client: _Client, site_name: str = "site-1", agent_id: str = "agent") -> None:
        self.client = client
        self.site_name = site_name
        self.agent_id = agent_id
        self.fqcn = agent_site_fqcn(site_name, agent_id)
        self.settings = LinkSettings(heartbeat_interval=1.0, heartbeat_ttl=10.0, allow_eviction=True)

    @property
    def agent_args(self) -> dict[str, Any]:
        """Arguments that make an ``IPCAgent`` of this link."""
        return {**self._args("flare_site_url", "flare_site_name"), "workspace_dir": "."}

    @property
    def exchanger_args(self) -> dict[str, Any]:
        """Arguments that make an ``IPCExchanger`` of this link."""
        return self._args("redis_url", "site_name")

    def _args(self, url: str, site_name: str) -> dict[str, Any]:
        names = {url: "redis://fake", site_name: self.site_name, "agent_id": self.agent_id}
        return {**names, "settings": self.settings, "client": self.client}

    def cj(self) -> FakeCJ:
        """Make a CJ that feeds the agent under test with tasks; a context manager."""
        return FakeCJ(self)

    def agent(self, answer: Callable[[ReceivedTask], TaskResult]) -> FakeAgent:
        """Make an agent that feeds the CJ under test with results; a context manager."""
        return FakeAgent(self, answer)

    def server(self) -> Server:
        """Connect to the link's server once more."""
        return Server.connect("redis://fake", client=self.client)  # type: ignore[arg-type]

    def session(self, server: Server, role: Role) -> Session:
        """Make a session of one side of the link, for a test that plays it."""
        return Session(server, self.fqcn, role, self.settings)

    def __repr__(self) -> str:
        return f"<LinkUnderTest {self.fqcn}>"


class FakeCJ:
    """Feeds an agent with tasks, one after another in the order of ``send``."""

    def __init__(self, under_test: LinkUnderTest) -> None:
        self._server = under_test.server()
        self._heartbeats = Heartbeats(self._server)
        self._session = under_test.session(self._server, "cj")
        self._link = CJLink(self._session, Liveness(_PATIENCE), lambda: None)
        self._one_at_a_time = threading.Lock()
        self._reason = ""

    def send(
        self, task_name: str, data: Any = None, meta: dict[str, Any] | None = None, *, task_id: str | None = None
    ) -> Future[TaskResult]:
        """Assign a task; the Future gives the agent's result, or raises TaskNotDone."""
        future: Future[TaskResult] = Future()
        args = (task_id or uuid.uuid4().hex, task_name, meta or {}, {} if data is None else data)
        threading.Thread(target=self._exchange, args=(future, args), name="fake-cj", daemon=True).start()
        return future

    def _exchange(self, future: Future[TaskResult], args: tuple[str, str, dict[str, Any], Any]) -> None:
        try:
            with self._one_at_a_time:
                outcome = self._link.exchange(*args, give_up=lambda: self._reason)
            if outcome.status == ACCEPTED:
                future.set_result(TaskResult(outcome.meta, outcome.data, outcome.rc))
            else:
                future.set_exception(TaskNotDone(f"task {args[1]!r} is {outcome.status}: {outcome.reason}"))
        except BaseException as exc:
            future.set_exception(exc)

    def abort(self, reason: str = "aborted by the test") -> None:
        """Abort the task in progress."""
        if task_id := self._link.task_id:
            self._link.abort(task_id, reason)

    def __enter__(self) -> Self:
        self._session.open_connection()
        self._heartbeats.add(self._link)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._reason = "the test has ended"
        self._session.nudge()
        with self._one_at_a_time:
            self._heartbeats.stop()
            self._link.close(bye=True)
            self._session.drop_connection()
        self._server.close()

    def __repr__(self) -> str:
        return f"<FakeCJ of {self._session.keys.fqcn}>"


class FakeAgent:
    """Answers every task of the CJ under test by calling ``answer(task)``; ``received`` lists the tasks."""

    def __init__(self, under_test: LinkUnderTest, answer: Callable[[ReceivedTask], TaskResult]) -> None:
        self.received: list[ReceivedTask] = []
        #: ids of the tasks that were aborted while this agent had them
        self.aborted: list[str] = []
        self._answer = answer
        self._settings = under_test.settings
        self._server = under_test.server()
        self._heartbeats = Heartbeats(self._server)
        self._session = under_test.session(self._server, "agent")
        self._link = AgentLink(self._session, Liveness(_PATIENCE), self._heartbeats, lambda: None, self.aborted.append)
        channels = [self._session.keys.abort, self._session.keys.notice]
        self._subscriber = Subscriber(self._server, Subscription(channels, self._link.on_message, self._link.beat_now))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-agent", daemon=True)

    def _run(self) -> None:
        while not self._stopped.is_set() and self._link.peer is not Peer.LEFT:
            try:
                if (task := self._link.next_task(1.0)) is not None:
                    self._submit(task)
            except Fenced:
                return
            except Unavailable:
                self._session.pause(0.1)

    def _submit(self, task: ReceivedTask) -> None:
        self.received.append(task)
        try:
            result = self._answer(task)
        except Exception as exc:
            logger.exception("the answer to task %r failed", task.task_name)
            result = TaskResult({"exception": repr(exc)}, None, RC.EXECUTION_EXCEPTION)
        self._link.submit(
            task.task_id,
            task.task_name,
            result.return_code,
            encode_result(result.meta, result.data, self._settings),
            resend_interval=1.0,
            answer_timeout=_PATIENCE,
            give_up=self._stopped.is_set,
        )
        self._link.forget_task()

    def __enter__(self) -> Self:
        self._session.open_connection()
        self._heartbeats.add(self._link)
        self._subscriber.start()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._session.nudge()
        self._link.wake_submit()
        self._thread.join(_PATIENCE)
        self._subscriber.stop()
        self._heartbeats.stop()
        self._link.close(bye=True)
        self._session.drop_connection()
        self._server.close()

    def __repr__(self) -> str:
        return f"<FakeAgent of {self._session.keys.fqcn}, {len(self.received)} tasks>"


@pytest.fixture
def redflare_link() -> Iterator[LinkUnderTest]:
    """Yield a link on a new fakeredis server."""
    import fakeredis

    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    yield LinkUnderTest(client)
    client.close()
