"""Whether the server accepts a job, on fakeredis without a server: what only its side of an app can show."""

from __future__ import annotations

from pathlib import Path

import fakeredis
import pytest
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.jobs.archive import pack_files
from redflare_workers.server.parent.admission import refusal
from redflare_workers.workspace.site_settings import SiteSettings

from tests.support.job.files import META, SERVER, files_of

CODE = """
from redflare_workers import Filter

class Same(Filter):
    def process(self, shareable, fl_ctx):
        return shareable
"""
FILTERS = [{"tasks": ["train"], "filters": [{"path": "mine.Same"}]}]


@pytest.mark.parametrize("kind", ["task_data_filters", "task_result_filters"])
def test_a_job_whose_server_would_filter_tasks_or_results_is_rejected(tmp_path: Path, kind: str) -> None:
    """They run at sites: the server would leave them out, and send what they were to hold back."""
    server = Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer()))
    store = JobStore(server, Keys())
    reasons = {}
    for job_id, config in (("plain", SERVER), ("filters", {**SERVER, kind: FILTERS})):
        store.submit(META, pack_files(files_of(server=config, custom={"mine.py": CODE})), job_id)
        record = store.get(job_id)
        assert record is not None
        reasons[job_id] = refusal(record, store, tmp_path, SiteSettings(allow_custom=True))
    server.close()
    assert reasons["plain"] == ""
    assert "filters of tasks and results run at sites" in reasons["filters"]
