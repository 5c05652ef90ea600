"""Starts, stops, aborts and refusals at unlucky moments, which must leave nothing behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from redflare_agent import AgentClosed, IPCAgent, Task, TaskResult, serve
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ServerError
from redflare_broker.link.agent_link import encode_result
from redflare_broker.link.cj_link import CJLink
from redflare_broker.link.exchange import OutgoingTask
from redflare_broker.link.liveness import Peer
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.runtime import shared_connection
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_broker.wire.task_entry import Entry
from redflare_workers.ipc.exchanger import IPCExchanger, TaskAborted, TaskTimeout

from tests.support.link.blocked import until_blocked
from tests.support.link.endpoints import BIG, agent_link, echo, exchanging, fake_server, job_link, submit
from tests.support.waiting import wait_until

# -- ends ----------------------------------------------------------------------------------------------------------


def test_a_signal_handler_may_stop_an_exchanger_that_runs_a_task(redflare_link: LinkUnderTest) -> None:
    exchanger = IPCExchanger(**redflare_link.exchanger_args)
    exchanger.start()
    before = signal.signal(signal.SIGUSR1, lambda *_: exchanger.stop())
    link = exchanger._link
    assert link is not None

    def interrupt() -> None:
        until_blocked(link)
        os.kill(os.getpid(), signal.SIGUSR1)
        if not done.wait(5):
            exchanger._busy.release()  # or the test would hang

    done = threading.Event()
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        began = time.monotonic()
        with pytest.raises(TaskAborted, match="stopped"):
            exchanger.run("train", 1)
        done.set()
        assert time.monotonic() - began < 3
        assert exchanger._link is None
        assert not shared_connection._connections
    finally:
        signal.signal(signal.SIGUSR1, before)
        done.set()
        interrupting.join(10)


def test_two_stops_at_once_release_the_shared_connection_once(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**{**redflare_link.exchanger_args, "agent_id": "other"}):
        exchanger = IPCExchanger(**redflare_link.exchanger_args)
        exchanger.start()
        with exchanger._busy:
            stopping = [threading.Thread(target=exchanger.stop) for _ in range(3)]
            for thread in stopping:
                thread.start()
            wait_until(lambda: exchanger._done)
        for thread in stopping:
            thread.join(10)
        (only,) = shared_connection._connections.values()
        assert only.users == 1
    assert not shared_connection._connections


def test_an_abort_that_arrives_as_the_task_begins_is_obeyed(redflare_link: LinkUnderTest) -> None:
    class Meta(dict[str, Any]):
        def __bool__(self) -> bool:
            exchanger.abort("at once")
            return True

    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        with pytest.raises(TaskAborted, match="at once"):
            exchanger.run("train", 1, Meta(), timeout=2)
        with redflare_link.agent(echo):
            assert exchanger.run("train", 2, timeout=5).data == 2


def test_stop_while_a_large_result_is_on_its_way_gives_false(redflare_link: LinkUnderTest) -> None:
    class Stopping(Task):
        """Its agent is stopped by another thread at the moment its result is sent."""

        def __setattr__(self, name: str, value: object) -> None:
            if name == "last_send_result_time":
                stopping = threading.Thread(target=agent.stop)
                stopping.start()
                stopping.join(10)
            super().__setattr__(name, value)

    agent = IPCAgent(**redflare_link.agent_args)
    agent.start()
    with redflare_link.cj() as cj:
        cj.send("train")
        task = agent.get_task(timeout=5)
        assert task is not None
        task.__class__ = Stopping
        assert agent.submit_result(TaskResult({}, BIG)) is False
    assert agent._link.session._connection is None


def test_a_failed_start_leaves_no_connection(redflare_link: LinkUnderTest) -> None:
    agent = IPCAgent(**redflare_link.agent_args)
    redflare_link.client.set(agent._link.session.keys.link, "in the way")  # type: ignore[attr-defined]
    with pytest.raises(ServerError, match="WRONGTYPE"):
        agent.start()
    assert agent._link.session._connection is None
    assert not shared_connection._connections


def test_an_agent_that_starts_after_a_bye_waits_for_the_next_cj(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj():
        pass
    with IPCAgent(**redflare_link.agent_args) as agent:
        assert agent.get_task(timeout=0.3) is None
        with redflare_link.cj() as cj:
            cj.send("train", 1)
            assert agent.get_task(timeout=5)
        wait_until(lambda: agent.closed)


def test_a_failure_that_a_closed_agent_cannot_report_ends_its_service(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as older:

        def train(task: Task) -> TaskResult:
            with IPCAgent(**redflare_link.agent_args):
                wait_until(lambda: older.closed)
            return TaskResult({}, object())

        cj.send("train")
        assert serve(train, older) == 0


def test_a_panic_that_fails_leaves_no_task_waiting(redflare_link: LinkUnderTest) -> None:
    class Engine:
        def new_context(self) -> Any:
            raise RuntimeError("no context today")

    args = redflare_link.exchanger_args | {"agent_heartbeat_timeout": 0.3}
    with IPCExchanger(**args) as exchanger:
        exchanger._engine = Engine()
        began = time.monotonic()
        with pytest.raises(TaskAborted, match="gone"):
            exchanger.run("train", 1, timeout=10)
        assert time.monotonic() - began < 3


def test_an_exchanger_can_be_made_in_a_forked_child(server_url: str, namespace: str) -> None:
    args: dict[str, Any] = {"redis_url": server_url, "settings": LinkSettings(namespace=namespace)}
    with IPCExchanger(**args, site_name="s", agent_id="a") as parents:
        pid = os.fork()
        if pid == 0:
            try:
                with IPCExchanger(**args, site_name="s", agent_id="b") as childs:
                    os._exit(42 if childs._link and childs._link.session.lease.epoch else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
        with pytest.raises(TaskTimeout):
            parents.run("train", 1, timeout=0.1)


# -- what is left behind -------------------------------------------------------------------------------------------


def test_every_abort_that_did_not_reach_redis_is_sent_later(redflare_link: LinkUnderTest) -> None:
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        link = exchanger._link
        assert link is not None
        fake_server(redflare_link).connected = False
        for task_id in ("a", "b"):
            with pytest.raises(TaskTimeout):
                exchanger.run("train", 1, timeout=0.2, task_id=task_id)
        fake_server(redflare_link).connected = True
        for task_id in ("a", "b"):
            wait_until(partial(_is_aborted, redflare_link.client, link.session.keys.task(task_id)))


def test_a_fenced_cj_leaves_the_kept_result_to_its_successor(redflare_link: LinkUnderTest) -> None:
    with redflare_link.agent(lambda _: TaskResult({}, BIG)) as agent:
        older = IPCExchanger(**redflare_link.exchanger_args)
        older.start()
        older.run("train", 1, task_id="t")
        with IPCExchanger(**redflare_link.exchanger_args) as newer:
            older.stop()
            assert newer.run("train", 1, task_id="t", timeout=10).data.nbytes == BIG.nbytes  # type: ignore[union-attr]
        assert len(agent.received) == 1


class LosingJobLink(CJLink):
    """A link that reads the payload of its first result too late: the payload is lost."""

    lost = False

    def _content(self, task: OutgoingTask, entry: Entry) -> tuple[dict[str, Any], Any]:
        if not self.lost and entry.blob is not None:
            self.lost = True
            RedisPayloadStore(self.session.server).remove(entry.blob)
        return super()._content(task, entry)


def test_a_payload_that_had_to_be_sent_twice_is_not_held_for_ever(redflare_link: LinkUnderTest) -> None:
    with job_link(redflare_link, LosingJobLink) as cj, IPCAgent(**redflare_link.agent_args) as agent:
        with exchanging(cj, "t") as outcomes:
            assert agent.get_task(timeout=5)
            assert agent.submit_result(TaskResult({}, BIG))
            wait_until(lambda: outcomes)
        assert outcomes[0].status == "ACCEPTED"
        assert not agent._link.payloads.kept


def test_a_refused_result_leaves_no_payload(redflare_link: LinkUnderTest) -> None:
    client: Any = redflare_link.client
    with job_link(redflare_link) as cj, agent_link(redflare_link) as side:
        entry = Entry(topic="get_task", task_id="t", task_name="train")
        cj.session.step(lambda connection, me: cj.session.scripts.assign(connection, me, entry, size=0))
        assert side.next_task(5)
        client.delete(side.session.keys.results)
        client.set(side.session.keys.results, "in the way")
        with pytest.raises(ServerError, match="WRONGTYPE"):
            submit(side, "t", BIG)
        assert not side.payloads.kept
        assert not client.keys(f"{side.session.keys.result_blob('')}*")


def test_an_agent_receives_tasks_although_its_registration_is_refused(redflare_link: LinkUnderTest) -> None:
    redflare_link.client.set("flare:agents", "in the way")  # type: ignore[attr-defined]
    with IPCAgent(**redflare_link.agent_args) as agent:
        with redflare_link.cj():
            wait_until(lambda: agent._link.peer is Peer.CONNECTED)
        with pytest.raises(AgentClosed, match="bye"):
            agent.get_task(timeout=10)


def test_heartbeats_that_are_refused_do_not_stop_the_clock(redflare_link: LinkUnderTest) -> None:
    args = redflare_link.agent_args | {"flare_site_heartbeat_timeout": 0.3}
    with IPCAgent(**args) as agent:
        client: Any = redflare_link.client
        client.delete(agent._link.session.keys.tasks, agent._link.session.keys.link)
        client.set(agent._link.session.keys.link, "in the way")
        wait_until(lambda: agent.closed)


def test_a_task_that_is_unknown_after_a_pause_is_asked_for_again(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, sent = [1000.0], [0]
    monkeypatch.setattr("redflare_broker.link.agent_link.time", SimpleNamespace(monotonic=lambda: now[0]))

    def stopped_before_the_first_look() -> None:
        sent[0] += 1
        now[0] += 60.0 if sent[0] == 1 else 0.0

    with agent_link(redflare_link) as side:
        status = side.submit(
            "t",
            "train",
            "OK",
            encode_result({}, 1, side.session.settings),
            resend_interval=0.01,
            answer_timeout=30.0,
            give_up=lambda: sent[0] >= 3,
            on_send=stopped_before_the_first_look,
        )
    assert (status, sent) == ("", [3])


def _is_aborted(client: Any, ledger: str) -> bool:
    return bool(client.hget(ledger, "status") == b"ABORTED")
