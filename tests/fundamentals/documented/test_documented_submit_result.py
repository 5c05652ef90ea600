"""``IPCAgent.submit_result``, sentence by sentence, over a real server."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from redflare_agent import RC, CallStateError, IPCAgent, TaskResult
from redflare_broker.testing import LinkUnderTest, TaskNotDone

from tests.fundamentals.documented.links import fetched, status, task_of_a_dead_job
from tests.fundamentals.documented.sentences import documented
from tests.fundamentals.programs import Background
from tests.support.calls import together
from tests.support.link.steps import LinkSteps
from tests.support.waiting import SOON, wait_until


def submitting(agent: IPCAgent, steps: LinkSteps, background: Background, data: object) -> Future[bool]:
    """Fetch the task of a dead job, and have its result submitted, which blocks."""
    fetched(agent)
    accepted = background(agent.submit_result, TaskResult({}, data))
    wait_until(lambda: status(steps) == "SUBMITTED")
    return accepted


@documented("IPCAgent.submit_result")
def test_submit_result_hands_in_the_result_of_the_current_task(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        answer = cj.send("train")
        fetched(agent)
        agent.submit_result(TaskResult({"loss": 0.5}, {"w": 1}, RC.EARLY_TERMINATION))
        result = answer.result(SOON)
        assert (result.meta, result.data, result.return_code) == ({"loss": 0.5}, {"w": 1}, "EARLY_TERMINATION")


@documented("IPCAgent.submit_result")
def test_submit_result_blocks_until_the_client_job_has_the_result(link: LinkUnderTest, background: Background) -> None:
    steps = task_of_a_dead_job(link)
    with steps.server, IPCAgent(**link.agent_args) as agent:
        accepted = submitting(agent, steps, background, 5)
        assert not accepted.done()
        with link.cj() as cj:
            cj.send("train", task_id="t")
            assert accepted.result(SOON) is True


@documented("IPCAgent.submit_result")
def test_submit_result_blocks_until_the_task_is_aborted(link: LinkUnderTest, background: Background) -> None:
    steps = task_of_a_dead_job(link)
    with steps.server, IPCAgent(**link.agent_args) as agent:
        accepted = submitting(agent, steps, background, 5)
        steps.abort("t", "no longer needed")
        assert accepted.result(SOON) is False


@documented("IPCAgent.submit_result")
def test_submit_result_blocks_until_the_agent_is_closed(link: LinkUnderTest, background: Background) -> None:
    steps = task_of_a_dead_job(link)
    with steps.server, IPCAgent(**link.agent_args) as agent:
        accepted = submitting(agent, steps, background, 5)
        agent.stop()
        assert accepted.result(SOON) is False


@documented("IPCAgent.submit_result")
def test_submit_result_says_whether_the_result_was_submitted(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        fetched(agent)
        assert agent.submit_result(TaskResult({}, {})) is True
        aborted = cj.send("train")
        task = fetched(agent)
        cj.abort()
        assert task.wait_aborted(SOON)
        assert agent.submit_result(TaskResult({}, {})) is False
        with pytest.raises(TaskNotDone, match="ABORTED"):
            aborted.result(SOON)


@documented("IPCAgent.submit_result")
def test_submit_result_may_be_called_once_for_a_task(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        answer = cj.send("train")
        fetched(agent)
        assert agent.submit_result(TaskResult({}, 1))
        with pytest.raises(CallStateError):
            agent.submit_result(TaskResult({}, 2))
        assert answer.result(SOON).data == 1


@documented("IPCAgent.submit_result")
def test_submit_result_may_be_called_once_even_when_the_result_was_not_submitted(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        task = fetched(agent)
        cj.abort()
        assert task.wait_aborted(SOON)
        assert agent.submit_result(TaskResult({}, 1)) is False
        with pytest.raises(CallStateError):
            agent.submit_result(TaskResult({}, 1))


@documented("IPCAgent.submit_result", differs="A wrong call of `submit_result`")
def test_a_wrong_call_of_submit_result_loses_the_task(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        answer = cj.send("train")
        fetched(agent)
        with pytest.raises(TypeError, match="TaskResult"):
            agent.submit_result({"x": 1})  # type: ignore[arg-type]
        assert agent.submit_result(TaskResult({}, 3))
        assert answer.result(SOON).data == 3


@documented("IPCAgent.submit_result")
def test_submit_result_is_called_after_the_task_was_fetched(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        fetched(agent)
        assert agent.submit_result(TaskResult({}, 1))
        cj.send("train", task_id="second")
        with pytest.raises(CallStateError, match=r"call get_task\(\) first"):
            agent.submit_result(TaskResult({}, 2))
        assert fetched(agent).task_id == "second"


@documented("IPCAgent.submit_result", differs="`submit_result` with no task, neither fetched nor open")
def test_a_result_of_no_task_waits_for_a_client_job(link: LinkUnderTest) -> None:
    with IPCAgent(**link.agent_args) as agent, pytest.raises(CallStateError, match="none is open"):
        agent.submit_result(TaskResult({}, 1))


@documented("IPCAgent.submit_result")
def test_an_agent_that_was_started_again_may_submit_the_result_of_its_predecessor(link: LinkUnderTest) -> None:
    with link.cj() as cj:
        answer = cj.send("train")
        with IPCAgent(**link.agent_args) as before:
            fetched(before)
        with IPCAgent(**link.agent_args) as after:
            assert after.submit_result(TaskResult({}, "from the checkpoint"))
        assert answer.result(SOON).data == "from the checkpoint"


@documented("IPCAgent.submit_result", differs="A crash of the CJ")
def test_a_result_is_for_the_client_job_that_is_there(link: LinkUnderTest, background: Background) -> None:
    steps = task_of_a_dead_job(link)
    with steps.server, IPCAgent(**link.agent_args) as agent:
        submitting(agent, steps, background, "kept")
        with link.cj() as successor:
            assert successor.send("train", task_id="t").result(SOON).data == "kept"


@documented("IPCAgent.submit_result")
def test_calls_of_several_threads_follow_one_another(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        fetched(agent)

        def submit() -> object:
            try:
                return agent.submit_result(TaskResult({}, {}))
            except CallStateError as error:
                return type(error)

        found = together([submit] * 3)
        assert sorted(map(str, found)) == sorted(map(str, [True, CallStateError, CallStateError]))
