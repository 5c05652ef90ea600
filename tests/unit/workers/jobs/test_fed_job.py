"""A job written in Python equals the job in its exported folder."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from redflare_workers.ipc.exchanger import IPCExchanger
from redflare_workers.jobs import (
    Component,
    ComponentBuilder,
    FedJob,
    JobProblems,
    build_client_app,
    build_server_app,
    read_job,
    safe_extract,
)
from redflare_workers.workflow import FedAvg, ModelStore

OWN = """
from redflare_workers import Executor, Filter
from own_parts.nets import make

class Trainer(Executor):
    def __init__(self, rate, model=None):
        super().__init__()
        self.rate, self.model = rate, model

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        return shareable

class Rounding(Filter):
    def process(self, shareable, fl_ctx):
        return shareable
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module and a package of a user, which are not installed."""
    folder = tmp_path / "users"
    (folder / "own_parts" / "nets").mkdir(parents=True)
    (folder / "own_trainer.py").write_text(OWN)
    (folder / "own_parts" / "__init__.py").write_text("")
    (folder / "own_parts" / "nets" / "__init__.py").write_text("def make(size):\n    return [0.0] * size\n")
    monkeypatch.syspath_prepend(str(folder))
    path = list(sys.path)
    yield importlib.import_module("own_trainer")
    sys.path[:] = path
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def means(**options: Any) -> FedJob:
    job = FedJob("means", min_clients=2, **options)
    job.to_server(FedJob.component(FedAvg, initial_model={"w": [0.0]}, min_clients=2, num_rounds=3))
    job.to_clients(IPCExchanger, tasks=["train"])
    return job


def test_a_few_lines_make_a_job(tmp_path: Path) -> None:
    folder = means(agent_id="trainer", mandatory_clients=["site-1"], resource_spec={"@ALL": {"gpus": 1}}).export(
        tmp_path / "jobs" / "means"
    )
    job = read_job(folder)
    assert job.meta.to_dict() == {
        "name": "means",
        "min_clients": 2,
        "mandatory_clients": ["site-1"],
        "deploy_map": {"app": ["@ALL"]},
        "agent_id": "trainer",
        "resource_spec": {"@ALL": {"gpus": 1}},
    }
    assert json.loads((folder / "app/config/config_fed_client.json").read_text()) == {
        "format_version": 2,
        "executors": [{"tasks": ["train"], "executor": {"path": "redflare_workers.IPCExchanger"}}],
    }
    assert os.listdir(tmp_path / "jobs") == ["means"]


def test_a_folder_the_archive_and_the_job_are_one(tmp_path: Path) -> None:
    job = means()
    read = read_job(job.export_job(tmp_path))
    assert read == read_job(job.archive()) == job.definition()
    assert read.archive() == job.archive()


def test_what_was_put_in_is_built_of_it(tmp_path: Path) -> None:
    safe_extract(means().definition().app_archive("app"), tmp_path / "app")
    controller = build_server_app(tmp_path / "app", ComponentBuilder()).controllers["FedAvg"]
    assert isinstance(controller, FedAvg)
    assert controller.num_rounds == 3
    assert list(build_client_app(tmp_path / "app", ComponentBuilder()).executors) == ["train"]


def test_sites_may_have_parts_of_their_own() -> None:
    job = means()
    job.to(IPCExchanger, "site-7", tasks=["train"])
    definition = job.definition()
    assert dict(definition.meta.deploy_map) == {
        "app_server": ("server",),
        "app_clients": ("@ALL",),
        "app_site-7": ("site-7",),
    }
    assert {app: (each.server is not None, each.client is not None) for app, each in definition.apps.items()} == {
        "app_server": (True, False),
        "app_clients": (False, True),
        "app_site-7": (False, True),
    }


def test_code_of_the_user_travels_along(own: Any, tmp_path: Path) -> None:
    job = FedJob("own", min_clients=1)
    job.to_server(FedJob.component(FedAvg, initial_model={}, min_clients=1, num_rounds=1))
    nets = importlib.import_module("own_parts.nets")
    job.to_clients(FedJob.component(own.Trainer, rate=0.5, model=FedJob.component(nets.make, size=2)))
    job.to_clients(own.Rounding, tasks=["train"])
    job.to_clients(own.Rounding, tasks=["train"], filter_type="task_data")
    definition = job.definition()
    assert [path for path in sorted(definition.files) if "/custom/" in path] == [
        "app/custom/own_parts/__init__.py",
        "app/custom/own_parts/nets/__init__.py",
        "app/custom/own_trainer.py",
    ]
    safe_extract(definition.app_archive("app"), tmp_path / "run" / "app")
    forget()
    app = build_client_app(tmp_path / "run" / "app", ComponentBuilder(allow_custom=True))
    trainer: Any = app.executors["*"]
    assert (trainer.rate, trainer.model) == (0.5, [0.0, 0.0])
    assert sys.modules["own_trainer"].__file__ == str(tmp_path / "run/app/custom/own_trainer.py")
    assert (len(app.task_filters), len(app.result_filters)) == (1, 1)


def test_further_modules_can_be_sent_along(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("x = 1")
    job = means()
    job.add_custom(tmp_path / "helpers.py")
    assert job.definition().files["app/custom/helpers.py"] == b"x = 1"


def test_an_export_replaces_a_job_and_nothing_else(tmp_path: Path) -> None:
    means().export(tmp_path / "means")
    (tmp_path / "means" / "old.txt").write_text("old")
    means().export(tmp_path / "means")
    assert not (tmp_path / "means" / "old.txt").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="exists and is not a job"):
        means().export(tmp_path / "home")
    assert sorted(os.listdir(tmp_path)) == ["home", "means"]


def test_a_job_with_errors_is_not_exported(tmp_path: Path) -> None:
    job = FedJob("", min_clients=0)
    job.to_server(FedJob.component(FedAvg, initial_model={}))
    with pytest.raises(JobProblems) as caught:
        job.export(tmp_path / "means")
    assert [f"{problem.file}: {problem.key}" for problem in caught.value.problems] == [
        "meta.json: name",
        "meta.json: min_clients",
        "app_server/config/config_fed_server.json: workflows[0].args",
    ]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("component", "target", "options", "error", "text"),
    [
        (FedJob.component(FedAvg), "@ALL", {}, ValueError, "is for the server, but its target is '@ALL'"),
        (IPCExchanger, "server", {}, ValueError, "is for sites, but its target is 'server'"),
        (IPCExchanger, "site.1", {}, ValueError, "target 'site.1' is not legal"),
        (ModelStore, "server", {}, ValueError, "is not a controller, executor or filter: give it an id"),
        (IPCExchanger(), "@ALL", {}, TypeError, r"use FedJob\.component\(IPCExchanger, \.\.\.\)"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_put_in_the_wrong_place_is_refused(
    component: Any, target: str, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        FedJob("x").to(component, target, **options)


class _Inner:
    class Deep:
        pass


@pytest.mark.parametrize("maker", [lambda: None, _Inner.Deep, 7, type("Main", (), {"__module__": "__main__"})])
def test_what_a_site_could_not_name_is_refused(maker: Any) -> None:
    with pytest.raises(TypeError):
        FedJob.component(maker)


def test_arguments_are_held_against_the_constructor() -> None:
    with pytest.raises(TypeError, match="FedAvg: got an unexpected keyword argument 'num_round'"):
        FedJob.component(FedAvg, num_round=3)


def test_an_argument_that_json_cannot_hold_is_reported_with_its_place() -> None:
    job = FedJob("x")
    job.to_server(FedJob.component(FedAvg, initial_model={"w": np.zeros(3)}, min_clients=1, num_rounds=1))
    job.to_clients(IPCExchanger)
    with pytest.raises(TypeError, match=r"FedAvg\(initial_model=\.\.\.\) is a ndarray, which a job's JSON cannot hold"):
        job.definition()


def test_a_component_has_the_exported_class_path() -> None:
    assert Component(FedAvg).path == "redflare_workers.workflow.FedAvg"
