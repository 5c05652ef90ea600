"""How a site builds the app of a job, and what it refuses before it is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redflare_workers import Executor, FLContext, Shareable
from redflare_workers.engine.run_engine import RunEngine
from redflare_workers.ipc.exchanger import IPCExchanger
from redflare_workers.jobs import (
    SHIPPED,
    ComponentBuilder,
    JobProblems,
    build_client_app,
    build_server_app,
    pack_files,
    safe_extract,
)
from redflare_workers.workflow import FedAvg, ModelStore

from tests.support.job.files import CLIENT, META, SERVER, files_of

TRAINER = """
from redflare_workers import Executor, Filter

class Trainer(Executor):
    def __init__(self, rate=0.1, parts=(), model=None, names=None):
        super().__init__()
        self.rate, self.parts, self.model, self.names = rate, parts, model, names

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        return shareable

class Marking(Filter):
    def process(self, shareable, fl_ctx):
        shareable["marked"] = True
        return shareable

class Listening(Filter):
    def __init__(self, part=None):
        self.part, self.heard = part, []
        self.register_event_handler("a", lambda event, fl_ctx: self.heard.append(event))

    def process(self, shareable, fl_ctx):
        return shareable

class Part:
    def __init__(self, size):
        self.size = size

def make_model(size):
    return {"w": [0.0] * size}

def fail():
    raise OSError("the disk is full")
"""


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if not name.startswith("redflare_"):
            del sys.modules[name]


def deployed(folder: Path, **parts: Any) -> Path:
    files = {path.removeprefix("app/"): data for path, data in files_of(META, **parts).items() if "/" in path}
    safe_extract(pack_files(files), folder / "app_site-1")
    return folder / "app_site-1"


def executor(path: str, **args: Any) -> dict[str, Any]:
    entry = {"tasks": ["train"], "executor": {"path": path, "args": args}}
    return {"format_version": 2, "executors": [entry]}


def refused(builder: ComponentBuilder, data: dict[str, Any]) -> JobProblems:
    with pytest.raises(JobProblems) as caught:
        builder.build(data)
    return caught.value


def test_a_server_app_is_built(tmp_path: Path) -> None:
    server = {**SERVER, "components": [{"id": "store", "name": "FedAvg", "disabled": True}]}
    app = build_server_app(deployed(tmp_path, server=server), ComponentBuilder())
    controller = app.controllers["FedAvg"]
    assert isinstance(controller, FedAvg)
    assert (controller.num_rounds, controller.min_clients, app.components) == (3, 2, {})


def test_workflows_keep_their_order_and_have_ids(tmp_path: Path) -> None:
    server = {**SERVER, "workflows": [SERVER["workflows"][0], {**SERVER["workflows"][0], "id": "second"}]}
    app = build_server_app(deployed(tmp_path, server=server), ComponentBuilder())
    assert list(app.controllers) == ["FedAvg", "second"]


def test_a_client_app_is_built_with_what_the_site_gives(tmp_path: Path) -> None:
    builder = ComponentBuilder(
        given={"redis_url": "redis://site:6379", "site_name": "site-1", "workspace_dir": tmp_path}
    )
    app = build_client_app(deployed(tmp_path), builder)
    exchanger = app.executors["train"]
    assert isinstance(exchanger, IPCExchanger)
    assert "site-1" in repr(exchanger)


def test_only_arguments_of_the_site_can_be_given() -> None:
    with pytest.raises(TypeError, match="has 'num_rounds'"):
        ComponentBuilder(given={"num_rounds": 3})


def test_custom_code_runs_where_it_is_admitted(tmp_path: Path) -> None:
    client = executor(
        "trainer.Trainer",
        rate="{rate}",
        parts=[{"path": "trainer.Part", "args": {"size": 1}}, {"component_id": "big"}],
        model={"path": "trainer.make_model", "args": {"size": 2}},
        names={"path": "of/a/file", "config_type": "dict"},
    )
    client |= {"rate": 0.5, "components": [{"id": "big", "path": "trainer.Part", "args": {"size": 9}}]}
    app = build_client_app(
        deployed(tmp_path, client=client, custom={"trainer.py": TRAINER}), ComponentBuilder(allow_custom=True)
    )
    trainer: Any = app.executors["train"]
    assert trainer.rate == 0.5
    assert [part.size for part in trainer.parts] == [1, 9]
    assert trainer.parts[1] is app.components["big"]
    assert (trainer.model, trainer.names) == ({"w": [0.0, 0.0]}, {"path": "of/a/file"})


def test_components_that_are_built_for_arguments_hear_events_whatever_holds_them(tmp_path: Path) -> None:
    listening = {"path": "trainer.Listening"}
    client = executor("trainer.Trainer", parts=[{"path": "trainer.Part", "args": {"size": listening}}], model=listening)
    marking = {"path": "trainer.Listening", "args": {"part": listening}}
    client |= {"task_data_filters": [{"tasks": ["train"], "filters": [marking]}]}
    app = build_client_app(
        deployed(tmp_path, client=client, custom={"trainer.py": TRAINER}), ComponentBuilder(allow_custom=True)
    )
    trainer: Any = app.executors["train"]
    within = [trainer.parts[0].size, trainer.model, app.task_filters[0].inner, app.task_filters[0].inner.part]  # type: ignore[attr-defined]
    assert list(app.inner.values()) == [within[0], within[1], within[3]]
    parts: dict[str, object] = {"executor": trainer, "filter": app.task_filters[0]}
    engine = RunEngine("site-1", "job-1", {}, "CJ", {**app.inner, **parts})
    with engine.new_context() as fl_ctx:
        engine.fire_event("a", fl_ctx)
    assert [each.heard for each in within] == [["a"]] * 4


def test_custom_code_is_not_imported_where_it_is_not_admitted(tmp_path: Path) -> None:
    app = deployed(tmp_path, client=executor("trainer.Trainer"), custom={"trainer.py": "raise SystemExit"})
    with pytest.raises(JobProblems, match="`allow_custom` in local") as caught:
        build_client_app(app, ComponentBuilder())
    assert caught.value.unsafe
    assert "trainer" not in sys.modules
    assert str(app / "custom") not in sys.path


@pytest.mark.parametrize("path", ["redflare_workers.IPCExchanger", "redflare_workers.ipc.exchanger.IPCExchanger"])
@pytest.mark.parametrize(
    "allow", [SHIPPED, ["redflare_workers.ipc.exchanger.*"], ["redflare_workers.IPCExchanger"], ["redflare_workers.*"]]
)
def test_a_class_is_admitted_by_the_path_it_is_exported_at_and_by_the_one_of_its_module(
    path: str, allow: Sequence[str]
) -> None:
    built = ComponentBuilder(allow).build({"path": path, "args": {"agent_id": "a"}})
    assert isinstance(built, IPCExchanger)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "redflare_workers.demo.watched_process.AgentProcess",
        "redflare_workers.cli.main",
        "redflare_workers.client.ClientJob",
        "redflare_workers.ClientJob",
        "redflare_workers.simulate",
        "redflare_workers.ipc.exchanger.LinkSettings",
        "redflare_broker.transport.server.Server",
    ],
)
def test_what_is_not_admitted_is_refused(path: str) -> None:
    before = set(sys.modules)
    error = refused(ComponentBuilder(), {"path": path, "args": {}})
    assert error.unsafe
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("redflare_workers.workflow.model_store.os", "not a class"),
        ("redflare_workers.workflow.model_store.save_model", "not a class"),
        ("redflare_workers.workflow.model_store.Path", "which is not allowed here"),
        ("redflare_workers.workflow.model_store.os.system", "there is no module"),
        ("redflare_workers.workflow.Controller", "is an abstract class; name a subclass"),
        ("redflare_workers.workflow.fedavg.__builtins__", "has a part that begins with __"),
        ("redflare_workers.workflow.fedavg.__loader__.load_module", "has a part that begins with __"),
        ("", "must be a module and a class"),
        ("os", "must be a module and a class"),
        ("..os.system", "must be a module and a class"),
    ],
)
def test_a_module_that_is_admitted_is_no_way_to_others(path: str, text: str) -> None:
    assert text in str(refused(ComponentBuilder(), {"path": path}))


def test_components_in_arguments_are_held_against_the_same_list() -> None:
    data = {"path": "redflare_workers.workflow.ModelStore", "args": {"folder": [[{"path": "os.getcwd"}]]}}
    problems = refused(ComponentBuilder(), data).problems
    assert [(problem.key, problem.unsafe) for problem in problems] == [
        ("args.folder[0][0].path", True),
        ("args.folder", False),
    ]


LIBRARY = """
import subprocess
from subprocess import Popen
from redflare_workers import Executor, job_component
from redflare_workers.workflow import ModelStore
from redflare_workers.simulator.site_process import SiteProcess

class Trainer(Executor):
    def execute(self, task_name, shareable, fl_ctx, abort_signal): ...
    def run(self, command): subprocess.run(command)

class Starter:
    def __init__(self, command): subprocess.run(command)

@job_component
class Part: ...

class Unmarked(Part): ...

@job_component
def make_model(size): return [0.0] * size

def run(command): subprocess.run(command)

starter = Trainer()
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is installed at the site."""
    (tmp_path / "mylib.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("pattern", ["mylib.*", "my*", "*"])
def test_a_pattern_reaches_components_and_what_is_marked(pattern: str) -> None:
    builder = ComponentBuilder([*SHIPPED, pattern])
    assert type(builder.build({"path": "mylib.Trainer"})).__name__ == "Trainer"
    assert type(builder.build({"path": "mylib.Part"})).__name__ == "Part"
    assert builder.build({"path": "mylib.make_model", "args": {"size": 2}}) == [0.0, 0.0]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("pattern", ["mylib.*", "*"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Starter", "mylib.Starter is no component, and a pattern of the allow-list reaches components only"),
        ("Unmarked", "mylib.Unmarked is no component"),
        ("run", "mylib.run is no component"),
        ("Popen", "mylib.Popen is "),
        ("subprocess", "is a module, not a class"),
        ("subprocess.Popen", "there is no module mylib.subprocess"),
        ("Trainer.run", "there is no module mylib.Trainer"),
        ("starter", "not a class"),
        ("SiteProcess", "which is not allowed here by another name"),
        (
            "ModelStore",
            "is redflare_workers.workflow.model_store.ModelStore, which is not allowed here by another name",
        ),
    ],
)
def test_a_pattern_reaches_nothing_else_of_the_modules_that_it_matches(pattern: str, name: str, text: str) -> None:
    error = refused(ComponentBuilder([*SHIPPED, pattern]), {"path": f"mylib.{name}", "args": {}})
    assert text in str(error)


@pytest.mark.usefixtures("library")
def test_a_component_in_an_argument_is_held_against_the_same_rule() -> None:
    inner = {"path": "mylib.Starter", "args": {"command": ["true"]}}
    data = {"path": "mylib.make_model", "args": {"size": [inner]}}
    error = refused(ComponentBuilder(["mylib.*"]), data)
    assert error.unsafe
    assert [problem.key for problem in error.problems] == ["args.size[0]"]


@pytest.mark.usefixtures("library")
def test_what_is_admitted_by_its_whole_name_need_not_be_a_component() -> None:
    builder = ComponentBuilder([*SHIPPED, "mylib.Unmarked", "fractions.Fraction"])
    assert type(builder.build({"path": "mylib.Unmarked"})).__name__ == "Unmarked"
    assert builder.build({"path": "fractions.Fraction", "args": {"numerator": 3}}) == 3
    assert refused(builder, {"path": "fractions.Decimal"}).unsafe


@pytest.mark.parametrize("pattern", ["redflare_workers.*", "redflare_*", "*"])
@pytest.mark.parametrize(
    "path",
    [
        "redflare_workers.simulator.site_process.SiteProcess",
        "redflare_workers.processes.job_process.JobProcess",
        "redflare_workers.demo.watched_process.AgentProcess",
        "redflare_workers.client.job.task_runner.TaskRunner",
        "redflare_workers.ClientEngine",
        "redflare_workers.simulate",
        "redflare_workers.ipc.exchanger.LinkSettings",
        "redflare_workers.apis.workspace.Workspace",
        "redflare_workers.workflow.best_model.BestModel",
    ],
)
def test_no_pattern_reaches_what_is_no_component_of_redflare(pattern: str, path: str) -> None:
    error = refused(ComponentBuilder([*SHIPPED, pattern]), {"path": path, "args": {}})
    assert error.unsafe, str(error)


def test_what_is_admitted_by_its_whole_name_may_be_defined_elsewhere() -> None:
    assert ComponentBuilder(["fractions.Decimal"]).build({"path": "fractions.Decimal"}) == 0


@pytest.mark.parametrize("path", ["/etc", "../elsewhere", "a/../../elsewhere"])
def test_paths_of_shipped_components_stay_in_the_folder_of_the_run(path: str, tmp_path: Path) -> None:
    data = {"path": "redflare_workers.workflow.ModelStore", "args": {"folder": path}}
    for builder in (ComponentBuilder(), ComponentBuilder(folder=tmp_path)):
        assert refused(builder, data).unsafe


def test_paths_of_shipped_components_start_from_the_folder_of_the_run(tmp_path: Path) -> None:
    for path in ("models", str(tmp_path / "models")):
        data = {"path": "redflare_workers.workflow.ModelStore", "args": {"folder": path}}
        store = ComponentBuilder(folder=tmp_path).build(data)
        assert isinstance(store, ModelStore)
        assert store.folder == tmp_path / "models"


def test_models_of_a_job_are_files_of_its_run(tmp_path: Path) -> None:
    data = {"name": "CrossSiteEval", "args": {"server_models": {"best": "app/best.npz"}}}
    built = ComponentBuilder(folder=tmp_path).build(data)
    assert built.server_models == {"best": str(tmp_path / "app/best.npz")}
    data = {"name": "CrossSiteEval", "args": {"server_models": {"best": "/etc/best.npz"}}}
    assert refused(ComponentBuilder(folder=tmp_path), data).unsafe


def test_a_link_is_no_way_out_of_the_folder_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to("/etc")
    data = {"path": "redflare_workers.workflow.ModelStore", "args": {"folder": "link"}}
    assert refused(ComponentBuilder(folder=tmp_path / "run"), data).unsafe


@pytest.mark.parametrize(
    ("source", "path", "text"),
    [
        (
            "import nothing_of_this_name",
            "trainer.Trainer",
            "ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        (
            "1 / 0\nclass Trainer(Executor): ...",
            "trainer.Trainer",
            "module trainer cannot be imported: ZeroDivisionError: division",
        ),
        ("class Trainer: ...", "trainer.Trainer", "trainer.Trainer must be of type Executor"),
        (TRAINER, "trainer.fail", "trainer.fail cannot be made: OSError: the disk is full"),
        (TRAINER + "\ndef make(): return 1", "trainer.make", "trainer.make made a int, not a Executor"),
        (TRAINER + "\ndef make(): make_model()", "trainer.make", "missing 1 required positional argument: 'size'"),
        (
            "import sys\nsys.exit(3)\nclass Trainer(_): ...",
            "trainer.Trainer",
            "cannot be imported: SystemExit: 3",
        ),
    ],
)
def test_an_error_in_custom_code_is_reported_with_its_cause(source: str, path: str, text: str, tmp_path: Path) -> None:
    names = "Trainer = None\n" if "class" not in source else ""
    app = deployed(tmp_path, client=executor(path), custom={"trainer.py": names + source})
    with pytest.raises(JobProblems) as caught:
        build_client_app(app, ComponentBuilder(allow_custom=True))
    (problem,) = caught.value.problems
    assert text in problem.text
    assert (problem.file, problem.key) == ("config/config_fed_client.json", "executors[0].executor")
    assert not caught.value.unsafe


def test_a_module_of_another_place_is_not_taken_for_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = deployed(tmp_path, client=executor("trainer.Trainer"), custom={"trainer.py": TRAINER})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "trainer.py").write_text(TRAINER)
    monkeypatch.syspath_prepend(str(elsewhere))
    __import__("trainer")
    with pytest.raises(JobProblems, match="is not the job's, but "):
        build_client_app(app, ComponentBuilder(allow_custom=True))


def test_run_variables_are_known_where_the_app_is_built(tmp_path: Path) -> None:
    client = executor("trainer.Trainer", rate="{JOB_ID}", names="{JOB_CONFIG_DIR}/{SITE_NAME}")
    app = deployed(tmp_path, client=client, custom={"trainer.py": TRAINER})
    variables = {"JOB_ID": "job-7", "SITE_NAME": "site-1"}
    trainer: Any = build_client_app(app, ComponentBuilder(allow_custom=True), variables=variables).executors["train"]
    assert (trainer.rate, trainer.names) == ("job-7", f"{app}/config/site-1")


def test_filters_are_for_their_tasks(tmp_path: Path) -> None:
    client = executor("trainer.Trainer")
    client["task_result_filters"] = [{"tasks": ["train*"], "filters": [{"path": "trainer.Marking"}]}]
    client["task_data_filters"] = [{"tasks": ["*"], "filters": [{"path": "trainer.Marking"}]}]
    app = build_client_app(
        deployed(tmp_path, client=client, custom={"trainer.py": TRAINER}), ComponentBuilder(allow_custom=True)
    )
    context = FLContext()
    for task, marked in (("train_more", True), ("validate", False)):
        context.set_prop("__task_name__", task, private=True, sticky=False)
        assert ("marked" in app.result_filters[0].process(Shareable(), context)) is marked
    assert [each.name for each in (*app.task_filters, *app.result_filters)] == ["Marking", "Marking"]


def test_an_app_without_its_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JobProblems, match=r"config/config_fed_server\.json: is missing"):
        build_server_app(tmp_path, ComponentBuilder())


def test_an_executor_for_many_tasks_is_one_object(tmp_path: Path) -> None:
    client = {**CLIENT, "executors": [{**CLIENT["executors"][0], "tasks": ["train", "validate"]}]}
    app = build_client_app(deployed(tmp_path, client=client), ComponentBuilder())
    assert isinstance(app.executors["train"], Executor)
    assert app.executors["train"] is app.executors["validate"]
