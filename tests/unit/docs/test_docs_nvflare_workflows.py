"""NVFlare's own workflows and executors run with no change but their imports, as the page for its users says."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fakeredis
import numpy as np
import pytest
from redflare_workers import (
    DXO,
    AppConstants,
    AppEventType,
    DataKind,
    EventType,
    Executor,
    FLComponent,
    FLContext,
    MetaKey,
    Shareable,
    Signal,
    from_shareable,
)

from tests.support.job.runs import JobRuns
from tests.support.paths import DOCS
from tests.support.waiting import wait_until
from tests.unit.docs.moved_nvflare import moved

SITES = ("site-1", "site-2")
START = [[1.0, 2.0], [3.0, 4.0]]


class WaitForSites(FLComponent):
    """Lets the controller begin when all sites have joined, as NVFlare's server does."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.START_RUN:
            engine = fl_ctx.get_engine()
            wait_until(lambda: len(engine.get_clients()) == len(SITES), what="both sites join")


class Run:
    """One job whose parts are NVFlare's."""

    def __init__(self, job: JobRuns, folder: Path) -> None:
        self._job = job
        self.folder = folder

    def __call__(
        self,
        controller: Any,
        site_1: Executor | Mapping[str, Executor],
        site_2: Executor | Mapping[str, Executor],
        components: Mapping[str, object] | None = None,
        **site_components: Any,
    ) -> None:
        """Run a controller with two sites to the end; the sites are named ``site-1`` and ``site-2``."""
        parts = {"wait": WaitForSites(), **dict(components or {})}
        self._job.serve(controller, components=parts, workspace_dir=self.folder / "server")
        for name, executors in zip(SITES, (site_1, site_2), strict=True):
            self._job.join(name, executors, workspace_dir=self.folder / name, components=site_components.get(name[5:]))
        outcome = self._job.outcome()
        assert outcome.ok, outcome
        assert all(each.ok for each in self._job.site_outcomes())

    def model(self) -> list[list[float]]:
        """Return the model that NVFlare's persistor has saved."""
        (file,) = self.folder.joinpath("server").rglob("server.npy")
        saved: list[list[float]] = np.load(file).tolist()
        return saved


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with JobRuns(fakeredis.FakeRedis(server=fakeredis.FakeServer())) as job:
        yield Run(job, tmp_path)


def persistor() -> Any:
    return moved("app_common.np.np_model_persistor").NPModelPersistor(model=START)


def generator() -> Any:
    return moved("app_common.shareablegenerators.full_model_shareable_generator").FullModelShareableGenerator()


def aggregator() -> Any:
    module = moved("app_common.aggregators.intime_accumulate_model_aggregator")
    return module.InTimeAccumulateWeightedAggregator(expected_data_kind=DataKind.WEIGHTS)


def trainer(delta: float) -> Any:
    """NVFlare's NPTrainer, which adds a number to every weight."""
    with warnings.catch_warnings(record=True):  # NVFlare calls it deprecated
        return moved("app_common.np.np_trainer").NPTrainer(delta=delta)


def plus(amount: float) -> list[list[float]]:
    return [[value + amount for value in row] for row in START]


class Answering(Executor):
    """Answers each task with the return value of a function."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        made = self._answer(shareable)
        assert isinstance(made, Shareable)
        return made


def test_scatter_and_gather_averages_with_nvflare_s_aggregator_generator_persistor_and_selector(run: Run) -> None:
    controller = moved("app_common.workflows.scatter_and_gather").ScatterAndGather(
        min_clients=2, num_rounds=2, wait_time_after_min_received=0, persistor_id="persistor"
    )
    selector = moved("app_common.widgets.intime_model_selector").IntimeModelSelector()
    best: list[float] = []

    class Listener(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            if event_type == AppEventType.GLOBAL_BEST_MODEL_AVAILABLE:
                best.append(fl_ctx.get_prop(AppConstants.CURRENT_ROUND))

    def site(delta: float) -> Executor:
        def train(task: Shareable) -> Shareable:
            dxo, number = from_shareable(task), task.get_header(AppConstants.CURRENT_ROUND)
            meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1, MetaKey.INITIAL_METRICS: {"val_accuracy": [0.5, 0.9][number]}}
            return DXO(DataKind.WEIGHTS, {"numpy_key": dxo.data["numpy_key"] + delta}, meta).to_shareable()

        return Answering(train)

    parts = {
        "persistor": persistor(),
        "shareable_generator": generator(),
        "aggregator": aggregator(),
        "selector": selector,
        "listener": Listener(),
    }
    run(controller, site(1), site(3), parts)
    assert run.model() == plus(4)  # two rounds, each adds the mean of 1 and 3
    # the metric of round 0 is that of the model that it began with
    assert best == [1]


def test_the_cyclic_controller_hands_the_model_from_site_to_site(run: Run) -> None:
    controller = moved("app_common.workflows.cyclic_ctl").CyclicController(num_rounds=2)
    run(controller, trainer(1), trainer(3), {"persistor": persistor(), "shareable_generator": generator()})
    assert run.model() == plus(8)  # two rounds, each adds 1 and then 3


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the accuracies that NVFlare's ValidationJsonGenerator has written, by evaluating site, then by model."""
    (file,) = folder.rglob("cross_val_results.json")
    read: dict[str, dict[str, Any]] = json.loads(file.read_text())
    return read


def test_cross_site_model_eval_has_every_model_evaluated_everywhere(run: Run) -> None:
    controller = moved("app_common.workflows.cross_site_model_eval").CrossSiteModelEval(model_locator_id="locator")
    models = run.folder / "given.npy"
    np.save(models, np.array(START))
    parts = {
        "locator": moved("app_common.np.np_model_locator").NPModelLocator(model_name={"given": str(models)}),
        "json": moved("app_common.widgets.validation_json_generator").ValidationJsonGenerator(),
    }
    validator = moved("app_common.np.np_validator").NPValidator

    def site(value: float) -> dict[str, Executor]:
        model = DXO(DataKind.WEIGHTS, {"numpy_key": np.array([value])})
        return {"submit_model": Answering(lambda task: model.to_shareable()), "validate": validator()}

    run(controller, site(1.0), site(3.0), parts)
    found = results(run.folder)
    assert {site: set(models) for site, models in found.items()} == {
        name: {"SRV_given", "site-1", "site-2"} for name in SITES
    }


def test_global_model_eval_has_the_server_s_model_evaluated(run: Run) -> None:
    controller = moved("app_common.workflows.global_model_eval").GlobalModelEval(model_locator_id="locator")
    models = run.folder / "given.npy"
    np.save(models, np.array(START))
    parts = {
        "locator": moved("app_common.np.np_model_locator").NPModelLocator(model_name={"given": str(models)}),
        "json": moved("app_common.widgets.validation_json_generator").ValidationJsonGenerator(),
    }
    validator = moved("app_common.np.np_validator").NPValidator
    run(controller, validator(), validator(), parts)
    assert {site: set(models) for site, models in results(run.folder).items()} == {
        name: {"SRV_given"} for name in SITES
    }


def test_initialize_global_weights_takes_those_of_the_site_that_it_names(run: Run) -> None:
    module = moved("app_common.workflows.initialize_global_weights")
    controller = module.InitializeGlobalWeights(
        weights_client_name="site-2", weight_method=module.WeightMethod.CLIENT, min_responses_required=1
    )

    def site(value: float) -> Executor:
        return Answering(lambda task: DXO(DataKind.WEIGHTS, {"w": np.array([value])}).to_shareable())

    run(controller, site(1.0), site(3.0))
    assert controller.processor.final_weights["w"].tolist() == [3.0]


def test_broadcast_and_process_gives_all_answers_to_its_processor(run: Run) -> None:
    base = moved("app_common.abstract.response_processor").ResponseProcessor
    answers: dict[str, float] = {}

    class Collect(base):  # type: ignore[misc, valid-type]
        def create_task_data(self, task_name: str, fl_ctx: FLContext) -> Shareable:
            return DXO(DataKind.METRICS, {"n": 20}).to_shareable()

        def process_client_response(self, client: Any, task_name: str, response: Shareable, fl_ctx: FLContext) -> bool:
            answers[client.name] = from_shareable(response).data["n"]
            return True

        def final_process(self, fl_ctx: FLContext) -> bool:
            return set(answers) == set(SITES)

    def site(amount: int) -> Executor:
        def add(task: Shareable) -> Shareable:
            return DXO(DataKind.METRICS, {"n": from_shareable(task).data["n"] + amount}).to_shareable()

        return Answering(add)

    controller = moved("app_common.workflows.broadcast_and_process").BroadcastAndProcess(Collect(), "count")
    run(controller, site(1), site(3))
    assert answers == {"site-1": 21, "site-2": 23}


def test_fedavg_on_the_model_controller_averages(run: Run) -> None:
    controller = moved("app_common.workflows.fedavg").FedAvg(num_clients=2, num_rounds=2)
    run(controller, trainer(1), trainer(3), {"persistor": persistor()})
    assert run.model() == plus(4)


def test_cyclic_on_the_model_controller_hands_the_model_on(run: Run) -> None:
    controller = moved("app_common.workflows.cyclic").Cyclic(num_clients=2, num_rounds=2)
    run(controller, trainer(1), trainer(3), {"persistor": persistor()})
    assert run.model() == plus(8)


def test_scaffold_on_the_model_controller_averages_models_and_control_terms(run: Run) -> None:
    controller = moved("app_common.workflows.scaffold").Scaffold(num_clients=2, num_rounds=2)
    seen: list[Any] = []

    def site(delta: float) -> Executor:
        def train(task: Shareable) -> Shareable:
            dxo = from_shareable(task)
            seen.append(np.asarray(dxo.meta["scaffold_c_global"]["numpy_key"]).tolist())
            meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1, "scaffold_c_diff": {"numpy_key": np.full((2, 2), delta)}}
            return DXO(DataKind.WEIGHTS, {"numpy_key": dxo.data["numpy_key"] + delta}, meta).to_shareable()

        return Answering(train)

    run(controller, site(1.0), site(3.0), {"persistor": persistor()})
    assert run.model() == plus(4)
    # zero in the first round, the mean of 1 and 3 in the second
    assert sorted(seen) == [[[0.0, 0.0]] * 2] * 2 + [[[2.0, 2.0]] * 2] * 2


def test_a_learner_trains_through_the_learner_executor(run: Run) -> None:
    base = moved("app_common.abstract.learner_spec").Learner
    executor = moved("app_common.executors.learner_executor").LearnerExecutor

    class Adding(base):  # type: ignore[misc, valid-type]
        def __init__(self, delta: float) -> None:
            super().__init__()
            self.delta = delta
            self.finalized = False

        def train(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
            dxo = from_shareable(data)
            return DXO(DataKind.WEIGHTS, {"numpy_key": dxo.data["numpy_key"] + self.delta}).to_shareable()

        def finalize(self, fl_ctx: FLContext) -> None:
            self.finalized = True

    learners = [Adding(1), Adding(3)]
    controller = moved("app_common.workflows.fedavg").FedAvg(num_clients=2, num_rounds=2)
    run(
        controller,
        executor("learner"),
        executor("learner"),
        {"persistor": persistor()},
        **{str(n): {"learner": learner} for n, learner in enumerate(learners, 1)},
    )
    assert run.model() == plus(4)
    assert [learner.finalized for learner in learners] == [True, True]


def test_a_model_learner_trains_through_the_model_learner_executor(run: Run) -> None:
    base = moved("app_common.abstract.model_learner").ModelLearner
    model = moved("app_common.abstract.fl_model").FLModel
    executor = moved("app_common.executors.model_learner_executor").ModelLearnerExecutor

    class Adding(base):  # type: ignore[misc, valid-type]
        def __init__(self, delta: float) -> None:
            super().__init__()
            self.delta = delta

        def train(self, given: Any) -> Any:
            return model(params={"numpy_key": given.params["numpy_key"] + self.delta})

        def validate(self, given: Any) -> Any:
            return model(metrics={"accuracy": 1.0})

    with warnings.catch_warnings(record=True):  # NVFlare calls it deprecated
        learners = [Adding(1), Adding(3)]
    controller = moved("app_common.workflows.fedavg").FedAvg(num_clients=2, num_rounds=2)
    run(
        controller,
        executor("learner"),
        executor("learner"),
        {"persistor": persistor()},
        **{"1": {"learner": learners[0]}, "2": {"learner": learners[1]}},
    )
    assert run.model() == plus(4)


def test_statistics_are_gathered(run: Run) -> None:
    writer_base = moved("app_common.abstract.statistics_writer").StatisticsWriter
    spec = moved("app_common.abstract.statistics_spec")
    written: dict[str, Any] = {}

    class Writer(writer_base):  # type: ignore[misc, valid-type]
        def save(self, data: dict[str, Any], overwrite_existing: bool, fl_ctx: FLContext) -> None:
            written.update(data)

    class Table(spec.Statistics):  # type: ignore[misc, name-defined]
        def __init__(self, values: list[float]) -> None:
            super().__init__()
            self.values = values

        def features(self) -> dict[str, Any]:
            return {"train": [spec.Feature("age", spec.DataType.FLOAT)]}

        def count(self, dataset_name: str, feature_name: str) -> int:
            return len(self.values)

        def sum(self, dataset_name: str, feature_name: str) -> float:
            return sum(self.values)

    module = moved("app_common.workflows.statistics_controller")
    controller = module.StatisticsController({"count": {}, "sum": {}}, "writer", wait_time_after_min_received=0)
    executor = moved("app_common.executors.statistics.statistics_executor").StatisticsExecutor
    run(
        controller,
        executor("table"),
        executor("table"),
        {"writer": Writer()},
        **{"1": {"table": Table([20.0, 40.0])}, "2": {"table": Table([60.0])}},
    )
    assert written["age"]["count"]["Global"]["train"] == 3
    assert written["age"]["sum"]["Global"]["train"] == 120


#: Modules of NVFlare that the page lists as missing, and the name that each does not find.
MISSING = [
    ("app_common.psi.psi_controller", "PSIConst"),
    ("app_common.ccwf.swarm_server_ctl", "redflare_workers.apis.impl"),
    ("app_common.ccwf.swarm_client_ctl", "redflare_workers.apis.impl"),
    ("app_common.ccwf.cyclic_server_ctl", "redflare_workers.apis.impl"),
    ("app_common.ccwf.cse_server_ctl", "redflare_workers.apis.impl"),
    ("app_common.executors.client_api_executor", "redflare_workers.apis.analytix"),
    ("app_opt.xgboost.histogram_based_v2.controller", "redflare_workers.apis.analytix"),
    ("app_common.filters.exclude_vars", "redflare_workers.apis.dxo_filter"),
    ("app_common.widgets.event_recorder", "redflare_workers.apis.client_engine_spec"),
    ("app_common.job_launcher.process_launcher", "redflare_workers.apis.job_launcher_spec"),
]


@pytest.mark.parametrize(("module", "lacks"), MISSING)
def test_modules_that_the_page_lists_as_missing_fail_at_import(module: str, lacks: str) -> None:
    with pytest.raises(ImportError, match=lacks):
        moved(module)


def test_every_class_that_the_page_names_is_run_here() -> None:
    table = (DOCS / "from-nvflare.md").read_text().partition("### NVFlare's own classes")[2].partition("###")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"ModelController"}
    assert len(named) == 21
    used = Path(__file__).read_text()
    assert [name for name in sorted(named) if f").{name}" not in used and f".{name}(" not in used] == []
