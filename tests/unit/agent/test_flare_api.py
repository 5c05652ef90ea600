"""``redflare_agent.flare``: scripts in the style of NVFlare's Client API, fed by a CJ on fakeredis."""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redflare_agent import AgentClosed, IPCAgent, flare
from redflare_agent.flare import FLModel, ParamsType
from redflare_broker.errors import ConfigError
from redflare_broker.testing.plugin import LinkUnderTest, TaskNotDone

from tests.support.link.steps import LinkSteps
from tests.support.waiting import wait_until

META = {"current_round": 1, "total_round": 3, "data_kind": "WEIGHTS", "job_id": "job-1", "site_name": "site-1", "k": 5}


def init(link: LinkUnderTest, **more: Any) -> flare.APIContext:
    args = {"site_name": link.site_name, "agent_id": link.agent_id, "settings": link.settings, "client": link.client}
    return flare.init(**{**args, **more})


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    flare._shutdown_all()
    flare._contexts.known.clear()
    flare._contexts.default = None


def test_a_script_receives_trains_and_sends_until_the_job_ends(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    rounds, results = [], []
    job = ExitStack()
    cj = job.enter_context(redflare_link.cj())
    answer = cj.send("train", {"w": np.ones(2)}, META)
    while flare.is_running():
        model = flare.receive()
        assert model is not None
        assert flare.get_task_name() == "train"
        assert flare.is_train()
        assert not flare.is_evaluate()
        assert not flare.is_submit_model()
        rounds.append((model.current_round, model.total_rounds))
        flare.send(FLModel(params={"w": model.params["w"] + 1}, meta={"NUM_STEPS_CURRENT_ROUND": 2}))
        results.append(answer.result(5))
        if len(rounds) == 2:
            job.close()  # says bye
        else:
            answer = cj.send("train", {"w": np.zeros(2)}, META | {"current_round": 2})
    assert rounds == [(1, 3), (2, 3)]
    assert results[0].meta == {"NUM_STEPS_CURRENT_ROUND": 2, "data_kind": "WEIGHTS"}
    assert [result.data["w"].tolist() for result in results] == [[2.0, 2.0], [1.0, 1.0]]


def test_after_the_job_has_ended_the_script_is_not_running(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    with redflare_link.cj():
        pass
    assert flare.is_running() is False
    assert flare.receive() is None
    flare.send(FLModel(params={"w": 1}))  # goes nowhere, as in NVFlare


def test_a_model_has_metrics_rounds_and_meta(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    with redflare_link.cj() as cj:
        cj.send("train", {"w": 1.0}, META | {"initial_metrics": {"accuracy": 0.5}, "start_round": 1})
        model = flare.receive()
        assert model is not None
        assert model.params_type is ParamsType.FULL
        assert model.metrics == {"accuracy": 0.5}
        assert model.start_round == 1
        assert model.meta == {"job_id": "job-1", "site_name": "site-1", "k": 5}
        assert flare.system_info() == {"job_id": "job-1", "site_name": "site-1"}
        assert (flare.get_job_id(), flare.get_site_name()) == ("job-1", "site-1")
        assert flare.receive() is model
        flare.clear()
        again = flare.receive()
        assert again is not model
        assert again is not None
        assert again.params == {"w": 1.0}
        flare.send(FLModel(params={}))


@pytest.mark.parametrize(
    ("kind", "data", "params_type", "params", "metrics"),
    [
        ("WEIGHT_DIFF", {"w": 1}, ParamsType.DIFF, {"w": 1}, None),
        ("METRICS", {"loss": 1}, None, None, {"loss": 1}),
        ("APP_DEFINED", [1, 2], ParamsType.FULL, [1, 2], None),
        ("FL_MODEL", {"params": {"w": 2}, "params_type": "DIFF", "x": 1}, ParamsType.DIFF, {"w": 2}, None),
    ],
)
def test_tasks_of_each_kind_are_recognised(
    redflare_link: LinkUnderTest, kind: str, data: Any, params_type: ParamsType | None, params: Any, metrics: Any
) -> None:
    init(redflare_link)
    with redflare_link.cj() as cj:
        cj.send("validate", data, {"data_kind": kind})
        model = flare.receive()
        assert model is not None
        assert (model.params_type, model.params, model.metrics) == (params_type, params, metrics)
        assert flare.is_evaluate()


@pytest.mark.parametrize(
    ("model", "kind", "data", "meta"),
    [
        (FLModel(params={"w": 1}), "WEIGHTS", {"w": 1}, {}),
        (FLModel(ParamsType.DIFF, {"w": 1}), "WEIGHT_DIFF", {"w": 1}, {}),
        (FLModel(metrics={"loss": 2.0}), "METRICS", {"loss": 2.0}, {}),
        (FLModel(params={"w": 1}, metrics={"a": 1}), "WEIGHTS", {"w": 1}, {"initial_metrics": {"a": 1}}),
    ],
)
def test_what_becomes_of_the_models_that_are_sent(
    redflare_link: LinkUnderTest, model: FLModel, kind: str, data: Any, meta: dict[str, Any]
) -> None:
    init(redflare_link)
    with redflare_link.cj() as cj:
        answer = cj.send("train", {"w": 0}, META)
        flare.receive()
        flare.send(model)
        result = answer.result(5)
    assert result.data == data
    assert result.meta == {"data_kind": kind, **meta}


def test_send_clears_the_params_by_default(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    with redflare_link.cj() as cj:
        for clear in (True, False):
            answer = cj.send("train", {"w": 0}, META)
            received, sent = flare.receive(), FLModel(params={"w": 1})
            flare.send(sent, clear_cache=clear)
            answer.result(5)
            assert received is not None
            assert [received.params is None, sent.params is None] == [clear, clear]


def test_a_send_without_a_receive_or_of_nothing_is_refused(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    with redflare_link.cj() as cj:
        answer = cj.send("train", {"w": 0}, META)
        with pytest.raises(RuntimeError, match="no task was received"):
            flare.get_task_name()
        assert flare.is_running()
        with pytest.raises(RuntimeError, match="receive"):
            flare.send(FLModel(params={"w": 1}))
        flare.receive()
        with pytest.raises(RuntimeError, match="neither params nor metrics"):
            flare.send(FLModel())
        with pytest.raises(TypeError, match="FLModel"):
            flare.send({"w": 1})  # type: ignore[arg-type]
        flare.send(FLModel(params={"w": 1}))
        assert answer.result(5).data == {"w": 1}


def test_the_model_of_an_aborted_task_is_dropped_and_the_next_one_is_received(
    redflare_link: LinkUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    context = init(redflare_link)
    with redflare_link.cj() as cj:
        answer = cj.send("train", {"w": 1}, META)
        flare.receive()
        cj.abort()
        assert context.task is not None
        assert context.task.wait_aborted(5)
        with caplog.at_level(logging.WARNING):
            flare.send(FLModel(params={"w": 2}))
        assert "aborted" in caplog.text
        with pytest.raises(TaskNotDone):
            answer.result(5)
        cj.send("train", {"w": 3}, META)
        model = flare.receive()
        assert model is not None
        assert model.params == {"w": 3}


def test_a_model_that_was_sent_keeps_its_meta(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    with redflare_link.cj() as cj:
        cj.send("train", {"w": 0}, META)
        flare.receive()
        model = FLModel(params={"w": 1}, metrics={"loss": 2.0}, meta={"k": 3})
        flare.send(model)
    assert model.meta == {"k": 3}


def test_after_clear_a_model_is_received_anew_before_one_is_sent(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    with redflare_link.cj() as cj:
        cj.send("train", {"w": 0}, META)
        flare.receive()
        flare.clear()
        with pytest.raises(RuntimeError, match="receive"):
            flare.send(FLModel(params={"w": 1}))
        model = flare.receive()
        assert model is not None
        assert model.params == {"w": 0}
        flare.send(FLModel(params={"w": 1}))


def test_after_a_rejected_result_the_next_model_is_received(redflare_link: LinkUnderTest) -> None:
    context = init(redflare_link)
    with redflare_link.server() as server, server.borrow("any") as connection:
        steps = LinkSteps(server, redflare_link.fqcn)
        steps.hello("cj", "h:1:c")
        steps.assign("t1")
        flare.receive()

        def reject() -> None:
            wait_until(lambda: connection.call("HGET", steps.keys.task("t1"), "status") == b"SUBMITTED")
            steps.settle("t1", "REJECTED", "not wanted")

        rejecting = threading.Thread(target=reject)
        rejecting.start()
        with pytest.raises(RuntimeError, match="was rejected"):
            flare.send(FLModel(params={"w": 1}))
        rejecting.join()
        steps.assign("t2")
        assert flare.receive(timeout=5) is not None
        assert context.task is not None
        assert context.task.task_id == "t2"


@pytest.mark.parametrize("uncaught", [False, True])
def test_a_script_that_ends_by_a_fault_counts_as_one_that_died_with_its_task(
    redflare_link: LinkUnderTest, monkeypatch: pytest.MonkeyPatch, uncaught: bool
) -> None:
    settings = dataclasses.replace(redflare_link.settings, max_attempts=1)
    with redflare_link.cj() as cj:
        answer = cj.send("train", {"w": 0}, META)
        context = init(redflare_link, settings=settings)
        assert flare.receive() is not None
        if uncaught:
            monkeypatch.setattr(sys, "last_value", OSError("the data are gone"), raising=False)
            flare._shutdown_all()
        else:
            context.shutdown(failed=True)
        with IPCAgent(**{**redflare_link.agent_args, "settings": settings}) as successor:
            assert successor.get_task(timeout=0.2) is None
            with pytest.raises(TaskNotDone, match="died with it"):
                answer.result(timeout=5)


def test_the_site_is_known_from_init_on_and_the_job_from_its_first_model_on(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    assert flare.system_info() == {"job_id": "", "site_name": "site-1"}
    assert (flare.get_site_name(), flare.get_job_id()) == ("site-1", "")
    with redflare_link.cj() as cj:
        cj.send("train", {"w": 1}, META)
        flare.receive()
        assert flare.system_info() == {"job_id": "job-1", "site_name": "site-1"}
        flare.send(FLModel(params={}))


def test_the_job_of_an_agent_that_serves_one_is_known_from_init_on(redflare_link: LinkUnderTest) -> None:
    init(redflare_link, job_id="job-7")
    assert flare.system_info() == {"job_id": "job-7", "site_name": "site-1"}


def test_ranks_without_a_link_know_their_site(tmp_path: Path) -> None:
    (tmp_path / "redflare.json").write_text('{"site_name": "site-1", "agent_id": "agent"}')
    flare.init(rank=1, workspace_dir=tmp_path)
    assert flare.get_site_name() == "site-1"


@pytest.mark.parametrize("params_type", ["FULL", "DIFF"])
def test_nvflare_s_own_model_is_sent_like_one_from_here(redflare_link: LinkUnderTest, params_type: str) -> None:
    theirs = pytest.importorskip("nvflare.app_common.abstract.fl_model")
    init(redflare_link)
    with redflare_link.cj() as cj:
        answer = cj.send("train", {"w": 0}, META)
        flare.receive()
        model = theirs.FLModel(theirs.ParamsType(params_type), {"w": 1}, metrics={"loss": 2.0}, meta={"k": 3})
        flare.send(model)
        result = answer.result(5)
    kind = {"FULL": "WEIGHTS", "DIFF": "WEIGHT_DIFF"}[params_type]
    assert (result.data, result.meta) == ({"w": 1}, {"k": 3, "data_kind": kind, "initial_metrics": {"loss": 2.0}})
    assert model.params is None


def test_receive_gives_up_after_its_timeout(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    assert flare.receive(timeout=0.05) is None


def test_a_newer_agent_ends_the_script(redflare_link: LinkUnderTest) -> None:
    init(redflare_link)
    with redflare_link.cj() as cj:
        cj.send("train", {"w": 1}, META)
        assert flare.receive() is not None
        with IPCAgent(**redflare_link.agent_args), pytest.raises(AgentClosed):
            flare.send(FLModel(params={"w": 2}))
        assert flare.is_running() is False


# -- how the link is found ---------------------------------------------------------------------------------------------


def test_every_call_before_init_raises_an_error_that_names_init() -> None:
    with pytest.raises(RuntimeError, match=r"flare\.init"):
        flare.receive()


def test_a_second_init_gives_the_same_context_and_warns(
    redflare_link: LinkUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    first = init(redflare_link)
    with caplog.at_level(logging.WARNING):
        assert init(redflare_link, rank=0) is first
    assert "called before" in caplog.text


def test_init_after_shutdown_opens_a_new_link(redflare_link: LinkUnderTest) -> None:
    first = init(redflare_link)
    flare.shutdown()
    assert init(redflare_link) is not first


def test_after_shutdown_there_is_no_context(redflare_link: LinkUnderTest) -> None:
    context = init(redflare_link)
    assert flare.get_context() is context
    flare.shutdown()
    for call in (flare.get_context, flare.is_running, flare.shutdown):
        with pytest.raises(RuntimeError, match=r"flare\.init"):
            call()


def test_shutdown_of_one_context_leaves_the_others(redflare_link: LinkUnderTest) -> None:
    other = flare.init(rank=1)
    context = init(redflare_link)
    flare.shutdown(other)
    assert flare.get_context() is context
    assert init(redflare_link) is context
    assert flare.init(rank=1) is not other


def test_other_ranks_have_no_link() -> None:
    with flare.init(rank=1) as context:
        assert flare.receive() is None
        assert flare.is_running() is False
        flare.send(FLModel(params={"w": 1}))
        with pytest.raises(RuntimeError, match="rank 0"):
            context.get_task_name()


def test_a_rank_is_a_str_or_an_int() -> None:
    with pytest.raises(ValueError, match="float"):
        flare.init(rank=1.0)  # type: ignore[arg-type]


def test_the_file_in_the_current_folder_names_the_link(
    redflare_link: LinkUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"redis_url": "redis://fake", "site_name": "site-1", "agent_id": "agent"}
    (tmp_path / "redflare.json").write_text(json.dumps(file))
    monkeypatch.chdir(tmp_path)
    flare.init(settings=redflare_link.settings, client=redflare_link.client)
    assert flare.get_config() == {"site_name": "site-1", "agent_id": "agent", "job_id": "", "secure_mode": False}


def test_an_argument_wins_over_the_file(redflare_link: LinkUnderTest, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"redis_url": "redis://fake", "site_name": "site-1", "agent_id": "agent"}')
    flare.init(
        None, tmp_path / "mine.json", agent_id="other", settings=redflare_link.settings, client=redflare_link.client
    )
    assert flare.get_config()["agent_id"] == "other"


def test_an_argument_that_is_false_or_empty_wins_over_the_file_too(tmp_path: Path) -> None:
    file = {"site_name": "site-1", "agent_id": "agent", "job_id": "job-7", "secure_mode": True}
    (tmp_path / "redflare.json").write_text(json.dumps(file))
    flare.init(rank=1, workspace_dir=tmp_path, job_id="", secure_mode=False)
    assert flare.get_config() == {"site_name": "site-1", "agent_id": "agent", "job_id": "", "secure_mode": False}


def test_the_folder_of_a_named_file_is_the_workspace(redflare_link: LinkUnderTest, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"redis_url": "redis://fake", "site_name": "site-1", "agent_id": "agent"}')
    (tmp_path / "comm_config.json").write_text('{"surprise": 1}')
    with pytest.raises(ConfigError, match="surprise"):
        flare.init(config_file=tmp_path / "mine.json", client=redflare_link.client)


def test_two_files_are_two_links(redflare_link: LinkUnderTest, tmp_path: Path) -> None:
    contexts = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_text(f'{{"site_name": "site-1", "agent_id": "{name}"}}')
        contexts.append(init(redflare_link, agent_id=None, config_file=tmp_path / f"{name}.json"))
    assert [context.get_config()["agent_id"] for context in contexts] == ["one", "two"]


def test_the_agent_of_a_job_has_a_link_of_its_own(redflare_link: LinkUnderTest) -> None:
    init(redflare_link, job_id="job-7")
    assert redflare_link.client.exists("flare:{site-1.job-7.agent}:link")  # type: ignore[attr-defined]


def test_a_silent_cj_ends_the_script_after_the_heartbeat_timeout(redflare_link: LinkUnderTest) -> None:
    init(redflare_link, flare_site_heartbeat_timeout=0.3)
    assert flare.receive(timeout=20) is None
    flare.send(FLModel(params={}))  # has no effect behind the end, and is refused before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "redis_url, site_name, agent_id: neither an argument of init nor in"),
        ('{"agent_id": "a"}', "redis_url, site_name: neither"),
        ('{"agent": "a"}', "unknown keys"),
        ('{"agent_id": 5}', "agent_id must be a str, but is 5"),
        ("[]", "must hold a JSON object"),
    ],
)
def test_an_invalid_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "redflare.json").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        flare.init(workspace_dir=tmp_path)
    assert "redflare.json" in str(caught.value)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        flare.init(config_file=tmp_path / "none.json")


# -- FLModel -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"params_type": "FULL"}, ValueError),
        ({"params_type": "HALF", "params": {}}, ValueError),
        ({"metrics": [1]}, TypeError),
        ({"meta": 1}, TypeError),
        ({"current_round": -1}, ValueError),
        ({"total_rounds": "3"}, TypeError),
        ({"start_round": True}, TypeError),
    ],
)
def test_an_invalid_model_is_refused(args: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        FLModel(**args)


def test_the_repr_of_a_model_names_its_content_without_the_values() -> None:
    model = FLModel(params={"w": np.zeros(1000)}, metrics={"loss": 1.0}, current_round=3)
    assert repr(model) == "FLModel({'params_type': 'FULL', 'params': 1, 'metrics': 1, 'current_round': 3})"


def test_every_public_name_is_documented() -> None:
    tree = ast.parse(Path(flare.__file__).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)}
    assert set(flare.__all__) <= functions | {"APIContext", "FLModel", "ParamsType"}
