"""What a server that starts does with processes that an earlier one has left."""

from __future__ import annotations

from pathlib import Path

import pytest
from redflare_workers.processes.job_process import ProcessMark
from redflare_workers.server.parent.job_files import prepare
from redflare_workers.server.parent.reaper import reap
from redflare_workers.server.parent.run_state import RunState
from redflare_workers.workspace.run_folder import RunFolder


def test_only_processes_of_jobs_that_are_over_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a job that resumes is its runner's, which looks at how far the job is first."""
    for job, run in (("over", "run-1"), ("resumes", "run-2"), ("never-began", "")):
        prepare(RunFolder(tmp_path, job), "app", ("site-1",), {"name": job})
        RunState(job=job, run=run, pid=7).write(RunFolder(tmp_path, job))
    reaped: list[str] = []

    def note(mark: ProcessMark, grace: float) -> list[int]:
        reaped.append(mark.mark)
        return [mark.pid]

    monkeypatch.setattr(ProcessMark, "reap", note)
    assert reap(tmp_path, ["resumes"]) == ["over"]
    assert reaped == ["run-1"]
