"""A job is checked as a whole: all errors are reported together, with file and key, and no code is run."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from redflare_workers.jobs import ArchiveError, JobProblems, define_job, read_files, read_job
from redflare_workers.jobs.app_config import AppConfig, parse_side
from redflare_workers.jobs.job_folder import JobDefinition
from redflare_workers.jobs.job_meta import JobMeta
from redflare_workers.simulator.site_process import SiteProcess

from tests.support.job.files import CLIENT, FEDAVG, META, SERVER, files_of


def problems_of(files: dict[str, bytes]) -> list[str]:
    with pytest.raises(JobProblems) as caught:
        define_job(files)
    return [str(problem) for problem in caught.value.problems]


def on_disk(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_a_folder_its_zip_and_the_bytes_give_the_same_job(tmp_path: Path) -> None:
    folder = on_disk(tmp_path / "means", files_of(custom={"net.py": "x = 1"}))
    on_disk(folder / "app/custom/__pycache__", {"net.cpython-311.pyc": b"x"})
    inside = shutil.make_archive(str(tmp_path / "inside"), "zip", folder)
    around = shutil.make_archive(str(tmp_path / "around"), "zip", tmp_path, "means")
    job = read_job(folder)
    for source in (inside, Path(around), Path(around).read_bytes(), job.archive()):
        assert read_job(source) == job
        assert read_job(source).archive() == job.archive()
    assert set(job.files) == {*files_of(), "app/custom/net.py"}


def test_an_app_is_packed_by_itself() -> None:
    job = define_job(files_of())
    assert set(read_files(job.app_archive("app"))) == {
        "config/config_fed_client.json",
        "config/config_fed_server.json",
    }
    with pytest.raises(KeyError, match="no app 'other'"):
        job.app_archive("other")


def test_the_agents_that_executors_name_are_known_by_app() -> None:
    inner = {"path": "mine.Wrapping", "args": {"inside": [{"name": "IPCExchanger", "args": {"agent_id": "gpu-2"}}]}}
    executors = [
        {"tasks": ["train"], "executor": {"name": "IPCExchanger", "args": {"agent_id": "gpu-1"}}},
        {"tasks": ["other"], "executor": inner},
        {"tasks": ["last"], "executor": {"name": "IPCExchanger"}},
    ]
    config = {"format_version": 2, "executors": executors}
    side, problems, _ = parse_side(config, "config_fed_client.json", server=False)
    assert problems == []
    files = {"app": AppConfig(name="app", client=side), "plain": AppConfig(name="plain")}
    assert JobDefinition(meta=JobMeta(name="means"), apps=files, files={}).agents == {"app": ["gpu-1", "gpu-2"]}


def test_configs_may_be_yaml_or_toml() -> None:
    files = files_of()
    del files["meta.json"], files["app/config/config_fed_client.json"]
    files["meta.toml"] = b'name = "means"\n[deploy_map]\napp = ["@ALL"]\n'
    files["app/config/config_fed_client.yaml"] = (
        b"format_version: 2\nexecutors:\n- tasks: ['*']\n  executor: {name: IPCExchanger}\n"
    )
    job = define_job(files)
    assert job.apps["app"].client is not None
    assert job.apps["app"].client.executors[0].tasks == ("*",)


def test_all_errors_are_reported_together() -> None:
    server = {
        "format_version": 1,
        "workflows": [
            {"path": "redflare_workers.workflow.FedAg", "args": {}},
            {
                "path": "redflare_workers.workflow.FedAvg",
                "args": {"initial_model": {}, "num_round": 3, "min_clients": 1},
            },
            {"path": "FedAvg"},
            {"pth": "x.Y"},
        ],
        "componets": [],
    }
    client = {
        "format_version": 2,
        "executors": [
            {"tasks": [], "executor": {"path": "redflare_workers.workflow.FedAvg", "args": FEDAVG["args"]}},
            {"tasks": ["train"], "executor": {"path": "net.Trainer"}},
            {"tasks": ["train"], "executor": {"path": "nets.Trainer"}},
        ],
        "components": [{"path": "net.Missing"}],
        "task_result_filters": [{"tasks": ["train"], "direction": "in", "filters": [{"path": "broken.Filter"}]}],
    }
    custom = {"net.py": "class Trainer(Executor): ...\n", "broken.py": "class Filter\n", "json.py": ""}
    found = problems_of(files_of({**META, "min_clients": 0}, server, client, custom))
    server_file, client_file = "app/config/config_fed_server.json", "app/config/config_fed_client.json"
    assert found == [
        "meta.json: min_clients: must be a whole number from 1 to 1000000, but is 0",
        f"{server_file}: format_version: must be 2, but is 1",
        f"{server_file}: componets: is not known; did you mean 'components'?",
        f"{server_file}: workflows[3].pth: is not known here; did you mean 'path'?",
        f'{server_file}: workflows[3].path: is missing; name the class, like "redflare_workers.workflow.FedAvg"',
        f'{client_file}: executors[0].tasks: must be a list of names of tasks, or ["*"] for all, but is []',
        f"{client_file}: executors[2].tasks: 'train' has an executor already",
        f"{client_file}: components[0].id: must be a text that others refer to it by, but is None",
        f"{client_file}: task_result_filters[0].direction: is 'in', where nothing passes; here it is 'out'",
        f"{server_file}: workflows[0]: module redflare_workers.workflow has no 'FedAg'; did you mean 'FedAvg'?",
        f"{server_file}: workflows[1].args.num_round: is not an argument of FedAvg, which takes 'evaluate', "
        "'initial_model', 'metric', 'min_clients', 'num_rounds', 'resume', 'save_dir', 'smaller_is_better', "
        "'task_name', 'timeout', 'wait_time_after_min_received'; did you mean 'num_rounds'?",
        f"{server_file}: workflows[1].args: FedAvg needs 'num_rounds' too",
        f"{server_file}: workflows[2]: path must be a module and a class with a dot between them, but is 'FedAvg'",
        f"{client_file}: executors[0].executor: redflare_workers.workflow.FedAvg must be of type Executor",
        f"{client_file}: task_result_filters[0].filters[0].path: app/custom/broken.py, line 1: expected ':'",
        "app/custom/json: has the name of a module that others need; rename it",
    ]


def test_the_error_is_a_list_that_can_be_read() -> None:
    with pytest.raises(JobProblems) as caught:
        define_job(files_of({**META, "name": "", "min_clients": 0}), "job means")
    assert str(caught.value).splitlines() == [
        "job means has 2 errors:",
        "  meta.json: name: must be a text of 1 to 200 characters, but is ''",
        "  meta.json: min_clients: must be a whole number from 1 to 1000000, but is 0",
    ]
    assert not caught.value.unsafe


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("meta.json", "meta.json: is missing"),
        ("app/config/config_fed_server.json", "app/config/config_fed_server.json: is missing"),
        ("app/config/config_fed_client.json", "app/config/config_fed_client.json: is missing"),
    ],
)
def test_a_missing_file_is_an_error(missing: str, expected: str) -> None:
    assert problems_of({path: data for path, data in files_of().items() if path != missing}) == [expected]


def test_an_app_needs_only_the_config_of_its_side() -> None:
    files = {
        "meta.json": json.dumps({**META, "deploy_map": {"main": ["server"], "sites": ["@ALL"]}}).encode(),
        "main/config/config_fed_server.json": json.dumps(SERVER).encode(),
        "sites/config/config_fed_client.json": json.dumps(CLIENT).encode(),
    }
    job = define_job(files)
    assert (job.apps["main"].client, job.apps["sites"].server) == (None, None)


def test_an_app_without_a_folder_is_an_error_and_a_folder_without_an_app_a_warning() -> None:
    files = files_of({**META, "deploy_map": {"ap": ["@ALL"]}})
    assert problems_of(files) == ["ap: is in the deploy map, but the job has no such folder"]
    job = define_job({**files_of(), "data/x.csv": b"1"})
    assert [str(warning) for warning in job.warnings] == ["data: is not an app of the deploy map and has no effect"]


def test_a_link_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = on_disk(tmp_path / "means", files_of())
    (folder / "app/custom").symlink_to("/etc")
    with pytest.raises(JobProblems, match="app/custom: is neither a file nor a folder"):
        read_job(folder)


def test_a_folder_that_is_too_large_is_refused(tmp_path: Path) -> None:
    folder = on_disk(tmp_path / "means", files_of())
    with pytest.raises(ArchiveError, match="more than 2 files"):
        read_job(folder, max_files=2)
    with pytest.raises(ArchiveError, match="more than 100 bytes"):
        read_job(folder, max_bytes=100)


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_job(tmp_path / "nothing")


def test_a_job_is_read_without_running_its_code() -> None:
    custom = {"net.py": "raise SystemExit\nclass Trainer(Executor): ...\n"}
    client = {"format_version": 2, "executors": [{"tasks": ["*"], "executor": {"path": "net.Trainer"}}]}
    define_job(files_of(client=client, custom=custom))
    assert "net" not in sys.modules


def test_a_class_that_custom_code_lacks_is_an_error() -> None:
    client = {"format_version": 2, "executors": [{"tasks": ["*"], "executor": {"path": "net.Trainr"}}]}
    assert problems_of(files_of(client=client, custom={"net.py": "class Trainer: ..."})) == [
        "app/config/config_fed_client.json: executors[0].executor.path: app/custom/net.py has no 'Trainr'; "
        "did you mean 'Trainer'?"
    ]


def test_what_the_site_sets_is_no_argument_for_a_job() -> None:
    exchanger = {"name": "IPCExchanger", "args": {"redis_url": "redis://elsewhere", "agent_id": "trainer"}}
    client = {"format_version": 2, "executors": [{"tasks": ["*"], "executor": exchanger}]}
    assert problems_of(files_of(client=client)) == [
        "app/config/config_fed_client.json: executors[0].executor.args.redis_url: is set by the site, not by a job; "
        "leave it out"
    ]


def test_ids_are_unique_and_references_lead_to_components_before() -> None:
    store = {"path": "redflare_workers.workflow.ModelStore"}
    server = {
        **SERVER,
        "workflows": [{**FEDAVG, "id": "a"}, {**FEDAVG, "id": "a"}],
        "components": [
            {**store, "id": "b", "args": {"folder": {"component_id": "c"}}},
            {**store, "id": "c", "args": {"folder": {"component_id": "b"}}},
        ],
    }
    assert problems_of(files_of(server=server)) == [
        "app/config/config_fed_server.json: workflows[1].id: 'a' is already the id of workflows[0]",
        "app/config/config_fed_server.json: components[0].args.folder: there is no component 'c' before this one",
    ]


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"num_rounds": "three"}, ".args.num_rounds: must be a whole number, but is 'three'"),
        ({"num_rounds": 0}, ".args.num_rounds: must be at least 1, but is 0"),
        ({"metric": 3}, ".args.metric: must be a text or null, but is 3"),
        ({"resume": None}, ".args.resume: must be true or false, but is null"),
        ({"evaluate": "mine.measure"}, ".args.evaluate: must be a component or null, but is 'mine.measure'"),
    ],
)
def test_an_argument_of_another_type_or_value_is_an_error(args: dict[str, object], problem: str) -> None:
    server = {**SERVER, "workflows": [{**FEDAVG, "args": {**FEDAVG["args"], **args}}]}
    assert problems_of(files_of(server=server)) == [f"app/config/config_fed_server.json: workflows[0]{problem}"]


def test_values_that_a_constructor_refuses_are_reported_with_all_other_errors() -> None:
    cyclic = {"name": "Cyclic", "args": {"initial_model": {"w": [0.0]}, "order": "random?"}}
    exchanger = {"name": "IPCExchanger", "args": {"agent_id": 7, "agent_heartbeat_interval": "often"}}
    client = {"format_version": 2, "executors": [{"tasks": ["train"], "executor": exchanger}]}
    cyclic_problem, agent, interval = problems_of(files_of(server={**SERVER, "workflows": [cyclic]}, client=client))
    assert cyclic_problem.startswith("app/config/config_fed_server.json: workflows[0].args.order: must be one of")
    assert agent.endswith("executor.args.agent_id: must be a text or null, but is 7")
    assert interval.endswith("executor.args.agent_heartbeat_interval: must be a number, but is 'often'")


def test_a_check_calls_no_constructor_but_those_of_components_that_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(SiteProcess, "__init__", lambda self, *args, **more: called.append(self))
    process = {"id": "process", "path": "redflare_workers.simulator.site_process.SiteProcess", "args": {}}
    with contextlib.suppress(JobProblems):
        define_job(files_of(server={**SERVER, "components": [process]}))
    assert called == []


def test_the_workspace_in_which_a_job_is_checked_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comm_config.json").write_text("no JSON")
    monkeypatch.chdir(tmp_path)
    assert define_job(files_of()).warnings == ()


def test_components_that_are_installed_where_a_job_is_submitted_are_checked_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib_of_mine.py").write_text("class Part:\n    def __init__(self, size: int = 3): ...\n")
    (tmp_path / "broken_lib.py").write_text("raise OSError")
    monkeypatch.syspath_prepend(str(tmp_path))
    parts = [
        {"id": "a", "path": "lib_of_mine.Part", "args": {"size": "big"}},
        {"id": "b", "path": "lib_of_mine.Part", "args": {"sice": 3}},
        {"id": "c", "path": "broken_lib.Part", "args": {"size": "big"}},
        {"id": "d", "path": "only_at_the_sites.Part", "args": {"size": "big"}},
        {"id": "e", "path": "mine.Part", "args": {"size": "big"}},
        {"id": "f", "path": "lib_of_mine.Parts"},
    ]
    files = files_of(server={**SERVER, "components": parts}, custom={"mine.py": "raise OSError\nclass Part: ..."})

    assert define_job(files).warnings == ()
    assert "lib_of_mine" not in sys.modules
    with pytest.raises(JobProblems) as caught:
        define_job(files, installed=True)
    del sys.modules["lib_of_mine"]
    assert [(problem.key, problem.text) for problem in caught.value.problems] == [
        ("components[0].args.size", "must be a whole number, but is 'big'"),
        ("components[1].args.sice", "is not an argument of Part, which takes 'size'; did you mean 'size'?"),
        ("components[5]", "module lib_of_mine has no 'Parts'; did you mean 'Part'?"),
    ]
    assert "mine" not in sys.modules


def test_what_is_no_executor_is_seen_where_a_job_is_submitted() -> None:
    executors = [
        {"tasks": ["train"], "executor": {"path": "subprocess.Popen", "args": {"args": "true"}}},
        {"tasks": ["validate"], "executor": {"path": "net.Trainer"}},
        {"tasks": ["more"], "executor": {"path": "net.Other"}},
    ]
    custom = {"net.py": "class Trainer: ...\nclass Other(Trainer): ..."}
    filters = [{"tasks": ["train"], "filters": [{"path": "collections.OrderedDict"}]}]
    client = {"format_version": 2, "executors": executors, "task_result_filters": filters}

    with pytest.raises(JobProblems) as caught:
        define_job(files_of(client=client, custom=custom), installed=True)

    assert [(problem.key, problem.text) for problem in caught.value.problems] == [
        ("executors[0].executor", "subprocess.Popen must be of type Executor"),
        ("executors[1].executor", "net.Trainer must be of type Executor, but has no base class"),
        ("task_result_filters[0].filters[0]", "collections.OrderedDict must be of type Filter"),
    ]


CUSTOM = """
import dataclasses
from redflare_workers import Executor

class Trainer(Executor):
    def __init__(self, rate, *, rounds=3): raise SystemExit

class Open(Trainer):
    def __init__(self, rate, **more): ...

class Inherits(Trainer): ...

@dataclasses.dataclass
class Data(Executor):
    size: int

def made(size): ...

if True:
    class Either(Executor):
        def __init__(self, size): ...
"""


@pytest.mark.parametrize(
    ("name", "args", "found"),
    [
        ("Trainer", {"rate": 1, "rounds": 2}, {}),
        ("Trainer", {"rounds": 2}, {"": "Trainer needs 'rate' too"}),
        (
            "Trainer",
            {"rate": 1, "round": 2},
            {".round": "is not an argument of Trainer, which takes 'rate', 'rounds'; did you mean 'rounds'?"},
        ),
        ("Trainer", {"rate": 1, "self": 2}, {".self": "is not an argument of Trainer, which takes 'rate', 'rounds'"}),
        ("Open", {"rate": 1, "any": 2}, {}),
        ("Open", {"any": 2}, {"": "Open needs 'rate' too"}),
        ("Inherits", {"any": 2}, {}),
        ("Data", {"any": 2}, {}),
        ("made", {}, {"": "made needs 'size' too"}),
        ("Either", {"any": 2}, {}),
    ],
)
def test_arguments_of_code_that_a_job_brings_are_compared_without_running_it(
    name: str, args: dict[str, object], found: dict[str, str]
) -> None:
    executor = {"path": f"net.{name}", "args": args}
    client = {"format_version": 2, "executors": [{"tasks": ["train"], "executor": executor}]}
    file = "app/config/config_fed_client.json"
    expected = [f"{file}: executors[0].executor.args{key}: {text}" for key, text in found.items()]
    files = files_of(client=client, custom={"net.py": CUSTOM})

    assert (problems_of(files) if expected else [*define_job(files).warnings]) == expected
    assert "net" not in sys.modules


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("app_server/model.npz", ""),
        ("./app_server/model.npz", ""),
        ("{JOB_CONFIG_DIR}/start.npz", ""),
        ("{WORKSPACE}/models/start.npz", ""),
        ("/models/start.npz", ""),
        ("app_server/modle.npz", "the app has no file 'modle.npz'; did you mean 'model.npz'?"),
        ("{JOB_CONFIG_DIR}/other", "the app has no file 'config/other'"),
        ("{JOB_CUSTOM_DIR}/start.npz", "the app has no file 'custom/start.npz'; did you mean 'config/start.npz'?"),
        (
            "model.npz",
            "'model.npz' is in no folder of this job; a file of the app is named like app_server/model.npz",
        ),
        ("other", "'other' is in no folder of this job; a file of the app is named like app_server/config/model.npz"),
    ],
)
def test_a_file_that_a_workflow_reads_must_be_in_the_job(path: str, found: str) -> None:
    workflow = {**FEDAVG, "args": {**FEDAVG["args"], "initial_model": path}}
    files = files_of(server={**SERVER, "workflows": [workflow]})
    files |= {"app/model.npz": b"", "app/config/start.npz": b""}
    key = "app/config/config_fed_server.json: workflows[0].args.initial_model"

    assert (problems_of(files) if found else []) == ([f"{key}: {found}"] if found else [])
    if not found:
        define_job(files)


def test_a_file_may_be_made_by_an_earlier_workflow() -> None:
    scores = {
        "path": "redflare_workers.workflow.CrossSiteEval",
        "args": {"server_models": {"new": "models/new.npz", "old": "app_server/old.npz"}},
    }
    files = files_of(server={**SERVER, "workflows": [FEDAVG, scores]})

    assert problems_of(files) == [
        "app/config/config_fed_server.json: workflows[1].args.server_models: the app has no file 'old.npz'"
    ]


def test_a_placeholder_that_names_nothing_is_one_error() -> None:
    workflow = {**FEDAVG, "args": {**FEDAVG["args"], "num_rounds": "{rounds}"}}
    [error] = problems_of(files_of(server={**SERVER, "workflows": [workflow], "round": 3}))
    assert "workflows[0].args.num_rounds: '{rounds}' names no value of the top level; did you mean 'round'?" in error
