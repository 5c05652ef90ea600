"""A job's files at the server: what its result holds."""

from __future__ import annotations

from pathlib import Path

import fakeredis
import pytest
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.jobs.archive import read_files
from redflare_workers.server.parent.job_files import keep_result, prepare
from redflare_workers.workspace.run_folder import ARGS_FILE, RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "workspace", "job-1")
    prepare(made, "app", ("site-1",), {})
    return made


def test_the_arguments_of_a_process_are_not_in_the_result(folder: RunFolder, tmp_path: Path) -> None:
    """The file may hold a password; the process deletes it, but may have died before."""
    folder.write(ARGS_FILE, {"redis_url": "redis://:secret@example.org"})
    with Server.connect(client=fakeredis.FakeRedis()) as server:
        store = JobStore(server, Keys("flare"))
        store.submit({"name": "means"}, b"zip", "job-1", submitter="ann")
        keep_result(store, folder)
        names = read_files(store.fetch_result("job-1", tmp_path / "result.zip"))
    assert "fl_app.txt" in names
    assert ARGS_FILE not in names
