"""FedAvg with a communicator in this process: the mean, the results that count, and what is saved."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from redflare_broker.wire import codec
from redflare_workers.apis import DXO, DataKind, ReservedHeaderKey, ReturnCode, Shareable, make_reply
from redflare_workers.apis.dxo import from_shareable
from redflare_workers.workflow.fedavg import FedAvg
from redflare_workers.workflow.model_store import ModelStore, save_model

from tests.support.federation.threads import LocalFederation, Work, adding, round_of


def model() -> dict[str, Any]:
    return {"w": np.zeros(3, np.float32), "b": np.ones((), np.float64)}


def run(workflow: FedAvg, sites: dict[str, Work]) -> LocalFederation:
    federation = LocalFederation(workflow, sites)
    federation.run()
    return federation


def test_each_round_is_the_mean_weighted_by_steps() -> None:
    workflow = FedAvg(model(), min_clients=3, num_rounds=2)
    run(workflow, {"a": adding(1, steps=1), "b": adding(2, steps=3), "c": adding(6, steps=4)})
    step = np.average([1, 2, 6], weights=[1, 3, 4])
    np.testing.assert_allclose(workflow.model["w"], [2 * step] * 3)
    assert workflow.model["w"].dtype == np.float32
    assert workflow.model["b"] == 1 + 2 * step
    assert workflow.current_round == 2
    assert [entry["clients"] for entry in workflow.history] == [{"a": 1, "b": 3, "c": 4}] * 2


def test_the_log_has_a_line_for_each_round_whatever_the_number_of_sites(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    measured = iter([0.25, 0.5])
    run(FedAvg(model(), min_clients=1, num_rounds=1), {"a": adding(1, steps=3)})
    run(
        FedAvg(model(), min_clients=2, num_rounds=2, evaluate=lambda _: next(measured)),
        {"a": adding(1, steps=3), "b": adding(2, steps=1)},
    )
    lines = [record.getMessage() for record in caplog.records]
    assert [line[line.index("round ") :] for line in lines if " finished: " in line] == [
        "round 1 of 1 finished: 1 result, 3 steps",
        "round 1 of 2 finished: 2 results, 4 steps, accuracy 0.25",
        "round 2 of 2 finished: 2 results, 4 steps, accuracy 0.5",
    ]


def test_differences_and_weights_lead_to_the_same_model() -> None:
    one = FedAvg(model(), min_clients=2, num_rounds=3)
    run(one, {"a": adding(1), "b": adding(2, steps=5)})
    other = FedAvg(model(), min_clients=2, num_rounds=3)
    run(other, {"a": adding(1, difference=True), "b": adding(2, steps=5)})
    np.testing.assert_allclose(one.model["w"], other.model["w"])


def test_a_site_gets_the_round_and_how_many_there_are() -> None:
    seen: list[Any] = []

    def look(name: str, data: Shareable) -> Shareable | None:
        seen.append((name, round_of(data), data.get_header("num_rounds"), from_shareable(data).data_kind))
        return adding(1)(name, data)

    run(FedAvg(model(), min_clients=1, num_rounds=2, task_name="fit"), {"a": look})
    assert seen == [("fit", 0, 2, DataKind.WEIGHTS), ("fit", 1, 2, DataKind.WEIGHTS)]


def answer(kind: str, data: Any, **meta: Any) -> Work:
    return lambda name, task: DXO(kind, data, meta).to_shareable()


BAD: dict[str, tuple[Work, str]] = {
    "return code": (lambda name, data: make_reply(ReturnCode.EXECUTION_EXCEPTION), "the return code is EXECUTION_EXC"),
    "no DXO": (lambda name, data: Shareable({"w": 1}), "holds no DXO"),
    "kind": (answer(DataKind.METRICS, {"loss": 1}), "the data is METRICS, but must be WEIGHTS or WEIGHT_DIFF"),
    "key": (answer(DataKind.WEIGHTS, {"w": np.zeros(3)}), "update.b: is missing"),
    "shape": (answer(DataKind.WEIGHTS, {"w": np.zeros(4), "b": 0.0}), r"update.w: has shape \(4,\)"),
    "NaN": (answer(DataKind.WEIGHTS, {"w": np.full(3, np.nan), "b": 0.0}), "update.w: holds NaN"),
    "steps": (adding(1, steps=-5), "weight must be a number > 0, but is -5"),
}


@pytest.mark.parametrize("what", BAD)
def test_an_unusable_result_is_logged_with_its_site_and_does_not_count(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    workflow = FedAvg(model(), min_clients=2, num_rounds=1, wait_time_after_min_received=0)
    bad, text = BAD[what]
    others = threading.Event()

    def last(name: str, data: Shareable) -> Shareable | None:
        assert others.wait(10)
        return adding(2)(name, data)

    def wrong(name: str, data: Shareable) -> Shareable | None:
        return bad(name, data)

    class SettingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            others.set()

    handler = SettingHandler(logging.WARNING)
    workflow.logger.addHandler(handler)
    try:
        run(workflow, {"wrong": wrong, "a": adding(2), "b": last})
    finally:
        workflow.logger.removeHandler(handler)
    assert workflow.model["w"].tolist() == [2, 2, 2]
    assert set(workflow.history[0]["clients"]) == {"a", "b"}
    line = next(record.getMessage() for record in caplog.records if "wrong" in record.getMessage())
    assert pytest.RaisesExc(ValueError, match=text).matches(ValueError(line)), line


def test_fewer_good_results_than_min_clients_make_the_run_panic() -> None:
    workflow = FedAvg(model(), min_clients=2, num_rounds=3)
    federation = run(workflow, {"a": adding(1), "b": BAD["return code"][0]})
    (reason,) = federation.engine.panics
    assert reason.startswith("round 1 ended with 1 valid result (a), but min_clients is 2")
    assert workflow.current_round == 0
    assert workflow.model["w"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("what", BAD)
def test_the_outcome_says_why_each_result_was_not_used(what: str) -> None:
    bad, text = BAD[what]
    federation = run(FedAvg(model(), min_clients=2, num_rounds=1), {"bad": bad, "worse": bad})
    (reason,) = federation.engine.panics
    start = r"round 1 ended with 0 valid results, but min_clients is 2: (bad|worse): .*"
    assert re.fullmatch(f"{start}{text}.*; (bad|worse): .*{text}.*", reason), reason


def test_the_outcome_has_what_a_site_reports_on_one_line_and_names_some_sites_only() -> None:
    def failing(name: str, data: Shareable) -> Shareable:
        return make_reply(
            ReturnCode.EXECUTION_EXCEPTION, {ReservedHeaderKey.ERROR: "ValueError:\nno data " + "!" * 999}
        )

    federation = run(FedAvg(model(), min_clients=7, num_rounds=1), {f"site-{n}": failing for n in range(7)})
    (reason,) = federation.engine.panics
    assert "the return code is EXECUTION_EXCEPTION: ValueError: no data !!" in reason
    assert reason.endswith("; and 2 more")
    assert len(reason) < 2000
    assert "\n" not in reason


def test_a_round_that_times_out_panics_unless_enough_are_there() -> None:
    workflow = FedAvg(model(), min_clients=2, num_rounds=1, timeout=1)
    federation = run(workflow, {"a": adding(1), "dead": lambda name, data: None})
    assert "round 1 ended (timeout) with 1 valid result (a)" in federation.engine.panics[0]
    workflow = FedAvg(model(), min_clients=1, num_rounds=1, timeout=1, wait_time_after_min_received=60)
    federation = run(workflow, {"a": adding(1), "dead": lambda name, data: None})
    assert federation.engine.panics == []
    assert workflow.model["w"].tolist() == [1, 1, 1]


def test_a_slow_site_is_not_waited_for_when_there_are_enough() -> None:
    release = threading.Event()

    def slow(name: str, data: Shareable) -> Shareable | None:
        release.wait(10)
        return adding(100)(name, data)

    class Releasing(FedAvg):
        def stop_controller(self, fl_ctx: Any) -> None:
            release.set()

    workflow = Releasing(model(), min_clients=2, num_rounds=2, wait_time_after_min_received=0)
    run(workflow, {"a": adding(1), "b": adding(3), "slow": slow})
    assert workflow.model["w"].tolist() == [4, 4, 4]


def test_a_site_that_joins_in_the_middle_takes_part() -> None:
    workflow = FedAvg(model(), min_clients=1, num_rounds=2, wait_time_after_min_received=0)
    federation = LocalFederation(workflow)

    def first(name: str, data: Shareable) -> Shareable | None:
        if round_of(data) == 1:
            federation.join("late", late)
            assert has_it.wait(10)
        return adding(1)(name, data)

    has_it = threading.Event()

    def late(name: str, data: Shareable) -> Shareable | None:
        assert round_of(data) == 1
        has_it.set()
        return adding(3)(name, data)

    workflow.wait_time_after_min_received = 5
    federation.join("first", first)
    federation.run()
    assert [set(entry["clients"]) for entry in workflow.history] == [{"first"}, {"first", "late"}]
    assert workflow.model["w"].tolist() == [3, 3, 3]


def test_the_best_model_is_the_one_the_sites_measured_best(tmp_path: Path) -> None:
    accuracies = [0.5, 0.9, 0.7]

    def site(name: str, data: Shareable) -> Shareable | None:
        measured = {"accuracy": accuracies[round_of(data)]}
        return adding(1, initial_metrics=measured)(name, data)

    for folder in (None, tmp_path):
        workflow = FedAvg(model(), min_clients=1, num_rounds=3, save_dir=folder)
        run(workflow, {"a": site})
        assert (workflow.best.value, workflow.best.rounds) == (0.9, 1)
        best = workflow.best.model
        assert best is not None
        assert best["w"].tolist() == [1, 1, 1]
    store = ModelStore(tmp_path)
    assert store.load(best=True)[1] == {"rounds": 1, "metrics": {"accuracy": 0.9}}
    newest, notes = store.load()
    assert newest["w"].tolist() == [3, 3, 3]
    assert (notes["rounds"], [entry["metric"] for entry in notes["history"]]) == (3, accuracies)


def test_a_loss_is_better_when_it_is_smaller_and_the_server_may_measure_itself() -> None:
    workflow = FedAvg(
        model(),
        min_clients=1,
        num_rounds=4,
        smaller_is_better=True,
        evaluate=lambda weights: abs(float(weights["w"][0]) - 2.2),
    )
    run(workflow, {"a": adding(1)})
    assert workflow.best.rounds == 2
    assert workflow.best.value == pytest.approx(0.2, abs=1e-6)


def test_without_any_metric_there_is_no_best_model(tmp_path: Path) -> None:
    workflow = FedAvg(model(), min_clients=1, num_rounds=1, save_dir=tmp_path)
    run(workflow, {"a": adding(1)})
    assert workflow.best.model is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FL_global_model.npz", "history.jsonl"]


def test_a_run_may_begin_with_a_function_or_a_saved_model(tmp_path: Path) -> None:
    save_model(tmp_path / "m.npz", model())
    for initial in (model, tmp_path / "m.npz"):
        workflow = FedAvg(initial, min_clients=1, num_rounds=1)
        run(workflow, {"a": adding(1)})
        assert workflow.model["w"].tolist() == [1, 1, 1]


def test_no_result_is_kept() -> None:
    results: list[Any] = []

    class Recording(FedAvg):
        def broadcast_and_wait(self, task: Any, *args: Any, **kwargs: Any) -> Any:
            waited = super().broadcast_and_wait(task, *args, **kwargs)
            results.extend(client_task.result for client_task in task.client_tasks)
            return waited

    run(Recording(model(), min_clients=2, num_rounds=1), {"a": adding(1), "b": BAD["key"][0], "c": adding(1)})
    assert results == [None, None, None]


@pytest.mark.parametrize("stop_before", [0, 1, 2, 3])
def test_a_run_that_was_stopped_resumes_from_its_checkpoint(stop_before: int) -> None:
    def site(name: str, data: Shareable) -> Shareable | None:
        metrics = {"accuracy": [0.1, 0.9, 0.3][round_of(data)]}
        return adding(1 + round_of(data), initial_metrics=metrics)(name, data)

    class Checkpointed(FedAvg):
        def checkpoint(self, fl_ctx: Any) -> None:
            encoded = codec.encode({}, self.state())
            kept.append(codec.decode(encoded.meta, encoded.data, encoded.buffers)[1])
            histories.append(orjson.loads(orjson.dumps(self.appended(0))))

    histories: list[list[Any]] = []
    kept: list[dict[str, Any]] = []
    whole = Checkpointed(model(), min_clients=1, num_rounds=3)
    run(whole, {"a": site})
    assert [state["round"] for state in kept] == [0, 1, 2, 3]
    resumed = FedAvg(lambda: pytest.fail("the initial model was asked for"), min_clients=1, num_rounds=3)
    resumed.restore_appended(histories[stop_before])
    resumed.restore(kept[stop_before])
    run(resumed, {"a": site})
    np.testing.assert_array_equal(resumed.model["w"], whole.model["w"])
    assert resumed.history == whole.history
    assert (resumed.best.value, resumed.best.rounds) == (0.9, 1)
    assert resumed.best.model is not None
    assert resumed.best.model["w"].tolist() == [1, 1, 1]


def test_neither_state_nor_file_grow_with_the_rounds(tmp_path: Path) -> None:
    class Checkpointed(FedAvg):
        def checkpoint(self, fl_ctx: Any) -> None:
            encoded = codec.encode({}, self.state())
            sizes.append(len(encoded.data) + sum(map(len, encoded.buffers)))
            new.append(self.appended(len(self.history) - 1) if self.history else [])
            if (tmp_path / ModelStore.NEWEST).exists():
                files.append((tmp_path / ModelStore.NEWEST).stat().st_size)

    sizes, files, new = list[int](), list[int](), list[list[Any]]()
    workflow = Checkpointed(model(), min_clients=3, num_rounds=20, save_dir=tmp_path)
    run(workflow, {name: adding(1, steps=8) for name in "abc"})
    assert max(sizes) - min(sizes) < 20
    assert max(files) - min(files) < 20
    assert [len(entries) for entries in new] == [0] + [1] * 20
    assert ModelStore(tmp_path).load()[1] == {"rounds": 20, "history": workflow.history}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"min_clients": 0}, ValueError, "min_clients must be at least 1, but is 0"),
        ({"num_rounds": 0}, ValueError, "num_rounds must be at least 1, but is 0"),
        ({"num_rounds": 2.0}, TypeError, r"num_rounds must be an int, but is 2.0 \(float\)"),
        ({"timeout": -1}, ValueError, "timeout must be at least 0"),
        ({"wait_time_after_min_received": "1"}, TypeError, "wait_time_after_min_received must be an int"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        FedAvg(model(), **{"min_clients": 1, "num_rounds": 1, **arguments})
