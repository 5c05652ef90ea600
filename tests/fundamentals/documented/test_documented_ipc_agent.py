"""``IPCAgent``, sentence by sentence, over a real server."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from redflare_agent import AgentClosed, CallStateError, IPCAgent, Task, TaskResult
from redflare_broker.testing import LinkUnderTest

from tests.fundamentals.documented.links import fetched, status, task_of_a_dead_job
from tests.fundamentals.documented.sentences import documented
from tests.fundamentals.programs import Background
from tests.support.link.blocked import until_blocked
from tests.support.waiting import SOON, wait_until

# -- constructor -------------------------------------------------------------------------------------------------------


@documented("IPCAgent.__init__")
def test_an_agent_gets_tasks_from_the_client_job_and_hands_results_back(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        answer = cj.send("train", {"x": 2})
        assert agent.submit_result(TaskResult({}, {"x": 2 * fetched(agent).data["x"]}))
        assert answer.result(SOON).data == {"x": 4}


@documented("IPCAgent.__init__", differs="`flare_site_url`")
def test_the_url_is_that_of_the_client_parent() -> None:
    for url in ("tcp://localhost:8002", "grpc://localhost:8002"):
        with pytest.raises(ValueError, match="redis://"):
            IPCAgent(url, "site-1", "trainer", ".")


@documented("IPCAgent.__init__")
def test_the_site_name_is_that_of_the_client_job(link: LinkUnderTest) -> None:
    other = IPCAgent(**{**link.agent_args, "flare_site_name": "site-2"})
    with link.cj() as cj, IPCAgent(**link.agent_args) as here, other:
        cj.send("train", task_id="t")
        assert fetched(here).task_id == "t"
        assert other.get_task(timeout=0.05) is None


@documented("IPCAgent.__init__")
def test_agents_of_a_site_are_told_apart_by_their_ids(link: LinkUnderTest) -> None:
    other = IPCAgent(**{**link.agent_args, "agent_id": "other"})
    with link.cj() as cj, IPCAgent(**link.agent_args) as one, other:
        cj.send("train", task_id="t")
        assert fetched(one).task_id == "t"
        assert other.get_task(timeout=0.05) is None


@documented("IPCAgent.__init__", differs="Two agents with one id")
def test_no_two_agents_have_one_id(link: LinkUnderTest) -> None:
    newer = pytest.raises(AgentClosed, match="newer instance")
    with IPCAgent(**link.agent_args) as older, IPCAgent(**link.agent_args), newer:
        older.get_task(timeout=SOON)


@documented("IPCAgent.__init__", differs="Names of sites and agents")
def test_any_name_will_do(link: LinkUnderTest) -> None:
    with pytest.raises(ValueError, match=r"a\.b"):
        IPCAgent(**{**link.agent_args, "agent_id": "a.b"})


@documented("IPCAgent.__init__")
def test_the_workspace_has_a_comm_config(link: LinkUnderTest, tmp_path: Path) -> None:
    config = {"namespace": link.settings.namespace, "heartbeat_interval": 0.2, "heartbeat_ttl": 2.0}
    (tmp_path / "comm_config.json").write_text(json.dumps(config))
    with link.cj() as cj, IPCAgent(**{**link.agent_args, "settings": None, "workspace_dir": tmp_path}) as agent:
        cj.send("train", task_id="t")
        assert fetched(agent).task_id == "t"


@documented("IPCAgent.__init__")
def test_the_workspace_has_a_startup_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path / "startup")):
        IPCAgent("rediss://localhost", "site-1", "trainer", str(tmp_path), secure_mode=True)


@documented("IPCAgent.__init__")
def test_the_connection_is_secure_only_when_it_is_asked_for(link: LinkUnderTest, tmp_path: Path) -> None:
    with link.cj() as cj, IPCAgent(**{**link.agent_args, "settings": None, "workspace_dir": tmp_path}):
        assert cj  # no certificate was wanted
    args = {**link.agent_args, "settings": None, "workspace_dir": tmp_path, "secure_mode": True}
    with pytest.raises(ValueError, match="root certificate"):
        IPCAgent(**args)


@documented("IPCAgent.__init__")
def test_a_submission_waits_for_its_answer_for_the_submit_result_timeout_and_is_repeated(
    link: LinkUnderTest, background: Background
) -> None:
    steps = task_of_a_dead_job(link)
    args = {**link.agent_args, "submit_result_timeout": 0.05, "resend_result_interval": 0.05}
    with steps.server, IPCAgent(**args) as agent:
        task = fetched(agent)
        accepted = background(agent.submit_result, TaskResult({}, 5))
        first = wait_until(lambda: task.last_send_result_time)
        wait_until(lambda: (task.last_send_result_time or 0) > (first or 0))
        with link.cj() as cj:
            answer = cj.send("train", task_id="t")
            assert accepted.result(SOON) is True
            assert answer.result(SOON).data == 5


@documented("IPCAgent.__init__")
def test_a_client_job_without_heartbeats_for_the_heartbeat_timeout_is_dead(link: LinkUnderTest) -> None:
    agent = IPCAgent(**link.agent_args, flare_site_connection_timeout=0.1, flare_site_heartbeat_timeout=0.3)
    with agent, pytest.raises(AgentClosed, match="no heartbeat of the CJ"):
        agent.get_task(timeout=SOON)


@documented("IPCAgent.__init__")
def test_without_a_heartbeat_timeout_a_client_job_is_never_dead(link: LinkUnderTest) -> None:
    with IPCAgent(**link.agent_args, flare_site_connection_timeout=0.1) as agent:
        assert agent.get_task(timeout=0.6) is None
        assert not agent.closed


@documented("IPCAgent.__init__")
def test_a_client_job_without_heartbeats_for_the_connection_timeout_is_disconnected_and_may_come_back(
    link: LinkUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    steps = task_of_a_dead_job(link)
    caplog.set_level(logging.INFO)
    with steps.server, IPCAgent(**link.agent_args, flare_site_connection_timeout=0.1) as agent:
        steps.beat("cj")
        wait_until(lambda: "is silent" in caplog.text)
        with link.cj() as cj:
            answer = cj.send("train", task_id="t")
            fetched(agent)
            assert agent.submit_result(TaskResult({}, 5))
            assert answer.result(SOON).data == 5


# -- start and stop ----------------------------------------------------------------------------------------------------


@documented("IPCAgent.start")
def test_an_agent_must_be_started_to_communicate(link: LinkUnderTest) -> None:
    with link.cj() as cj:
        cj.send("train", task_id="t")
        agent = IPCAgent(**link.agent_args)
        with pytest.raises(CallStateError, match=r"call start\(\) first"):
            agent.get_task(timeout=1)
        agent.start()
        assert fetched(agent).task_id == "t"
        agent.stop()


@documented("IPCAgent.start")
def test_start_returns_nothing(link: LinkUnderTest) -> None:
    agent = IPCAgent(**link.agent_args)
    assert agent.start() is None  # type: ignore[func-returns-value]
    agent.stop()


@documented("IPCAgent.start")
def test_a_second_start_warns(link: LinkUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    with IPCAgent(**link.agent_args) as agent:
        agent.start()
        assert "started before" in caplog.text


@documented("IPCAgent.start", differs="`start` after `stop`")
def test_start_after_stop_is_undefined(link: LinkUnderTest) -> None:
    agent = IPCAgent(**link.agent_args)
    agent.start()
    agent.stop()
    with pytest.raises(CallStateError, match="make a new one"):
        agent.start()


@documented("IPCAgent.stop")
def test_after_stop_there_is_no_more_communication(link: LinkUnderTest) -> None:
    with link.cj() as cj:
        agent = IPCAgent(**link.agent_args)
        agent.start()
        agent.stop()
        answer = cj.send("train", task_id="t")
        with pytest.raises(AgentClosed, match="stop was called"):
            agent.get_task(timeout=1)
        assert not answer.done()


@documented("IPCAgent.stop")
def test_stop_returns_nothing(link: LinkUnderTest) -> None:
    agent = IPCAgent(**link.agent_args)
    agent.start()
    assert agent.stop() is None  # type: ignore[func-returns-value]


@documented("IPCAgent.stop")
def test_stop_before_start_warns(link: LinkUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    IPCAgent(**link.agent_args).stop()
    assert "never started" in caplog.text


@documented("IPCAgent.stop")
def test_a_second_stop_warns(link: LinkUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    agent = IPCAgent(**link.agent_args)
    agent.start()
    agent.stop()
    assert not caplog.text
    agent.stop()
    assert "stopped before" in caplog.text


# -- get_task ----------------------------------------------------------------------------------------------------------


@documented("IPCAgent.get_task")
def test_get_task_blocks_until_a_task_is_received(link: LinkUnderTest, background: Background) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        task = background(agent.get_task)
        until_blocked(agent)
        assert not task.done()
        cj.send("train", task_id="t")
        assert task.result(SOON).task_id == "t"


@documented("IPCAgent.get_task")
def test_get_task_blocks_until_the_agent_is_closed(link: LinkUnderTest, background: Background) -> None:
    with IPCAgent(**link.agent_args) as agent:
        task = background(agent.get_task)
        until_blocked(agent)
        assert not task.done()
    with pytest.raises(AgentClosed):
        task.result(SOON)


@documented("IPCAgent.get_task")
def test_get_task_blocks_no_longer_than_its_timeout(link: LinkUnderTest, background: Background) -> None:
    with link.cj(), IPCAgent(**link.agent_args) as agent:
        task = background(agent.get_task, 0.2)
        until_blocked(agent)
        assert task.result(SOON) is None


@documented("IPCAgent.get_task")
def test_get_task_returns_none_when_there_is_no_task_before_the_timeout(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        assert agent.get_task(timeout=0.05) is None
        cj.send("train", task_id="t")
        assert fetched(agent).task_id == "t"


@documented("IPCAgent.get_task")
def test_get_task_returns_a_task_with_name_id_meta_and_data(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train", {"x": 1}, {"current_round": 3}, task_id="t")
        task = fetched(agent)
        assert isinstance(task, Task)
        assert (task.task_name, task.task_id, task.meta, task.data) == ("train", "t", {"current_round": 3}, {"x": 1})


@documented("IPCAgent.get_task")
def test_get_task_raises_agent_closed_when_the_agent_is_closed_before_the_timeout(
    link: LinkUnderTest, background: Background
) -> None:
    with IPCAgent(**link.agent_args) as agent:
        task = background(agent.get_task, 300.0)
        until_blocked(agent)
    with pytest.raises(AgentClosed, match="stop was called"):
        task.result(SOON)


@documented("IPCAgent.get_task")
def test_a_goodbye_of_the_client_job_closes_the_agent(link: LinkUnderTest) -> None:
    with IPCAgent(**link.agent_args) as agent:
        with link.cj() as cj:
            cj.send("train", task_id="t")
            fetched(agent)
        wait_until(lambda: agent.closed)
        with pytest.raises(AgentClosed, match="bye"):
            agent.get_task(timeout=SOON)


@documented("IPCAgent.get_task")
def test_get_task_raises_call_state_error_when_a_task_was_fetched_already(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        fetched(agent)
        with pytest.raises(CallStateError, match=r"call submit_result\(\) before get_task\(\)"):
            agent.get_task(timeout=1)


@documented("IPCAgent.get_task")
def test_get_task_may_be_called_after_the_last_result_was_submitted(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        for task_id in ("first", "second"):
            cj.send("train", task_id=task_id)
            assert fetched(agent).task_id == task_id
            assert agent.submit_result(TaskResult({}, {}))


@documented("IPCAgent.get_task")
def test_a_task_that_waits_while_another_is_submitted_comes_next(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train", task_id="first")
        fetched(agent)
        cj.send("train", task_id="second")
        assert agent.submit_result(TaskResult({}, {}))
        assert fetched(agent).task_id == "second"


@documented("IPCAgent.get_task")
def test_a_task_of_the_next_client_job_aborts_the_one_in_hand(link: LinkUnderTest) -> None:
    steps = task_of_a_dead_job(link)
    with steps.server, IPCAgent(**link.agent_args) as agent:
        task = fetched(agent)
        with link.cj() as successor:
            successor.send("train", task_id="next")
            assert task.wait_aborted(SOON)
            assert agent.submit_result(TaskResult({}, {})) is False
            assert fetched(agent).task_id == "next"


@documented("IPCAgent.get_task")
@pytest.mark.parametrize("timeout", ["1", [1]])
def test_a_timeout_that_is_no_number_is_a_type_error(link: LinkUnderTest, timeout: Any) -> None:
    with IPCAgent(**link.agent_args) as agent, pytest.raises(TypeError, match="timeout must be int or float"):
        agent.get_task(timeout)


@documented("IPCAgent.get_task")
def test_a_timeout_must_be_positive(link: LinkUnderTest) -> None:
    with IPCAgent(**link.agent_args) as agent:
        for timeout in (0, -1):
            with pytest.raises(ValueError, match="timeout must be > 0"):
                agent.get_task(timeout)


@documented("IPCAgent.get_task", differs="`get_task` while the current task is aborted")
def test_after_an_abort_get_task_waits_for_submit_result(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train", task_id="first")
        task = fetched(agent)
        cj.abort()
        assert task.wait_aborted(SOON)
        cj.send("train", task_id="second")
        assert fetched(agent).task_id == "second"


@documented("IPCAgent.get_task", differs="A site without its agent")
def test_a_task_is_sent_once_its_agent_is_connected(link: LinkUnderTest) -> None:
    steps = task_of_a_dead_job(link)
    with steps.server:
        assert status(steps) == "NEW"
        with IPCAgent(**link.agent_args) as agent:
            assert fetched(agent).task_id == "t"


@documented("IPCAgent.get_task", differs="Empty data or meta in a task")
def test_a_task_has_data_and_meta(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        task = fetched(agent)
        assert (task.data, task.meta) == ({}, {})


@documented("IPCAgent.get_task", differs="A crash of the agent")
def test_a_task_is_handed_out_once(link: LinkUnderTest) -> None:
    with link.cj() as cj:
        cj.send("train", task_id="t")
        for attempt in (1, 2):
            with IPCAgent(**link.agent_args) as agent:
                task = fetched(agent)
                assert (task.task_id, task.attempt) == ("t", attempt)
