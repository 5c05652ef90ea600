"""The examples of the page on executors, and the settings and the job of the page on operating, are used as shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redflare_workers.apis.dxo import from_shareable
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.jobs import ComponentBuilder, read_job
from redflare_workers.workspace.site_settings import load_site_settings

from tests.support.paths import ROOT
from tests.unit.docs.test_docs_examples import DOCS, blocks


def test_the_executor_answers_and_goes_into_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, use, _ = blocks(DOCS / "executors.md", "python")
    (tmp_path / "statistics_of.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "table.csv").write_text("1,2\n" * 9 + "11,2\n")
    names: dict[str, Any] = {}
    exec(f"from statistics_of import ColumnMeans\n{use}", names)
    executor = names["ColumnMeans"](str(tmp_path / "table.csv"))

    def ask(name: str, abort: Signal) -> Shareable:
        answer = executor.execute(name, Shareable(), FLContext(), abort)
        assert isinstance(answer, Shareable)
        return answer

    assert from_shareable(ask("means", Signal())).data["means"].tolist() == [2, 2]
    assert ask("train", Signal()).get_return_code() == ReturnCode.TASK_UNKNOWN
    executor.min_rows = 11
    assert ask("means", Signal()).get_return_code() == ReturnCode.BAD_TASK_DATA
    names["job"].export(tmp_path / "job")
    job = read_job(tmp_path / "job")
    assert any(path.endswith("custom/statistics_of.py") for path in job.files)


def test_what_is_marked_is_reached_by_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, code = blocks(DOCS / "executors.md", "python")
    (tmp_path / "nets_of.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    made = ComponentBuilder(["nets_of.*"]).build({"path": "nets_of.make_net", "args": {"size": 2}})
    assert made == {"w": [0.0, 0.0]}


def test_the_config_by_hand_and_the_site_s_settings_are_right(tmp_path: Path) -> None:
    (config,) = blocks(DOCS / "executors.md", "json")
    assert [each["tasks"] for each in json.loads(config)["executors"]] == [["means"], ["train"]]
    (settings,) = blocks(DOCS / "operate.md", "json")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "site.json").write_text(settings)
    assert load_site_settings(tmp_path).resources == {"num_of_gpus": 2}


def test_the_example_job_has_no_mistakes() -> None:
    job = read_job(ROOT / "examples" / "operate" / "means")
    assert job.meta.agent_id == "trainer"
    assert not job.warnings
