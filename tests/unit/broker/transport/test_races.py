"""Wake-ups and replies at unlucky moments, and timeouts that are kept nevertheless."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from redflare_agent import AgentClosed, IPCAgent
from redflare_broker.link.agent_link import encode_result
from redflare_broker.link.session import Session
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_broker.transport import idle_connections
from redflare_broker.util import wakeup
from redflare_workers.ipc.exchanger import IPCExchanger, TaskTimeout

from tests.support.link.endpoints import agent_link, beat, echo, exchanging, fake_server, job_link, submit
from tests.support.waiting import wait_until

# -- wake-ups ------------------------------------------------------------------------------------------------------


def test_a_nudge_ends_one_pause_and_not_every_later_one(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        side.session.nudge()
        began = time.monotonic()
        side.session.pause(60.0)
        assert time.monotonic() - began < 30
        _, reply = side.session.read(side.session.keys.results, "0", 0.001, then=lambda: ["PING"])
        assert reply == b"PONG", "the pause has used the nudge up"
        began = time.monotonic()
        side.session.pause(0.1)
        assert time.monotonic() - began > 0.04


def test_an_old_wake_up_does_not_make_a_submission_spin(redflare_link: LinkUnderTest) -> None:
    sent: list[float] = []
    with agent_link(redflare_link) as side:
        side.wake_submit()
        status = side.submit(
            "unknown",
            "train",
            "OK",
            encode_result({}, 1, redflare_link.settings),
            resend_interval=0.1,
            answer_timeout=0.3,
            give_up=lambda: False,
            on_send=lambda: sent.append(time.monotonic()),
        )
    assert status == "UNKNOWN"
    assert len(sent) <= 6


@pytest.mark.parametrize("step", range(6))
def test_a_signal_handler_may_wake_a_thread_at_any_line_of_its_wait(redflare_link: LinkUnderTest, step: int) -> None:
    with agent_link(redflare_link) as side:
        for wait, wake in (
            (lambda: side.session.pause(0.4), side.session.nudge),
            (lambda: submit(side, "unknown", 1), side.wake_submit),
        ):
            waiting = threading.Thread(target=_interrupted_at, args=(step, wait, wake, wakeup.__name__), daemon=True)
            waiting.start()
            waiting.join(5)
            assert not waiting.is_alive()


@pytest.mark.parametrize("step", range(12))
def test_a_signal_handler_may_borrow_a_connection_at_any_line_of_the_pool(
    redflare_link: LinkUnderTest, step: int
) -> None:
    with redflare_link.server() as server:

        def borrow() -> None:
            with server.borrow("key") as connection:
                assert connection.call("PING") == b"PONG"

        borrow()
        borrowing = threading.Thread(
            target=_interrupted_at, args=(step, borrow, borrow, idle_connections.__name__), daemon=True
        )
        borrowing.start()
        borrowing.join(5)
        assert not borrowing.is_alive()
        assert len(server._idle) >= 1


def _interrupted_at(step: int, wait: Callable[[], object], wake: Callable[[], None], module: str) -> None:
    """Call ``wake`` where a signal handler of this thread would run: at one line of a module."""
    left = [step]

    def trace(frame: Any, event: str, arg: object) -> Any:
        if frame.f_globals.get("__name__") != module:
            return trace if "redflare" in frame.f_code.co_filename else None
        if event == "line":
            left[0] -= 1
            if left[0] == -1:
                wake()
        return trace

    sys.settrace(trace)
    try:
        wait()
    finally:
        sys.settrace(None)


# -- replies that come late ----------------------------------------------------------------------------------------


def test_a_late_heartbeat_does_not_abort_the_agents_next_task(redflare_link: LinkUnderTest) -> None:
    aborted: list[str] = []
    with job_link(redflare_link) as cj, agent_link(redflare_link, aborted.append) as side:
        with exchanging(cj, "first"):
            first = side.next_task(5)
            assert first is not None
        late = beat(side)
        with exchanging(cj, "second"):
            side.forget_task()
            second = side.next_task(5)
            assert second is not None
            side.on_beat(late)
            assert (second.task_id, aborted) == ("second", [])


def test_a_late_heartbeat_does_not_end_the_cjs_next_task(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link) as side:
        with exchanging(side, "first"):
            side.abort("first", "enough")
            late = beat(side)
        with exchanging(side, "second") as outcomes:
            side.on_beat(late)
            side.session.nudge()
            wait_until(lambda: outcomes or (not side.session._nudged and side.session._blocked is not None))
            assert outcomes == []


# -- timeouts ------------------------------------------------------------------------------------------------------


def test_every_run_keeps_to_its_timeout(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        with redflare_link.agent(echo):
            exchanger.run("train", 1)
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(TaskTimeout):
                exchanger.run("train", 1, timeout=0.2)
            assert time.monotonic() - began < 2


def test_get_task_keeps_to_its_timeout_while_the_server_is_away(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, pauses = [1000.0], list[float]()

    def pause(self: Session, seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    with IPCAgent(**redflare_link.agent_args) as agent:
        monkeypatch.setattr("redflare_agent.ipc_agent.time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(Session, "pause", pause)
        fake_server(redflare_link).connected = False
        assert agent.get_task(timeout=7.0) is None
        assert now[0] == pytest.approx(1007.0)
        assert len(pauses) > 3
        fake_server(redflare_link).connected = True


def test_run_keeps_to_its_timeout_while_the_server_is_away(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        fake_server(redflare_link).connected = False
        began = time.monotonic()
        with pytest.raises(TaskTimeout):
            exchanger.run("train", 1, timeout=0.2)
        assert time.monotonic() - began < 2
        fake_server(redflare_link).connected = True


def test_a_heartbeat_outlives_a_long_interval(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(
        **redflare_link.exchanger_args, agent_heartbeat_interval=60.0, agent_connection_timeout=600.0
    ) as exchanger:
        key = exchanger._link.session.keys.heartbeat("cj")  # type: ignore[union-attr]
        left = wait_until(lambda: max(0, redflare_link.client.pttl(key)))  # type: ignore[attr-defined]
        assert left > 100_000


def test_a_death_is_noticed_in_time_although_heartbeats_are_rare(redflare_link: LinkUnderTest) -> None:
    redflare_link.settings = replace(redflare_link.settings, heartbeat_interval=600.0, heartbeat_ttl=6000.0)
    args = redflare_link.agent_args | {"flare_site_heartbeat_timeout": 0.3}
    with IPCAgent(**args) as agent, pytest.raises(AgentClosed, match="no heartbeat"):
        agent.get_task(timeout=30)
