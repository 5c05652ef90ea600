"""FedBuff with a communicator in this process: versions, staleness, and no waiting for slow sites."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redflare_workers.apis import FLContext, ReservedHeaderKey, ReturnCode, Shareable, make_reply
from redflare_workers.workflow.fedbuff import FedBuff
from redflare_workers.workflow.model_store import ModelStore

from tests.support.federation.threads import LocalFederation, Work, adding, round_of
from tests.support.waiting import wait_until


def model() -> dict[str, Any]:
    return {"w": np.zeros(2)}


def run(workflow: FedBuff, sites: dict[str, Work]) -> LocalFederation:
    federation = LocalFederation(workflow, sites)
    federation.run()
    return federation


@pytest.mark.parametrize("difference", [True, False])
def test_a_site_alone_trains_the_newest_version_again_and_again(difference: bool) -> None:
    seen: list[int] = []

    def site(name: str, data: Shareable) -> Shareable | None:
        seen.append(round_of(data))
        return adding(1, difference=difference)(name, data)

    workflow = FedBuff(model(), buffer_size=2, num_updates=3)
    run(workflow, {"a": site})
    assert seen[:6] == [0, 0, 1, 1, 2, 2]
    assert workflow.model["w"].tolist() == [3, 3]
    assert (workflow.version, workflow.contributions) == (3, {"a": 6})


class _Steps:
    """Sites that answer in a given order."""

    def __init__(self, order: str) -> None:
        self._order = order
        self._next = 0
        self._changed = threading.Condition()

    def site(self, name: str, work: Work) -> Work:
        def wait(task: str, data: Shareable) -> Shareable | None:
            with self._changed:
                self._changed.wait_for(lambda: self._order[self._next : self._next + 1] in (name, ""), 20)
            return work(task, data)

        return wait

    def wrap(self, workflow: FedBuff) -> None:
        taken = workflow._take_result

        def take(client_task: Any, fl_ctx: Any) -> None:
            taken(client_task, fl_ctx)
            with self._changed:
                self._next += 1
                self._changed.notify_all()

        workflow._take_result = take  # type: ignore[method-assign]


@pytest.mark.parametrize("difference", [True, False])
def test_a_result_counts_less_the_more_versions_have_passed(difference: bool) -> None:
    workflow = FedBuff(model(), buffer_size=2, num_updates=3, server_lr=0.5)
    steps = _Steps("aaaaab")
    steps.wrap(workflow)
    ready = threading.Barrier(2)

    def first(work: Work) -> Work:
        """Wait until both sites have version 0 before one answers."""
        met: list[bool] = []

        def wait(task: str, data: Shareable) -> Shareable | None:
            if not met:
                met.append(True)
                ready.wait(20)
            return work(task, data)

        return wait

    sites = {
        name: first(steps.site(name, adding(amount, difference=difference))) for name, amount in (("a", 1), ("b", 9))
    }
    run(workflow, sites)
    last = 0.5 * (1 + 9 / math.sqrt(3)) / 2
    np.testing.assert_allclose(workflow.model["w"], [1 + last] * 2)
    assert workflow.contributions == {"a": 5, "b": 1}


def test_a_slow_site_delays_no_other_and_a_result_too_far_behind_does_not_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    workflow = FedBuff(model(), buffer_size=1, num_updates=5, max_staleness=1)
    has_it, late = threading.Event(), threading.Event()

    def slow(name: str, data: Shareable) -> Shareable | None:
        if has_it.is_set():
            return None
        has_it.set()
        assert late.wait(20)
        return adding(100)(name, data)

    def fast(name: str, data: Shareable) -> Shareable | None:
        assert has_it.wait(20)
        if round_of(data) == 3:
            late.set()
        if round_of(data) == 4:
            wait_until(lambda: "the result of slow does not count" in caplog.text)
        return adding(1)(name, data)

    run(workflow, {"slow": slow, "fast": fast})
    assert workflow.model["w"].tolist() == [5, 5]
    assert "more than max_staleness=1" in caplog.text


def test_steps_count_within_a_buffer() -> None:
    workflow = FedBuff(model(), buffer_size=2, num_updates=1)
    steps = _Steps("ab")
    steps.wrap(workflow)
    run(workflow, {"a": steps.site("a", adding(1, steps=3)), "b": steps.site("b", adding(5, steps=1))})
    assert workflow.model["w"].tolist() == [2, 2]


def test_versions_that_no_site_has_are_forgotten() -> None:
    class Recording(FedBuff):
        most = 0

        def _begin_version(self, model: Any) -> None:
            super()._begin_version(model)
            self.most = max(self.most, len(self._versions))

    workflow = Recording(model(), buffer_size=1, num_updates=50)
    run(workflow, {name: adding(1) for name in "abc"})
    assert workflow.most <= 4


def test_an_unusable_result_is_logged_and_training_continues(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([make_reply(ReturnCode.EXECUTION_EXCEPTION), Shareable({"x": 1})])

    def site(name: str, data: Shareable) -> Shareable | None:
        return next(answers, None) or adding(1)(name, data)

    workflow = FedBuff(model(), buffer_size=1, num_updates=2)
    run(workflow, {"a": site})
    assert workflow.model["w"].tolist() == [2, 2]
    assert "version 0: the result of a does not count: the return code is EXECUTION_EXCEPTION" in caplog.text
    assert "holds no DXO" in caplog.text


def failing(why: str) -> Work:
    return lambda name, data: make_reply(ReturnCode.EXECUTION_EXCEPTION, {ReservedHeaderKey.ERROR: why})


def test_the_first_causes_are_the_reason_when_no_site_gives_a_usable_result() -> None:
    federation = run(FedBuff(model(), buffer_size=1, num_updates=2), {"a": failing("no data"), "b": failing("no GPU")})
    (panic,) = federation.engine.panics
    reason, _, whys = panic.partition(" used: ")
    assert reason == "version 0 gets no result that can be"
    failed = "the return code is EXECUTION_EXCEPTION"
    assert sorted(whys.split("; ")) == [f"a: {failed}: no data", f"b: {failed}: no GPU"]


def test_a_site_whose_results_are_all_unusable_stops_no_other() -> None:
    failed = threading.Event()
    count = iter(range(100_000))

    def bad(name: str, data: Shareable) -> Shareable | None:
        if next(count) == 9:
            failed.set()
        return failing("no data")(name, data)

    def good(name: str, data: Shareable) -> Shareable | None:
        assert failed.wait(20)
        return adding(1)(name, data)

    workflow = FedBuff(model(), buffer_size=1, num_updates=2)
    assert run(workflow, {"bad": bad, "good": good}).engine.panics == []
    assert workflow.contributions == {"good": 2}


def test_the_newest_and_the_best_version_are_saved(tmp_path: Path) -> None:
    def site(name: str, data: Shareable) -> Shareable | None:
        return adding(1, accuracy=[0.2, 0.8, 0.4][min(round_of(data), 2)])(name, data)

    workflow = FedBuff(model(), buffer_size=1, num_updates=3, save_dir=tmp_path)
    run(workflow, {"a": site})
    best, notes = ModelStore(tmp_path).load(best=True)
    assert (best["w"].tolist(), notes) == ([1, 1], {"rounds": 1, "metrics": {"accuracy": 0.8}})
    newest, notes = ModelStore(tmp_path).load()
    assert (newest["w"].tolist(), notes) == ([3, 3], {"rounds": 3, "contributions": {"a": 3}})


def test_the_server_may_measure_each_version() -> None:
    workflow = FedBuff(model(), buffer_size=1, num_updates=3, evaluate=lambda weights: -abs(float(weights["w"][0]) - 2))
    run(workflow, {"a": adding(1)})
    assert (workflow.best.rounds, workflow.best.value) == (2, 0)


def test_an_abort_ends_it() -> None:
    def site(name: str, data: Shareable) -> Shareable | None:
        if round_of(data) == 2:
            federation.engine.abort_signal.trigger("enough")
        return adding(1)(name, data)

    workflow = FedBuff(model(), buffer_size=1, num_updates=1000)
    federation = LocalFederation(workflow, {"a": site})
    federation.run()
    assert workflow.version < 1000
    assert federation.communicator.get_num_standing_tasks() == 0


def test_its_task_is_over_when_its_control_flow_is() -> None:
    """Sites would go on with a model that nobody wants, until the whole run ends."""

    class Watched(FedBuff):
        def stop_controller(self, fl_ctx: FLContext) -> None:
            assert self.communicator is not None
            tasks.append(self.communicator.get_num_standing_tasks())
            super().stop_controller(fl_ctx)

    tasks: list[int] = []
    run(Watched(model(), buffer_size=1, num_updates=2), {"a": adding(1)})
    assert tasks == [0]
