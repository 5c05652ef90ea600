"""CrossSiteEval over a communicator in this process: a matrix of every model at every site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redflare_workers.apis import DXO, DataKind, ReservedHeaderKey, ReturnCode, Shareable, make_reply
from redflare_workers.apis.dxo import from_shareable
from redflare_workers.workflow.cross_site_eval import CrossSiteEval

from tests.support.federation.threads import LocalFederation, Work


def site(number: float, kind: DataKind = DataKind.METRICS) -> Work:
    """A site whose model is a number, and whose metric of a model is the distance to it."""

    def work(name: str, data: Shareable) -> Shareable | None:
        if name == "submit_model":
            return DXO(DataKind.WEIGHTS, {"w": np.array([number])}).to_shareable()
        dxo = from_shareable(data)
        assert data.get_header("_model_owner_") == dxo.meta["model_owner"]
        distance = abs(dxo.data["w"][0] - number)
        return DXO(kind, {"distance": distance, "samples": 7, "note": "text"}).to_shareable()

    return work


def run(workflow: CrossSiteEval, sites: dict[str, Work]) -> LocalFederation:
    federation = LocalFederation(workflow, sites)
    federation.run()
    return federation


def measured(distance: float) -> dict[str, float]:
    return {"distance": distance, "samples": 7}


def test_every_model_is_measured_at_every_site(tmp_path: Path) -> None:
    workflow = CrossSiteEval(
        server_models={"best": {"w": np.array([10.0])}}, min_clients=3, result_file=tmp_path / "deep" / "matrix.json"
    )
    run(workflow, {"a": site(1), "b": site(3), "c": site(6, DataKind.WEIGHTS)})
    assert workflow.results == {
        "a": {"a": measured(0), "b": measured(2), "c": measured(5), "SRV_best": measured(9)},
        "b": {"a": measured(2), "b": measured(0), "c": measured(3), "SRV_best": measured(7)},
        "c": {"a": measured(5), "b": measured(3), "c": measured(0), "SRV_best": measured(4)},
    }
    assert json.loads((tmp_path / "deep" / "matrix.json").read_text()) == workflow.results


def test_only_the_servers_models_may_be_measured(tmp_path: Path) -> None:
    workflow = CrossSiteEval(server_models={"m": lambda: {"w": np.array([2.0])}}, submit_model_task_name="")
    run(workflow, {"a": site(1)})
    assert workflow.results == {"a": {"SRV_m": measured(1)}}


def test_the_sites_may_be_named() -> None:
    workflow = CrossSiteEval(participating_clients=["a", "b"])
    run(workflow, {"a": site(1), "b": site(3), "other": site(6)})
    assert workflow.results == {"a": {"a": measured(0), "b": measured(2)}, "b": {"a": measured(2), "b": measured(0)}}


def test_what_a_site_cannot_do_leaves_a_gap(caplog: pytest.LogCaptureFixture) -> None:
    def no_model(name: str, data: Shareable) -> Shareable | None:
        return make_reply(ReturnCode.EXECUTION_EXCEPTION) if name == "submit_model" else site(3)(name, data)

    def no_measure(name: str, data: Shareable) -> Shareable | None:
        if name == "validate":
            return DXO(DataKind.METRICS, {"note": "none"}).to_shareable()
        return site(5)(name, data)

    workflow = CrossSiteEval(min_clients=3)
    federation = run(workflow, {"a": site(1), "b": no_model, "c": no_measure})
    assert workflow.results == {
        "a": {"a": measured(0), "c": measured(4)},
        "b": {"a": measured(2), "c": measured(2)},
        "c": {},
    }
    assert "the model of b is left out: the return code is EXECUTION_EXCEPTION" in caplog.text
    assert "what c measured of the model of a is left out: it holds no number, only ['note']" in caplog.text
    assert federation.engine.panics == []


@pytest.mark.parametrize("fails_at", ["submit_model", "validate"])
def test_the_first_causes_are_the_reason_when_nothing_is_measured(tmp_path: Path, fails_at: str) -> None:
    def failing(name: str, data: Shareable) -> Shareable | None:
        if name == fails_at:
            return make_reply(ReturnCode.EXECUTION_EXCEPTION, {ReservedHeaderKey.ERROR: "no data"})
        return site(1)(name, data)

    workflow = CrossSiteEval(min_clients=2, result_file=tmp_path / "matrix.json")
    federation = run(workflow, {"a": failing, "b": failing})
    assert len(federation.engine.panics) == 1
    reason, *whys = federation.engine.panics[0].replace("any site: ", "any site; ").split("; ")
    assert reason == "no model was measured at any site"
    assert sorted(whys) == [f"{name}: the return code is EXECUTION_EXCEPTION: no data" for name in "ab"]
    assert not list(tmp_path.iterdir())


def test_a_site_that_dies_costs_its_timeout_and_no_more() -> None:
    workflow = CrossSiteEval(min_clients=2, submit_model_timeout=1, validation_timeout=1)
    run(workflow, {"a": site(1), "dead": lambda name, data: None})
    assert workflow.results == {"a": {"a": measured(0)}, "dead": {}}


def test_an_abort_ends_it_without_a_file(tmp_path: Path) -> None:
    def aborting(name: str, data: Shareable) -> Shareable | None:
        federation.engine.abort_signal.trigger("enough")
        return None

    workflow = CrossSiteEval(result_file=tmp_path / "matrix.json")
    federation = LocalFederation(workflow, {"a": aborting})
    federation.run()
    assert not list(tmp_path.iterdir())


def test_no_model_is_kept() -> None:
    kept: list[Any] = []

    class Recording(CrossSiteEval):
        def broadcast(self, task: Any, *args: Any, **kwargs: Any) -> None:
            kept.append(task)
            super().broadcast(task, *args, **kwargs)

    run(Recording(min_clients=2), {"a": site(1), "b": site(2)})
    assert len(kept) == 3
    assert not any("DXO" in task.data for task in kept)
    assert not any(client_task.result for task in kept for client_task in task.client_tasks)
