"""The page on writing a job shows jobs that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from redflare_workers.jobs import define_job, read_job

from tests.unit.docs.test_docs_examples import DOCS, blocks

PAGE = DOCS / "job-folders.md"


def test_the_job_from_python_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in blocks(PAGE, "python"):
        exec(compile(text, PAGE.name, "exec"), {"__name__": "page"})
    job = read_job(tmp_path / "means")
    assert (job.meta.name, job.meta.min_clients, job.meta.agent_id) == ("means", 2, "trainer")


def test_the_job_by_hand_has_no_mistake() -> None:
    meta, server, client = (text.encode() for text in blocks(PAGE, "json"))
    job = define_job(
        {
            "meta.json": meta,
            "app/config/config_fed_server.json": server,
            "app/config/config_fed_client.json": client,
            "app/custom/rounding.py": b"class Rounding(Filter): ...",
        }
    )
    assert job.warnings == ()
    assert job.meta.resources_for("site-2") == {"num_of_gpus": 1}
