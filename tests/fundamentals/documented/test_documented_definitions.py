"""The definitions of the agent's side, sentence by sentence."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from nvflare.client.ipc import defs as nvflare_defs
from redflare_agent import IPCAgent, defs
from redflare_broker.testing import LinkUnderTest
from redflare_workers import DXO, DataKind, FLContext, IPCExchanger, Signal
from redflare_workers.apis.fl_constant import FLContextKey

from tests.fundamentals.documented.links import fetched
from tests.fundamentals.documented.sentences import documented
from tests.fundamentals.programs import Background
from tests.support.link.steps import LinkSteps
from tests.support.waiting import SOON

CONSTANTS = [
    *("CHANNEL", "JOB_META_KEY_AGENT_ID"),
    *("TOPIC_GET_TASK", "TOPIC_SUBMIT_RESULT", "TOPIC_HEARTBEAT", "TOPIC_HELLO", "TOPIC_BYE", "TOPIC_ABORT"),
    *("RC.OK", "RC.BAD_TASK_DATA", "RC.EXECUTION_EXCEPTION", "RC.EARLY_TERMINATION"),
    *("MsgHeader.TASK_ID", "MsgHeader.TASK_NAME", "MsgHeader.RC", "PayloadKey.DATA", "PayloadKey.META"),
    *("MetaKey.CURRENT_ROUND", "MetaKey.TOTAL_ROUND", "MetaKey.DATA_KIND", "MetaKey.NUM_STEPS_CURRENT_ROUND"),
    *("MetaKey.PROCESSED_ALGORITHM", "MetaKey.PROCESSED_KEYS", "MetaKey.INITIAL_METRICS", "MetaKey.FILTER_HISTORY"),
    *("Task.NEW", "Task.FETCHED", "Task.PROCESSED"),
]


def value(module: object, name: str) -> Any:
    """Return what a constant of a module, or of a class in it, is."""
    for part in name.split("."):
        module = getattr(module, part)
    return module


@pytest.mark.parametrize("name", [pytest.param(each, marks=documented(f"defs.{each}"), id=each) for each in CONSTANTS])
def test_the_value_is_that_of_nvflare(name: str) -> None:
    assert value(defs, name) == value(nvflare_defs, name)


# -- what the constants name -------------------------------------------------------------------------------------------


def newest(link: LinkUnderTest, stream: str) -> dict[str, str]:
    """Return the newest entry of a stream of the link."""
    with link.server() as server:
        keys = LinkSteps(server, link.fqcn, link.settings.namespace).keys
        with server.borrow(keys.link) as connection:
            found: Any = connection.call("XREVRANGE", getattr(keys, stream), "+", "-", "COUNT", 1)
    texts = [each.decode(errors="replace") for each in found[0][1]]
    return dict(zip(texts[::2], texts[1::2], strict=True))


@documented("defs.TOPIC_GET_TASK", "defs.MsgHeader")
def test_a_task_is_a_message_of_the_topic_get_task_with_id_and_name_in_its_header(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train", task_id="t")
        fetched(agent)
        entry = newest(link, "tasks")
        assert entry["topic"] == defs.TOPIC_GET_TASK
        assert (entry[defs.MsgHeader.TASK_ID], entry[defs.MsgHeader.TASK_NAME]) == ("t", "train")


@documented("defs.TOPIC_SUBMIT_RESULT", "defs.MsgHeader")
def test_a_result_is_a_message_of_the_topic_submit_result_with_its_return_code_in_the_header(
    link: LinkUnderTest,
) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        answer = cj.send("train", task_id="t")
        fetched(agent)
        agent.submit_result(defs.TaskResult({}, {}, defs.RC.EXECUTION_EXCEPTION))
        answer.result(SOON)
        entry = newest(link, "results")
        assert entry["topic"] == defs.TOPIC_SUBMIT_RESULT
        assert (entry[defs.MsgHeader.TASK_ID], entry[defs.MsgHeader.RC]) == ("t", defs.RC.EXECUTION_EXCEPTION)


@documented("defs.PayloadKey")
def test_a_payload_has_data_and_meta(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train", {"x": 1}, {"current_round": 2})
        fetched(agent)
        assert {defs.PayloadKey.DATA, defs.PayloadKey.META} <= set(newest(link, "tasks"))


@documented("defs.JOB_META_KEY_AGENT_ID")
def test_the_meta_of_a_job_names_its_agent(link: LinkUnderTest) -> None:
    exchanger = IPCExchanger(**{**link.exchanger_args, "agent_id": None})
    fl_ctx = FLContext()
    fl_ctx.set_prop(FLContextKey.JOB_META, {defs.JOB_META_KEY_AGENT_ID: link.agent_id}, private=True, sticky=False)
    exchanger.handle_event("_start_run", fl_ctx)
    with link.agent(lambda task: defs.TaskResult({}, task.data)):
        assert exchanger.run("train", 5, timeout=SOON).data == 5
    exchanger.stop()


@documented("defs.MetaKey")
def test_the_meta_of_a_task_has_round_rounds_and_data_kind(link: LinkUnderTest, background: Background) -> None:
    shareable = DXO(DataKind.WEIGHTS, {"w": 1.0}).to_shareable()
    shareable.set_header("current_round", 3)
    shareable.set_header("num_rounds", 9)
    with IPCExchanger(**link.exchanger_args) as exchanger, IPCAgent(**link.agent_args) as agent:
        reply = background(exchanger.execute, "train", shareable, FLContext(), Signal())
        meta = fetched(agent).meta
        assert (meta[defs.MetaKey.CURRENT_ROUND], meta[defs.MetaKey.TOTAL_ROUND]) == (3, 9)
        assert meta[defs.MetaKey.DATA_KIND] == "WEIGHTS"
        agent.submit_result(defs.TaskResult({}, {"w": 2.0}))
        reply.result(SOON)


@documented("defs.RC")
def test_a_result_is_ok_unless_it_says_otherwise() -> None:
    assert defs.TaskResult({}, {}).return_code == defs.RC.OK


# -- Task --------------------------------------------------------------------------------------------------------------


@documented("defs.Task")
def test_a_task_has_name_id_meta_and_data() -> None:
    task = defs.Task("train", "t", {"round": 1}, {"x": 2})
    assert (task.task_name, task.task_id, task.meta, task.data) == ("train", "t", {"round": 1}, {"x": 2})


@documented("defs.Task")
def test_a_task_is_new_at_first() -> None:
    assert defs.Task("train", "t", {}, {}).status == defs.Task.NEW


@documented("defs.Task")
def test_a_task_is_fetched_once_the_application_has_it(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        assert fetched(agent).status == defs.Task.FETCHED


@documented("defs.Task")
def test_a_task_is_processed_once_its_result_is_submitted(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        task = fetched(agent)
        agent.submit_result(defs.TaskResult({}, {}))
        assert task.status == defs.Task.PROCESSED


@documented("defs.Task")
def test_a_task_says_whether_it_was_aborted(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        task = fetched(agent)
        assert not task.aborted
        cj.abort()
        assert task.wait_aborted(SOON)
        assert task.aborted


@documented("defs.Task")
def test_a_task_says_when_its_result_was_sent_last_and_whether_it_was_received(link: LinkUnderTest) -> None:
    with link.cj() as cj, IPCAgent(**link.agent_args) as agent:
        cj.send("train")
        task = fetched(agent)
        assert (task.last_send_result_time, task.already_received) == (None, False)
        agent.submit_result(defs.TaskResult({}, {}))
        assert task.last_send_result_time is not None
        assert task.already_received


@documented("defs.Task")
def test_a_task_as_a_text_is_its_name_and_id() -> None:
    assert str(defs.Task("train", "t", {}, {})) == str(nvflare_defs.Task("train", "t", {}, {}))


@documented("defs.Task", "defs.TaskResult")
def test_an_application_may_set_attributes_of_its_own() -> None:
    for each in (defs.Task("train", "t", {}, {}), defs.TaskResult({}, {})):
        each.epochs = 3  # type: ignore[union-attr]
        assert each.epochs == 3  # type: ignore[union-attr]


# -- TaskResult --------------------------------------------------------------------------------------------------------


@documented("defs.TaskResult")
def test_a_result_has_meta_data_and_return_code() -> None:
    result = defs.TaskResult({"loss": 1}, {"w": 2}, "MINE")
    assert (result.meta, result.data, result.return_code) == ({"loss": 1}, {"w": 2}, "MINE")


@documented("defs.TaskResult")
@pytest.mark.parametrize("meta", [None, "", 0, []], ids=["None", "an empty text", "0", "an empty list"])
def test_a_false_meta_is_an_empty_dict(meta: Any) -> None:
    assert defs.TaskResult(meta, {"x": 1}).meta == {}


@documented("defs.TaskResult")
def test_a_meta_that_is_no_dict_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="meta must be a dict"):
        defs.TaskResult([1], {})  # type: ignore[arg-type]


@documented("defs.TaskResult")
def test_a_return_code_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="return_code must be a str"):
        defs.TaskResult({}, {}, 3)  # type: ignore[arg-type]


@documented("defs.TaskResult")
def test_no_data_is_an_empty_dict() -> None:
    assert defs.TaskResult({}, None).data == {}


@documented("defs.TaskResult", differs="Falsy data in `TaskResult`")
def test_false_data_is_an_empty_dict() -> None:
    falsy: tuple[Any, ...] = (0, [], np.zeros(1))
    assert [defs.TaskResult({}, data).data for data in falsy] == [0, [], np.zeros(1)]


# -- errors and names --------------------------------------------------------------------------------------------------


@documented("defs.AgentClosed")
def test_agent_closed_is_an_exception_that_tells_that_there_is_no_more_to_do(link: LinkUnderTest) -> None:
    assert issubclass(defs.AgentClosed, Exception)
    agent = IPCAgent(**link.agent_args)
    agent.start()
    agent.stop()
    with pytest.raises(defs.AgentClosed):
        agent.get_task()


@documented("defs.CallStateError")
def test_call_state_error_is_an_exception_that_tells_of_a_call_at_the_wrong_time(link: LinkUnderTest) -> None:
    assert issubclass(defs.CallStateError, Exception)
    with pytest.raises(defs.CallStateError):
        IPCAgent(**link.agent_args).get_task()


@documented("defs.agent_site_fqcn")
def test_the_fqcn_of_an_agent_is_made_of_site_and_agent() -> None:
    names = {defs.agent_site_fqcn(site, agent) for site in ("site-1", "site-2") for agent in ("a", "b")}
    assert len(names) == 4
    assert defs.agent_site_fqcn("site-1", "a").startswith("site-1")


@documented("defs.agent_site_fqcn", differs="Names of sites and agents")
def test_an_agent_s_cell_is_a_child_of_its_site_s() -> None:
    assert nvflare_defs.agent_site_fqcn("site-1", "a") == "site-1.-a"
    assert defs.agent_site_fqcn("site-1", "a") == "site-1--a"


@documented("defs.agent_site_fqcn")
def test_the_fqcn_of_an_agent_is_before_that_of_its_client_job_in_the_alphabet() -> None:
    assert defs.agent_site_fqcn("site-1", "a") < "site-1.job"


# -- FlareAgent --------------------------------------------------------------------------------------------------------


class Idle(defs.FlareAgent):
    """An agent of the application's own."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def get_task(self, timeout: float | None = None) -> defs.Task | None:
        return None


@documented("defs.FlareAgent")
def test_an_ipc_agent_is_a_flare_agent(link: LinkUnderTest) -> None:
    assert isinstance(IPCAgent(**link.agent_args), defs.FlareAgent)


@documented("defs.FlareAgent")
def test_an_agent_has_start_stop_and_get_task() -> None:
    assert defs.FlareAgent.__abstractmethods__ == {"start", "stop", "get_task"}
    with pytest.raises(TypeError, match="abstract"):
        defs.FlareAgent()  # type: ignore[abstract]


@documented("defs.FlareAgent")
def test_an_agent_that_submits_nothing_needs_no_submit_result() -> None:
    with Idle() as agent, pytest.raises(NotImplementedError, match="Idle hands in no results"):
        agent.submit_result(defs.TaskResult({}, {}))
    assert agent.calls == ["start", "stop"]


@documented("defs.FlareAgent")
def test_the_tasks_of_an_agent_end_when_it_is_closed(link: LinkUnderTest) -> None:
    seen: list[object] = []
    with IPCAgent(**link.agent_args) as agent:

        def work() -> None:
            for task in agent.tasks():
                seen.append(task.data)
                agent.submit_result(defs.TaskResult({}, {}))

        working = threading.Thread(target=work)
        working.start()
        with link.cj() as cj:
            for number in range(2):
                cj.send("train", number).result(SOON)
        working.join(SOON)
        assert not working.is_alive()
    assert seen == [0, 1]
