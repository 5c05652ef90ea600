"""The two sides of a link, without their threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from redflare_agent import TaskResult
from redflare_broker.errors import ServerError
from redflare_broker.link.agent_link import AgentLink, ReceivedTask, encode_result
from redflare_broker.link.cj_link import CJLink
from redflare_broker.link.exchange import ExchangeOutcome
from redflare_broker.link.liveness import Liveness
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.scripts.script import run_pipeline
from redflare_broker.testing.plugin import LinkUnderTest

from tests.support.waiting import wait_until

#: Too large for an entry, so it is stored as a blob.
BIG = np.zeros(100_000)


def echo(task: ReceivedTask) -> TaskResult:
    return TaskResult({}, task.data)


def nothing() -> None:
    pass


@contextmanager
def agent_link(link: LinkUnderTest, on_abort: Callable[[str], None] = lambda _: None) -> Iterator[AgentLink]:
    """The agent's side, without threads."""
    with link.server() as server:
        session = link.session(server, "agent")
        yield AgentLink(session, Liveness(60.0), Heartbeats(server), nothing, on_abort)
        session.drop_connection()


@contextmanager
def job_link(link: LinkUnderTest, kind: type[CJLink] = CJLink) -> Iterator[CJLink]:
    """The CJ's side, without threads."""
    with link.server() as server:
        session = link.session(server, "cj")
        session.open_connection()
        yield kind(session, Liveness(60.0), nothing)
        session.drop_connection()


@contextmanager
def exchanging(side: CJLink, task_id: str) -> Iterator[list[ExchangeOutcome]]:
    """Run an exchange in another thread; it is given up at the end of the block."""
    outcomes: list[ExchangeOutcome] = []
    reasons = [""]
    working = threading.Thread(
        target=lambda: outcomes.append(side.exchange(task_id, "train", {}, {}, give_up=lambda: reasons[0]))
    )
    working.start()
    wait_until(lambda: side.session._blocked is not None or outcomes)
    yield outcomes
    reasons[0] = "the test has ended"
    side.session.nudge()
    working.join(10)
    assert not working.is_alive()


def beat(side: AgentLink | CJLink) -> Any:
    """Send a heartbeat; return its reply, which the side has not processed yet."""
    with side.session.server.borrow(side.session.keys.link) as connection:
        command = side.beat()
        reply = connection.pipeline([command])[0]
        if isinstance(reply, ServerError):
            reply = run_pipeline(connection, [command])[0]
        return reply


def fake_server(link: LinkUnderTest) -> Any:
    """The fake server; ``connected = False`` disconnects it."""
    return link.client.connection_pool.connection_kwargs["server"]  # type: ignore[attr-defined]


def submit(side: AgentLink, task_id: str, data: object) -> None:
    """Submit a result, with short timeouts."""
    encoded = encode_result({}, data, side.session.settings)
    side.submit(task_id, "train", "OK", encoded, resend_interval=0.1, answer_timeout=0.2, give_up=lambda: False)
