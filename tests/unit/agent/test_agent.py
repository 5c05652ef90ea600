"""The agent's calls, checked against a CJ on fakeredis."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redflare_agent import RC, AgentClosed, CallStateError, FlareAgent, IPCAgent, Task, TaskResult, serve, trainer
from redflare_agent.serve import answer
from redflare_broker.config.settings import LinkSettings
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import ConfigError, EncodeError, PreflightError
from redflare_broker.testing.plugin import LinkUnderTest, TaskNotDone
from redflare_broker.transport.server import Server
from redflare_workers.agent_run.watched_train import WatchedTrain

from tests.support.link.blocked import until_blocked
from tests.support.link.steps import LinkSteps
from tests.support.waiting import wait_until


def test_a_task_arrives_and_its_result_is_accepted(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        answer = cj.send("train", {"w": np.arange(3.0)}, {"current_round": 1})
        task = agent.get_task(timeout=5)
        assert task is not None
        assert (task.task_name, task.meta, task.status) == ("train", {"current_round": 1}, Task.FETCHED)
        assert agent.submit_result(TaskResult({"loss": 0.5}, {"w": task.data["w"] + 1})) is True
        assert task.status == Task.PROCESSED
        assert task.already_received
        assert task.last_send_result_time is not None
        result = answer.result(timeout=5)
        assert result.meta == {"loss": 0.5}
        np.testing.assert_array_equal(result.data["w"], [1.0, 2.0, 3.0])


def test_empty_data_and_meta_are_legal(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        answer = cj.send("train")
        task = agent.get_task(timeout=5)
        assert task is not None
        assert (task.data, task.meta) == ({}, {})
        assert agent.submit_result(TaskResult(None, None))
        assert answer.result(timeout=5).data == {}


@pytest.mark.parametrize("timeout", ["1", None, [1], True])
def test_a_timeout_that_is_no_number_is_a_type_error(redflare_link: LinkUnderTest, timeout: Any) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent:
        if timeout is None:
            return
        with pytest.raises(TypeError, match="timeout must be int or float"):
            agent.get_task(timeout)


@pytest.mark.parametrize("timeout", [0, -1, -0.5])
def test_a_timeout_that_is_not_positive_is_a_value_error(redflare_link: LinkUnderTest, timeout: float) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent, pytest.raises(ValueError, match="timeout must be > 0"):
        agent.get_task(timeout)


def test_get_task_returns_none_after_its_timeout(redflare_link: LinkUnderTest) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent:
        assert agent.get_task(timeout=0.05) is None


def test_get_task_before_the_result_is_submitted_is_refused(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        answer = cj.send("train", {"x": 1})
        task = agent.get_task(timeout=5)
        assert task is not None
        with pytest.raises(CallStateError, match="submit_result"):
            agent.get_task(timeout=1)
        assert agent.submit_result(TaskResult({}, task.data))
        assert answer.result(timeout=5).data == {"x": 1}


def test_submit_without_a_task_is_refused_after_the_first_task(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        answer = cj.send("train")
        assert agent.get_task(timeout=5)
        assert agent.submit_result(TaskResult({}, 1))
        answer.result(timeout=5)
        with pytest.raises(CallStateError, match="get_task"):
            agent.submit_result(TaskResult({}, 2))


def test_a_wrong_type_of_result_leaves_the_task_as_it_was(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        answer = cj.send("train")
        task = agent.get_task(timeout=5)
        assert task is not None
        with pytest.raises(TypeError, match="TaskResult"):
            agent.submit_result({"data": 1})  # type: ignore[arg-type]
        assert task.status == Task.FETCHED
        assert agent.submit_result(TaskResult({}, 3))
        assert answer.result(timeout=5).data == 3


def test_a_result_that_cannot_be_encoded_leaves_the_task_as_it_was(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        answer = cj.send("train")
        task = agent.get_task(timeout=5)
        assert task is not None
        with pytest.raises(EncodeError, match="data"):
            agent.submit_result(TaskResult({}, {"bad": object()}))
        assert task.status == Task.FETCHED
        assert agent.submit_result(TaskResult({}, 3))
        assert answer.result(timeout=5).data == 3


def test_falsy_data_is_data() -> None:
    assert TaskResult({}, 0).data == 0
    assert TaskResult({}, []).data == []
    assert TaskResult(None, None).data == {}
    empty = TaskResult(None, np.zeros(0)).data
    assert isinstance(empty, np.ndarray)
    assert empty.shape == (0,)


def test_meta_and_return_code_are_checked() -> None:
    with pytest.raises(TypeError, match="meta must be a dict"):
        TaskResult("no", {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="return_code must be a str"):
        TaskResult({}, {}, 1)  # type: ignore[arg-type]


def test_a_task_shows_its_name_and_id() -> None:
    assert str(Task("train", "t-1", {}, {})) == "'train t-1'"


def test_an_abort_reaches_a_trainer_that_waits_for_it(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        answer = cj.send("train")
        task = agent.get_task(timeout=5)
        assert task is not None
        assert task.wait_aborted(0.01) is False
        cj.abort("enough")
        assert task.wait_aborted(5)
        assert task.aborted
        with pytest.raises(TaskNotDone, match="ABORTED"):
            answer.result(timeout=5)
        assert agent.submit_result(TaskResult({}, {})) is False


def test_the_next_task_is_promoted_when_an_aborted_one_is_dropped(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        cj.send("train", task_id="first")
        first = agent.get_task(timeout=5)
        assert first is not None
        cj.abort()
        assert first.wait_aborted(5)
        second_answer = cj.send("train", task_id="second")
        second = agent.get_task(timeout=5)
        assert second is not None
        assert second.task_id == "second"
        assert agent.submit_result(TaskResult({}, "done"))
        assert second_answer.result(timeout=5).data == "done"


def test_an_abort_ends_a_submission_that_waits_for_its_answer(redflare_link: LinkUnderTest) -> None:
    server = redflare_link.server()
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        cj.send("train", task_id="t")
        assert agent.get_task(timeout=5)
        accepted: list[bool] = []
        keys = agent._link.session.keys
        # a submission that no CJ reads: the CJ is blocked while an operator aborts
        with server.borrow(keys.link) as connection:
            connection.call("HSET", keys.link, "cj_epoch", 1 << 52)
        submitting = threading.Thread(target=lambda: accepted.append(agent.submit_result(TaskResult({}, {}))))
        submitting.start()
        wait_until(lambda: _status(redflare_link, "t") == "SUBMITTED")
        with server.borrow(keys.link) as connection:
            agent._link.session.scripts.abort(connection, None, "t", "an operator")
        submitting.join(5)
        assert accepted == [False]
    server.close()


def test_an_interrupted_submission_continues_when_it_is_called_again(redflare_link: LinkUnderTest) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent, redflare_link.server() as server:
        steps = LinkSteps(server, redflare_link.fqcn)
        steps.hello("cj", "h:1:c")
        steps.assign("t")
        assert agent.get_task(timeout=5)

        _submit_and_interrupt(redflare_link, agent, "first")
        with redflare_link.cj() as cj:
            answer = cj.send("train", task_id="t")
            assert agent.submit_result(TaskResult({}, "second")) is True
            assert answer.result(timeout=5).data == "first"


def test_the_payload_of_an_interrupted_submission_is_deleted_when_its_task_is_aborted(
    redflare_link: LinkUnderTest,
) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent, redflare_link.server() as server:
        steps = LinkSteps(server, redflare_link.fqcn)
        steps.hello("cj", "h:1:c")
        steps.assign("t")
        task = agent.get_task(timeout=5)
        assert task is not None
        _submit_and_interrupt(redflare_link, agent, np.zeros(50_000))
        assert list(server.scan(f"{steps.keys.result_blob('')}*"))
        steps.abort("t", "no longer needed")
        assert task.wait_aborted(5)
        assert agent.get_task(timeout=0.05) is None
        assert not list(server.scan(f"{steps.keys.result_blob('')}*"))


def test_stop_wakes_a_blocked_get_task(redflare_link: LinkUnderTest) -> None:
    agent = IPCAgent(**redflare_link.agent_args)
    agent.start()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            agent.get_task()
        except AgentClosed as exc:
            raised.append(exc)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until_blocked(agent)
    began = time.monotonic()
    agent.stop()
    waiting.join(5)
    assert raised
    assert time.monotonic() - began < 2
    with pytest.raises(AgentClosed, match="stop was called"):
        agent.get_task(timeout=1)


def test_stop_wakes_a_submission_that_waits_for_its_answer(redflare_link: LinkUnderTest) -> None:
    agent = IPCAgent(**redflare_link.agent_args, resend_result_interval=60.0, submit_result_timeout=60.0)
    agent.start()
    with redflare_link.server() as server:
        steps = LinkSteps(server, redflare_link.fqcn)
        steps.hello("cj", "h:1:c")
        steps.assign("t")
        assert agent.get_task(timeout=5)
        accepted: list[bool] = []
        submitting = threading.Thread(target=lambda: accepted.append(agent.submit_result(TaskResult({}, {}))))
        submitting.start()
        wait_until(lambda: _status(redflare_link, "t") == "SUBMITTED")
        agent.stop()
        submitting.join(10)
        assert accepted == [False]


def test_a_result_is_handed_in_again_after_each_resend_interval(redflare_link: LinkUnderTest) -> None:
    sent: set[float | None] = set()
    with IPCAgent(**redflare_link.agent_args, resend_result_interval=0.05) as agent, redflare_link.server() as server:
        steps = LinkSteps(server, redflare_link.fqcn)
        steps.hello("cj", "h:1:c")
        steps.assign("t")
        task = agent.get_task(timeout=5)
        assert task is not None
        submitting = threading.Thread(target=agent.submit_result, args=[TaskResult({}, {})])
        submitting.start()

        def ten_times() -> bool:
            sent.add(task.last_send_result_time)
            return len(sent) > 10

        wait_until(ten_times, 15)
        steps.abort("t", "enough")
        submitting.join(10)


def test_an_agent_does_not_start_on_a_redis_that_evicts_keys_unless_that_is_allowed(tmp_path: Path) -> None:
    with EmbeddedServer() as embedded, Server.connect(embedded.url) as server, server.borrow("any") as connection:
        connection.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(PreflightError, match="maxmemory-policy"):
            IPCAgent(embedded.url, "site-1", "trainer", tmp_path).start()
        with IPCAgent(embedded.url, "site-1", "trainer", tmp_path, settings=LinkSettings(allow_eviction=True)) as agent:
            assert not agent.closed


def test_a_second_start_warns(redflare_link: LinkUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent, caplog.at_level(logging.WARNING):
        agent.start()
        assert "started before" in caplog.text


def test_stop_before_start_and_a_second_stop_warn(
    redflare_link: LinkUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    agent = IPCAgent(**redflare_link.agent_args)
    with caplog.at_level(logging.WARNING):
        agent.stop()
        assert "never started" in caplog.text
        agent.stop()
        assert "stopped before" in caplog.text


def test_start_after_stop_is_refused(redflare_link: LinkUnderTest) -> None:
    agent = IPCAgent(**redflare_link.agent_args)
    agent.start()
    agent.stop()
    with pytest.raises(CallStateError, match="make a new one"):
        agent.start()


def test_get_task_before_start_is_refused(redflare_link: LinkUnderTest) -> None:
    agent = IPCAgent(**redflare_link.agent_args)
    with pytest.raises(CallStateError, match="start"):
        agent.get_task(timeout=1)
    agent.stop()


def test_a_bye_of_the_cj_ends_the_agent(redflare_link: LinkUnderTest) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent:
        with redflare_link.cj():
            wait_until(lambda: agent._link.peer.name == "CONNECTED")
        with pytest.raises(AgentClosed, match="bye"):
            agent.get_task(timeout=10)


def test_a_bye_aborts_the_task_that_another_cj_had_left(redflare_link: LinkUnderTest) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent, redflare_link.cj() as older:
        older.send("train", task_id="t")
        task = agent.get_task(timeout=5)
        assert task is not None
        with redflare_link.cj():
            assert not task.aborted
        assert task.wait_aborted(10)
        assert not agent.submit_result(TaskResult({}, "for nobody"))


def test_a_newer_instance_closes_the_older_one_and_gets_its_task(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as older:
        answer = cj.send("train", {"x": 1}, task_id="t")
        first = older.get_task(timeout=5)
        assert first is not None
        assert first.attempt == 1
        with IPCAgent(**redflare_link.agent_args) as newer:
            task = newer.get_task(timeout=5)
            assert task is not None
            assert (task.task_id, task.attempt) == ("t", 2)
            wait_until(lambda: older.closed)
            with pytest.raises(AgentClosed, match="newer instance"):
                older.submit_result(TaskResult({}, "stale"))
            with pytest.raises(AgentClosed, match="newer instance"):
                older.get_task(timeout=1)
            assert newer.submit_result(TaskResult({}, "fresh"))
            assert answer.result(timeout=5).data == "fresh"


def test_a_result_without_any_task_is_a_wrong_call_at_once(redflare_link: LinkUnderTest) -> None:
    # longer than the test may take: there is nothing to wait for
    with IPCAgent(**redflare_link.agent_args | {"submit_result_timeout": 600.0}) as agent:
        for _ in range(2):
            with pytest.raises(CallStateError, match=r"has fetched no task, and none is open; call get_task\(\) first"):
                agent.submit_result(TaskResult({}, "of nothing"))
        with redflare_link.cj() as cj:
            with pytest.raises(CallStateError):
                agent.submit_result(TaskResult({}, "of nothing"))
            answer = cj.send("train")
            assert agent.get_task(timeout=5)
            assert agent.submit_result(TaskResult({}, "of a task"))
            assert answer.result(timeout=5).data == "of a task"


@pytest.mark.parametrize("meta", [None, [], "", 0, False, (), {}])
def test_a_meta_that_is_false_is_an_empty_dict(meta: Any) -> None:
    assert TaskResult(meta, 1).meta == {}


def test_tasks_and_results_take_further_attributes() -> None:
    for each in (Task("train", "t", {}, {}), TaskResult({}, {})):
        each.origin = "loader-3"  # type: ignore[union-attr]
        assert each.origin == "loader-3"  # type: ignore[union-attr]


def test_an_agent_may_do_without_submit_result() -> None:
    class Watcher(FlareAgent):
        def start(self) -> None: ...

        def stop(self) -> None: ...

        def get_task(self, timeout: float | None = None) -> Task | None:
            return None

    assert FlareAgent.__abstractmethods__ == {"start", "stop", "get_task"}
    with Watcher() as watcher, pytest.raises(NotImplementedError, match="Watcher hands in no results"):
        watcher.submit_result(TaskResult({}, {}))


def test_a_restarted_agent_may_submit_its_predecessors_result_once(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj:
        with IPCAgent(**redflare_link.agent_args) as before:
            answer = cj.send("train")
            assert before.get_task(timeout=5)
        with IPCAgent(**redflare_link.agent_args) as after:
            assert after.submit_result(TaskResult({}, "from the checkpoint"))
            assert answer.result(timeout=5).data == "from the checkpoint"
            with pytest.raises(CallStateError):
                after.submit_result(TaskResult({}, "again"))


def test_a_predecessors_result_may_be_submitted_again_after_an_interruption(redflare_link: LinkUnderTest) -> None:
    with redflare_link.server() as server:
        steps = LinkSteps(server, redflare_link.fqcn)
        steps.hello("cj", "h:1:c")
        steps.assign("t")
        with IPCAgent(**redflare_link.agent_args) as before:
            assert before.get_task(timeout=5)
        with IPCAgent(**redflare_link.agent_args) as after:
            _submit_and_interrupt(redflare_link, after, "from the checkpoint")
            with redflare_link.cj() as cj:
                answer = cj.send("train", task_id="t")
                assert after.submit_result(TaskResult({}, "again")) is True
                assert answer.result(timeout=5).data == "from the checkpoint"


def test_an_abort_that_comes_while_the_task_is_read_is_not_missed(redflare_link: LinkUnderTest) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent, redflare_link.server() as server:
        steps = LinkSteps(server, redflare_link.fqcn)
        steps.hello("cj", "h:1:c")
        client: Any = redflare_link.client

        def heard() -> bool:
            """Publish until the agent listens: the message comes first of all, when it has no task in hand yet."""
            client.publish(steps.keys.abort, "abort t")
            return agent._link.was_aborted("t")

        wait_until(heard)
        steps.assign("t")
        task = agent.get_task(timeout=5)
        assert task is not None
        assert task.aborted


def test_a_silent_cj_closes_the_agent_after_the_heartbeat_timeout(redflare_link: LinkUnderTest) -> None:
    agent = IPCAgent(**redflare_link.agent_args, flare_site_connection_timeout=0.1, flare_site_heartbeat_timeout=0.2)
    with agent, pytest.raises(AgentClosed, match="no heartbeat of the CJ"):
        agent.get_task(timeout=20)


def test_secure_mode_without_a_root_certificate_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path / "startup" / "rootCA.pem")):
        IPCAgent("rediss://localhost", "site-1", "a", tmp_path, True)


@pytest.mark.parametrize(("site", "agent_id", "named"), [("si te", "a", "si te"), ("s", "a.b", "a.b"), ("s", "", "''")])
def test_an_illegal_name_is_a_value_error_that_names_it(site: str, agent_id: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        IPCAgent("redis://localhost", site, agent_id, ".")


def test_an_unknown_key_of_the_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "comm_config.json").write_text('{"namspace": "x"}')
    with pytest.raises(ConfigError, match="namspace"):
        IPCAgent("redis://localhost", "s", "a", tmp_path)


def test_tasks_can_be_iterated(redflare_link: LinkUnderTest) -> None:
    seen = []
    with IPCAgent(**redflare_link.agent_args) as agent:

        def feed() -> None:
            with redflare_link.cj() as cj:
                for number in range(3):
                    cj.send("train", number).result(timeout=10)

        feeding = threading.Thread(target=feed)
        feeding.start()
        for task in agent.tasks():
            seen.append(task.data)
            agent.submit_result(TaskResult({}, task.data))
        feeding.join(10)
    assert seen == [0, 1, 2]


def test_an_exception_of_the_trainer_is_reported_with_its_traceback(redflare_link: LinkUnderTest) -> None:
    def train(task: Task) -> TaskResult:
        if task.data == "bad":
            raise ZeroDivisionError("no division here")
        return TaskResult({}, task.data)

    with IPCAgent(**redflare_link.agent_args) as agent:
        accepted: list[int] = []
        serving = threading.Thread(target=lambda: accepted.append(serve(train, agent)))
        serving.start()
        with redflare_link.cj() as cj:
            failed = cj.send("train", "bad").result(timeout=10)
            assert failed.return_code == RC.EXECUTION_EXCEPTION
            assert "ZeroDivisionError: no division here" in failed.meta["traceback"]
            assert "in train" in failed.meta["traceback"]
            assert cj.send("train", "good").result(timeout=10).data == "good"
        serving.join(10)
    assert accepted == [2]


def test_a_trainer_that_returns_something_else_is_an_execution_exception(redflare_link: LinkUnderTest) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent:
        serving = threading.Thread(target=lambda: serve(lambda task: {"x": 1}, agent))  # type: ignore[arg-type, return-value]
        serving.start()
        with redflare_link.cj() as cj:
            result = cj.send("train").result(timeout=10)
            assert result.return_code == RC.EXECUTION_EXCEPTION
            assert "must return a TaskResult" in result.meta["exception"]
        serving.join(10)


def test_a_result_or_an_exception_that_cannot_be_sent_ends_its_task_and_the_next_is_served(
    redflare_link: LinkUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    # half a character in a captured line would end a worker of pytest-xdist, which encodes its report
    caplog.set_level(logging.CRITICAL)

    def train(task: Task) -> TaskResult:
        if task.task_name == "bad text":
            raise ValueError("half a character: \ud800")
        return TaskResult({}, object() if task.task_name == "bad result" else "good")

    with IPCAgent(**redflare_link.agent_args) as agent:
        serving = threading.Thread(target=lambda: serve(train, agent))
        serving.start()
        with redflare_link.cj() as cj:
            for name, named in (("bad text", "half a character: ?"), ("bad result", "object")):
                result = cj.send(name).result(timeout=10)
                assert result.return_code == RC.EXECUTION_EXCEPTION
                assert named in result.meta["exception"]
                assert named in result.meta["traceback"]
            assert cj.send("train").result(timeout=10).data == "good"
        serving.join(10)
    assert not serving.is_alive()


def test_leaving_the_block_of_an_agent_that_was_stopped_in_it_is_no_reason_to_warn(
    redflare_link: LinkUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent:
        agent.stop()
    assert "stopped before" not in caplog.text


def returns_42(task: Task, extra: int = 0) -> int:
    return 42


class Returns42:
    def __call__(self, task: Task) -> int:
        return 42


@pytest.mark.parametrize(
    ("train", "name"),
    [
        (returns_42, "returns_42"),
        (functools.partial(returns_42, extra=1), "returns_42"),
        (Returns42(), "Returns42"),
        (WatchedTrain(returns_42, abort_grace=1, stop_grace=1), "returns_42"),
        (trainer()(returns_42), "returns_42"),  # type: ignore[arg-type]
    ],
    ids=["function", "partial", "object", "watched", "decorated"],
)
def test_a_trainer_is_named_as_its_author_knows_it_with_what_it_returned(train: Any, name: str) -> None:
    result = answer(train, Task("train", "t1", {}, None))
    assert result.meta["exception"] == f"TypeError: {name}() must return a TaskResult, but returned int (42)"
    if isinstance(train, WatchedTrain):
        train.close()


def test_the_decorator_makes_a_function_an_agent(redflare_link: LinkUnderTest) -> None:
    @trainer(**redflare_link.agent_args)
    def double(task: Task) -> TaskResult:
        """Doubles."""
        return TaskResult({}, 2 * task.data)

    assert double(Task("train", "t", {}, 4)).data == 8
    assert double.__doc__ == "Doubles."
    running = threading.Thread(target=double.run)
    running.start()
    with redflare_link.cj() as cj:
        assert cj.send("train", 21).result(timeout=10).data == 42
    running.join(10)
    assert not running.is_alive()


def test_calls_in_a_forked_child_are_refused_and_the_parent_continues(redflare_link: LinkUnderTest) -> None:
    with redflare_link.cj() as cj, IPCAgent(**redflare_link.agent_args) as agent:
        pid = os.fork()
        if pid == 0:
            try:
                agent.get_task(timeout=1)
            except CallStateError:
                os._exit(42)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
        answer = cj.send("train", 1)
        assert agent.get_task(timeout=5)
        assert agent.submit_result(TaskResult({}, 1))
        assert answer.result(timeout=5).data == 1


def test_a_stopped_agent_listens_no_longer_while_others_of_its_process_go_on(redflare_link: LinkUnderTest) -> None:
    def listened_to() -> int:
        return len(redflare_link.client.pubsub_channels())  # type: ignore[attr-defined]

    with IPCAgent(**redflare_link.agent_args):
        wait_until(lambda: listened_to() == 2)
        with IPCAgent(**{**redflare_link.agent_args, "agent_id": "other"}):
            wait_until(lambda: listened_to() == 4)
        wait_until(lambda: listened_to() == 2)


def test_an_abort_that_was_published_while_the_agent_was_not_subscribed_is_found_at_the_next_subscription(
    server_url: str, namespace: str
) -> None:
    settings = LinkSettings(namespace=namespace, heartbeat_interval=600.0, heartbeat_ttl=1200.0, allow_eviction=True)
    # its heartbeats are too rare to tell it
    agent = IPCAgent(server_url, "site-1", "trainer", ".", settings=settings, flare_site_connection_timeout=1200.0)
    with Server.connect(server_url) as server, agent, server.borrow("any") as connection:
        link = LinkSteps(server, agent.fqcn, namespace)
        link.hello("cj", "cj-host:100:a")
        link.assign("t1")
        task = agent.get_task(10)
        assert task is not None
        wait_until(lambda: connection.call("PUBSUB", "NUMSUB", link.keys.abort) == [link.keys.abort.encode(), 1])
        connection.call("HSET", link.keys.task("t1"), "status", "ABORTED")
        connection.call("CLIENT", "KILL", "TYPE", "pubsub")
        assert task.wait_aborted(10)


def test_no_thread_is_left_after_stop(redflare_link: LinkUnderTest) -> None:
    before = set(threading.enumerate())
    with redflare_link.cj(), IPCAgent(**redflare_link.agent_args):
        pass
    wait_until(lambda: set(threading.enumerate()) <= before)


def _submit_and_interrupt(link: LinkUnderTest, agent: IPCAgent, data: Any) -> None:
    """Interrupt the submission of task t, when its result is in Redis already."""

    def interrupt() -> None:
        wait_until(lambda: _status(link, "t") == "SUBMITTED")
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        agent.submit_result(TaskResult({}, data))
    interrupting.join()


def _status(link: LinkUnderTest, task_id: str) -> str:
    value = link.client.hget(f"flare:{{{link.fqcn}}}:task:{task_id}", "status")  # type: ignore[attr-defined]
    return value.decode() if value else ""


# -- agents that die with their task -----------------------------------------------------------------------------------


def with_attempts(agent_args: dict[str, Any], most: int) -> dict[str, Any]:
    settings = dataclasses.replace(agent_args.get("settings") or LinkSettings(), max_attempts=most)
    return {**agent_args, "settings": settings}


def test_a_task_that_agents_have_died_with_ends_and_the_next_task_is_served(redflare_link: LinkUnderTest) -> None:
    agent_args = with_attempts(redflare_link.agent_args, 2)
    with redflare_link.cj() as cj:
        answer = cj.send("train")
        for _ in range(2):
            with contextlib.suppress(OSError), IPCAgent(**agent_args) as agent:
                assert agent.get_task(timeout=5)
                raise OSError("the data are gone")
        with IPCAgent(**agent_args, last_exit="killed by SIGKILL") as agent:
            assert agent.get_task(timeout=0.2) is None
            with pytest.raises(TaskNotDone, match=r"2 agents have died with it .*; the last one: killed by SIGKILL"):
                answer.result(timeout=5)
            answer = cj.send("train")
            assert agent.get_task(timeout=5)
            assert agent.submit_result(TaskResult({}, 1))
            answer.result(timeout=5)


@pytest.mark.parametrize("end", [None, KeyboardInterrupt(), SystemExit(0)])
def test_an_agent_that_was_told_to_leave_has_not_died_with_its_task(
    redflare_link: LinkUnderTest, end: BaseException | None
) -> None:
    agent_args = with_attempts(redflare_link.agent_args, 1)
    with redflare_link.cj() as cj:
        answer = cj.send("train")
        for _ in range(3):
            with contextlib.suppress(KeyboardInterrupt, SystemExit), IPCAgent(**agent_args) as agent:
                assert agent.get_task(timeout=5)
                if end is not None:
                    raise end
        with IPCAgent(**agent_args) as agent:
            task = agent.get_task(timeout=5)
            assert task is not None
            assert task.attempt == 4
            assert agent.submit_result(TaskResult({}, 1))
            answer.result(timeout=5)


def test_a_trainer_that_calls_sys_exit_fails_its_task_alone() -> None:
    def train(_task: Task) -> TaskResult:
        sys.exit(3)

    result = answer(train, Task("train", "t", {}, None))
    assert (result.return_code, result.meta["exception"]) == (RC.EXECUTION_EXCEPTION, "SystemExit: 3")
