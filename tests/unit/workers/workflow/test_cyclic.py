"""Cyclic with a communicator in this process: the model is passed on; dead, late and failing sites are skipped."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redflare_workers.apis import FLContext, ReturnCode, Shareable, Signal, make_reply
from redflare_workers.apis.dxo import from_shareable
from redflare_workers.workflow.cyclic import Cyclic, RelayOrder
from redflare_workers.workflow.model_store import ModelStore

from tests.support.federation.threads import LocalFederation, Work, adding, round_of
from tests.support.waiting import wait_until


def model() -> dict[str, Any]:
    return {"w": np.zeros(2, np.float32)}


def run(workflow: Cyclic, sites: dict[str, Work]) -> LocalFederation:
    federation = LocalFederation(workflow, sites)
    federation.run()
    return federation


def writing(number: int) -> Work:
    """A site that appends a digit to each weight: the model shows which sites had it, in which order."""

    def work(name: str, data: Shareable) -> Shareable | None:
        given = from_shareable(data).data["w"]
        return adding(0)(name, _with(data, given * 10 + number))

    return work


def _with(data: Shareable, weights: Any) -> Shareable:
    from_shareable(data).data["w"] = weights
    return data


def test_each_site_trains_what_the_one_before_it_made(tmp_path: Path) -> None:
    workflow = Cyclic(model(), num_rounds=2, min_clients=3, save_dir=tmp_path)
    run(workflow, {"a": writing(1), "b": writing(2), "c": writing(3)})
    assert workflow.history == [["a", "b", "c"]] * 2
    assert workflow.model["w"].tolist() == [123123, 123123]
    newest, notes = ModelStore(tmp_path).load()
    assert newest["w"].tolist() == [123123, 123123]
    assert notes == {"rounds": 2, "history": workflow.history}


def test_the_saved_model_does_not_grow_with_the_rounds(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Measured(Cyclic):
        def _run_round(self, abort_signal: Signal, fl_ctx: FLContext) -> bool:
            ended = super()._run_round(abort_signal, fl_ctx)
            sizes.append((tmp_path / ModelStore.NEWEST).stat().st_size)
            return ended

    run(Measured(model(), num_rounds=12, min_clients=2, save_dir=tmp_path), {"a": adding(1), "b": adding(1)})
    assert max(sizes) - min(sizes) < 5


def test_a_given_order_is_kept_and_a_site_may_be_named_twice() -> None:
    workflow = Cyclic(model(), num_rounds=1, order=["b", "a", "b"])
    run(workflow, {"a": writing(1), "b": writing(2)})
    assert workflow.model["w"][0] == 212


def test_differences_are_added_to_the_model() -> None:
    workflow = Cyclic(model(), num_rounds=2)
    run(workflow, {"a": adding(1, difference=True), "b": adding(5)})
    assert workflow.model["w"].tolist() == [12, 12]


def test_it_waits_until_enough_sites_have_joined() -> None:
    workflow = Cyclic(model(), num_rounds=1, min_clients=2)
    federation = LocalFederation(workflow, {"a": writing(1)})
    runner = threading.Thread(target=federation.run)
    runner.start()
    wait_until(lambda: workflow.engine is not None)
    federation.join("b", writing(2))
    runner.join(20)
    assert workflow.history == [["a", "b"]]


def test_a_dead_site_in_the_middle_is_passed_over() -> None:
    workflow = Cyclic(model(), num_rounds=1, min_clients=3, task_result_timeout=1, task_assignment_timeout=1)
    federation = run(workflow, {"a": writing(1), "dead": lambda name, data: None, "c": writing(3)})
    assert workflow.history == [["a", "c"]]
    assert workflow.model["w"][0] == 13
    assert federation.engine.panics == []


def test_a_site_that_never_asks_is_passed_over() -> None:
    workflow = Cyclic(model(), num_rounds=1, min_clients=3, task_assignment_timeout=1)
    federation = LocalFederation(workflow, {"a": writing(1)})
    federation.engine.join("silent")
    federation.join("c", writing(3))
    federation.run()
    assert workflow.model["w"][0] == 13


def test_a_late_result_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    workflow = Cyclic(model(), num_rounds=1, min_clients=2, task_result_timeout=1, task_assignment_timeout=1)
    others = threading.Event()
    warned = threading.Event()

    def late(name: str, data: Shareable) -> Shareable | None:
        assert others.wait(20)
        return writing(1)(name, data)

    def second(name: str, data: Shareable) -> Shareable | None:
        others.set()
        wait_until(lambda: "the next site has had its turn" in caplog.text)
        warned.set()
        return writing(2)(name, data)

    run(workflow, {"late": late, "second": second})
    assert warned.is_set()
    assert workflow.history == [["second"]]
    assert workflow.model["w"][0] == 2


def test_after_an_unusable_result_the_next_site_gets_the_model(caplog: pytest.LogCaptureFixture) -> None:
    workflow = Cyclic(model(), num_rounds=1, min_clients=3)
    bad: Work = lambda name, data: make_reply(ReturnCode.EXECUTION_EXCEPTION)  # noqa: E731
    run(workflow, {"a": writing(1), "bad": bad, "c": writing(3)})
    assert workflow.model["w"][0] == 13
    assert "round 1: the result of bad is not used: the return code is EXECUTION_EXCEPTION" in caplog.text


def test_a_round_without_a_good_result_panics() -> None:
    workflow = Cyclic(model(), num_rounds=3, min_clients=1)
    federation = run(workflow, {"bad": lambda name, data: Shareable()})
    (reason,) = federation.engine.panics
    assert reason.startswith(
        "round 1 ended without a good result of any site: bad: the Shareable holds no DXO: its con"
    )


@pytest.mark.parametrize("order", [RelayOrder.RANDOM, "RANDOM_WITHOUT_SAME_IN_A_ROW"])
def test_a_random_order_has_each_site_once_a_round(order: str) -> None:
    workflow = Cyclic(model(), num_rounds=8, order=order, min_clients=3, seed=1)
    run(workflow, {name: adding(1) for name in "abc"})
    assert [sorted(turns) for turns in workflow.history] == [["a", "b", "c"]] * 8
    assert len(set(map(tuple, workflow.history))) > 1
    if order == RelayOrder.RANDOM_WITHOUT_SAME_IN_A_ROW:
        turns = [name for names in workflow.history for name in names]
        assert all(one != other for one, other in itertools.pairwise(turns))


def test_an_abort_ends_it() -> None:
    workflow = Cyclic(model(), num_rounds=5, min_clients=1)

    def site(name: str, data: Shareable) -> Shareable | None:
        if round_of(data) == 1:
            federation.engine.abort_signal.trigger("enough")
        return adding(1)(name, data)

    federation = LocalFederation(workflow, {"a": site})
    federation.run()
    assert len(workflow.history) == 1


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order must be one of FIXED, RANDOM, RANDOM_WITHOUT_SAME_IN_A_ROW or a list"):
        Cyclic(model(), order="SORTED")
