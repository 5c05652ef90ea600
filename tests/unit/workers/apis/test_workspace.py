"""The paths of the files of a process and its jobs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from redflare_workers.apis import FLContextKey, Workspace
from redflare_workers.engine.run_engine import RunEngine


def test_folders_of_a_job_are_below_the_root_and_made_when_asked_for(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws", "site-1")
    assert workspace.get_root_dir() == str(tmp_path / "ws")
    assert not Path(workspace.get_root_dir()).exists()
    assert workspace.get_run_dir("job-1") == str(tmp_path / "ws" / "job-1")
    assert Path(workspace.get_app_dir("job-1")) == tmp_path / "ws" / "job-1" / "app_site-1"
    assert Path(workspace.get_app_dir("job-1")).is_dir()
    assert Path(workspace.get_app_config_dir("job-1")).name == "config"
    assert Path(workspace.get_app_custom_dir("job-1")).name == "custom"
    assert workspace.get_result_root("job-1") == workspace.get_log_root("job-1") == workspace.get_run_dir("job-1")
    assert workspace.get_log_root() == workspace.get_root_dir()
    assert workspace.get_file_path_in_root("a.json") == str(tmp_path / "ws" / "a.json")


@pytest.mark.parametrize("job_id", ["", ".", "..", "../x", "a/b", "/etc", None, 5])
def test_an_invalid_job_name_is_refused(tmp_path: Path, job_id: Any) -> None:
    with pytest.raises(ValueError, match="must be the name of a folder"):
        Workspace(tmp_path).get_run_dir(job_id)
    assert list(tmp_path.iterdir()) == []


def test_it_is_a_path_to_its_root(tmp_path: Path) -> None:
    assert Path(Workspace(tmp_path)) == tmp_path
    assert str(Workspace(tmp_path)) == str(tmp_path)
    assert repr(Workspace("ws", "a")) == "Workspace('ws', 'a')"


def test_components_find_it_in_their_context(tmp_path: Path) -> None:
    engine = RunEngine("site-1", "job-1", {}, "CJ", {}, tmp_path)
    engine.make_app_dir()
    with engine.new_context() as fl_ctx:
        assert fl_ctx.get_workspace() is engine.get_workspace()
        assert fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT) == str(tmp_path)
        app_root = fl_ctx.get_prop(FLContextKey.APP_ROOT)
        assert app_root == fl_ctx.get_workspace().get_app_dir("job-1")
    assert Path(app_root).is_dir()


def test_nothing_is_made_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RunEngine("site-1", "job-1", {}, "CJ", {}).make_app_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        RunEngine("site-1", "job-1", {}, "CJ", {}, tmp_path / "file").make_app_dir()
    assert "site-1: cannot make the folder of job job-1" in caplog.text
