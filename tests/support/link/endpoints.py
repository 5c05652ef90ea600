"""The two sides of a link without the threads around them, and what befalls them."""

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
from redflare_broker.scripts.script import eval_command
from redflare_broker.testing.plugin import LinkUnderTest

from tests.support.waiting import wait_until

#: Above what stands in an entry, so it goes through blobs.
BIG = np.zeros(100_000)


def echo(task: ReceivedTask) -> TaskResult:
    return TaskResult({}, task.data)


def nothing() -> None:
    pass


@contextmanager
def agent_link(link: LinkUnderTest, on_abort: Callable[[str], None] = lambda _: None) -> Iterator[AgentLink]:
    """The agent's side without threads of its own."""
    with link.server() as server:
        session = link.session(server, "agent")
        yield AgentLink(session, Liveness(60.0), Heartbeats(server), nothing, on_abort)
        session.drop_connection()


@contextmanager
def job_link(link: LinkUnderTest, kind: type[CJLink] = CJLink) -> Iterator[CJLink]:
    """The CJ's side without threads of its own."""
    with link.server() as server:
        session = link.session(server, "cj")
        session.open_connection()
        yield kind(session, Liveness(60.0), nothing)
        session.drop_connection()


@contextmanager
def exchanging(side: CJLink, task_id: str) -> Iterator[list[ExchangeOutcome]]:
    """An exchange in another thread, which is given up at the end of the block."""
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
    """The reply to a heartbeat that the side does not hear of yet."""
    with side.session.server.borrow(side.session.keys.link) as connection:
        command = side.beat()
        reply = connection.pipeline([command])[0]
        if isinstance(reply, ServerError):
            reply = connection.pipeline([eval_command(command)])[0]
        return reply


def fake_server(link: LinkUnderTest) -> Any:
    """The server inside this process; ``connected = False`` takes it away."""
    return link.client.connection_pool.connection_kwargs["server"]  # type: ignore[attr-defined]


def submit(side: AgentLink, task_id: str, data: object) -> None:
    """Hand a result in, with little patience."""
    encoded = encode_result({}, data, side.session.settings)
    side.submit(task_id, "train", "OK", encoded, resend_interval=0.1, answer_timeout=0.2, give_up=lambda: False)
