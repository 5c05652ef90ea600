"""Deployment at a site: what is accepted, what is refused, and that refused apps leave nothing behind."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.jobs import pack_files
from redflare_workers.workspace.site_settings import Site, SiteArgs, SiteSettings

from tests.support.federation.client_parents import JOB, META, SITE_1, app_of, client_config

CONFIG = "config/config_fed_client.json"
SHIPPED = json.dumps(client_config("redflare_workers.ipc.exchanger.IPCExchanger")).encode()
PLAIN = pack_files({CONFIG: SHIPPED})


def engine_in(workspace: Path, **settings: Any) -> ClientEngine:
    return ClientEngine(Site(name=SITE_1, settings=SiteSettings(**settings)), SiteArgs(workspace=workspace))


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def archive(name: str, mode: int = stat.S_IFREG | 0o644, data: bytes = b"x") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(CONFIG, SHIPPED)
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        made.writestr(info, data)
    return target.getvalue()


def test_an_app_is_laid_out_as_users_know_it(tmp_path: Path) -> None:
    engine = engine_in(tmp_path, allow_custom=True)
    assert engine.deploy_app("app", JOB, {**META, "agent_id": "a"}, SITE_1, app_of("Adding")) == ""
    run = tmp_path / JOB
    assert tree(tmp_path) == {
        f"{JOB}/{name}"
        for name in ("meta.json", "fl_app.txt", f"app_{SITE_1}/{CONFIG}", f"app_{SITE_1}/custom/mine.py")
    }
    assert (run / "fl_app.txt").read_text() == "app"
    assert json.loads((run / "meta.json").read_text())["agent_id"] == "a"


def test_a_run_is_for_its_owner_only(tmp_path: Path) -> None:
    assert engine_in(tmp_path).deploy_app("app", JOB, META, SITE_1, PLAIN) == ""
    assert {path for path in (tmp_path / JOB).rglob("*") if path.stat().st_mode & 0o077} == set()
    assert (tmp_path / JOB).stat().st_mode & 0o077 == 0


def test_an_earlier_run_is_replaced_as_a_whole(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    assert engine.deploy_app("app", JOB, META, SITE_1, PLAIN) == ""
    (tmp_path / JOB / "log.txt").write_text("of the earlier run")
    assert engine.deploy_app("other", JOB, META, SITE_1, PLAIN) == ""
    assert not (tmp_path / JOB / "log.txt").exists()
    assert (tmp_path / JOB / "fl_app.txt").read_text() == "other"


BAD_ARCHIVES = {
    "is no archive": (b"not a zip", "is not a zip archive"),
    "is no bytes": ("text", "must be the bytes of an archive"),
    "has an absolute path": (archive("/etc/passwd"), "absolute"),
    "leads up": (archive("../../escaped.txt"), "'..'"),
    "leads up in the middle": (archive("config/../../escaped.txt"), "'..'"),
    "has a drive letter": (archive("C:/x"), "drive letter"),
    "has a symlink": (archive("link", stat.S_IFLNK | 0o777, b"/etc/passwd"), "symlink"),
    "has a device": (archive("device", stat.S_IFCHR | 0o666), "device"),
    "unpacks to too much": (archive("zeros", data=b"\0" * 3_000_000), "unpacks to"),
    "has too many files": (pack_files({f"{n}.txt": b"" for n in range(100)}), "entries"),
    "has no config": (pack_files({"custom/mine.py": b""}), "is missing"),
    "has a config that is no JSON": (pack_files({CONFIG: b"{"}), CONFIG),
    "names what is not allowed": (
        pack_files({CONFIG: json.dumps(client_config("subprocess.Popen", {"args": "ls"})).encode()}),
        "subprocess.Popen is not allowed here",
    ),
    "names redflare's own machinery": (
        pack_files({CONFIG: json.dumps(client_config("redflare_workers.client.ClientEngine")).encode()}),
        "is not a component for jobs",
    ),
    "brings code": (app_of("Adding"), "code that the job brings"),
    "writes elsewhere": (
        pack_files(
            {
                CONFIG: json.dumps(
                    {
                        **client_config("redflare_workers.ipc.exchanger.IPCExchanger"),
                        "components": [
                            {
                                "id": "store",
                                "path": "redflare_workers.workflow.FedAvg",
                                "args": {"initial_model": {}, "min_clients": 1, "num_rounds": 1, "save_dir": "/etc"},
                            }
                        ],
                    }
                ).encode()
            }
        ),
        "leads out of the folder",
    ),
}


@pytest.mark.parametrize(("data", "reason"), BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
@pytest.mark.parametrize("earlier", [False, True], ids=["first", "again"])
def test_an_archive_is_refused_that(tmp_path: Path, data: Any, reason: str, earlier: bool) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    engine = engine_in(workspace, max_bytes=1_000_000, max_files=50)
    if earlier:
        assert engine.deploy_app("earlier", JOB, META, SITE_1, PLAIN) == ""
    before = tree(tmp_path)

    error = engine.deploy_app("app", JOB, META, SITE_1, data)

    assert error.startswith("ERROR: job 'job-1' cannot be deployed: ")
    assert reason in error
    assert tree(tmp_path) == before
    assert [path.name for path in workspace.iterdir()] == [JOB] * earlier
    if not earlier:
        assert "does not exist" in engine.start_app(JOB, META)


def test_all_errors_of_an_app_are_reported_together(tmp_path: Path) -> None:
    config = {"format_version": 1, "executors": [{"tasks": ["a"], "executor": {"path": "os.system"}}]}
    error = engine_in(tmp_path).deploy_app("app", JOB, META, SITE_1, pack_files({CONFIG: json.dumps(config).encode()}))
    assert "format_version: must be 2" in error
    assert "executors[0].executor.path: os.system is not allowed here" in error


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"job_id": "../up"}, "not legal"),
        ({"job_id": "a/b"}, "not legal"),
        ({"job_id": ""}, "not legal"),
        ({"job_id": "a" * 65}, "at most 64"),
        ({"job_id": "startup"}, "every workspace has"),
        ({"job_id": "local"}, "every workspace has"),
        ({"job_id": 7}, "must be a str"),
        ({"app_name": "../app"}, "not legal"),
        ({"job_meta": "text"}, "must be a dict"),
        ({"job_meta": {"agent_id": "a b"}}, "agent_id"),
        ({"job_meta": {"job_id": "other"}}, "is of job 'other'"),
        ({"job_meta": {"x": {1, 2}}}, "is not valid JSON"),
        ({"client_name": "site-2"}, "this is site site-1"),
    ],
)
def test_invalid_names_and_metas_are_refused(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    args = {"app_name": "app", "job_id": JOB, "job_meta": META, "client_name": SITE_1, "app_data": PLAIN, **changed}
    error = engine_in(tmp_path).deploy_app(**args)
    assert error.startswith("ERROR: ")
    assert reason in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "patients.csv").write_text("secret")
    engine = engine_in(tmp_path)
    assert "is not the run of a job" in engine.deploy_app("app", "data", META, SITE_1, PLAIN)
    assert "is not the run of a job" in engine.delete_run("data")
    assert (tmp_path / "data" / "patients.csv").read_text() == "secret"


def test_a_link_in_place_of_a_run_is_not_followed(tmp_path: Path) -> None:
    other, workspace = tmp_path / "other", tmp_path / "workspace"
    assert engine_in(other).deploy_app("app", JOB, META, SITE_1, PLAIN) == ""
    workspace.mkdir()
    (workspace / JOB).symlink_to(other / JOB)
    engine = engine_in(workspace)
    assert "is not the run of a job" in engine.deploy_app("app", JOB, META, SITE_1, PLAIN)
    assert "is not the run of a job" in engine.delete_run(JOB)
    assert (other / JOB / "meta.json").is_file()


def test_a_run_is_deleted_and_again_without_effect(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    engine.deploy_app("app", JOB, META, SITE_1, PLAIN)
    for _ in range(2):
        assert engine.delete_run(JOB) == f"Delete run folder: {tmp_path / JOB}."
        assert list(tmp_path.iterdir()) == []
    assert engine.delete_run("..").startswith("ERROR: ")
    assert tmp_path.is_dir()


@pytest.mark.parametrize(
    ("meta", "deleted", "is_left"),
    [
        ({**META, "submission": "a"}, ["a", "b"], False),
        ({**META, "submission": "a"}, ["b"], True),
        ({**META, "submission": "a"}, [], False),
        (META, [""], True),
    ],
)
def test_only_the_run_of_a_deleted_job_is_removed(
    tmp_path: Path, meta: dict[str, Any], deleted: list[str], *, is_left: bool
) -> None:
    engine = engine_in(tmp_path)
    engine.deploy_app("app", JOB, meta, SITE_1, PLAIN)
    assert len(engine.delete_runs({JOB: deleted, "other": ["a"]})) == (not is_left)
    assert (tmp_path / JOB).exists() == is_left
    assert engine.delete_run(JOB, ["z"]).startswith("ERROR: ")


def test_a_run_whose_meta_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    engine.deploy_app("app", JOB, {**META, "submission": "a"}, SITE_1, PLAIN)
    (tmp_path / JOB / "meta.json").write_text("{")
    assert engine.delete_runs({JOB: ["a"]}) == []
    assert (tmp_path / JOB).is_dir()


def test_unfinished_folders_of_a_killed_client_parent_are_removed(tmp_path: Path) -> None:
    left = tmp_path / ".redflare-deploy-job-1-abc" / "new"
    left.mkdir(parents=True)
    engine_in(tmp_path).processes.recover()
    assert list(tmp_path.iterdir()) == []
