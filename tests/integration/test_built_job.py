"""A job written in Python, packed, unpacked and built, runs between a server and its sites."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redflare_broker.embedded.server import EmbeddedServer
from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.jobs import (
    ClientApp,
    ComponentBuilder,
    FedJob,
    build_client_app,
    build_server_app,
    read_job,
    safe_extract,
)
from redflare_workers.protocol.job_outcome import COMPLETED, JobOutcome
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow import FedAvg, load_model

STEPPING = """
from redflare_workers import DXO, DataKind, Executor, from_shareable

class Stepping(Executor):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        weights = from_shareable(shareable).data["w"]
        return DXO(DataKind.WEIGHTS, {"w": [each + self.step for each in weights]}).to_shareable()
"""


@pytest.fixture
def stepping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    (tmp_path / "stepping.py").write_text(STEPPING)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = list(sys.path)
    yield __import__("stepping").Stepping
    sys.path[:] = path
    sys.modules.pop("stepping", None)


def test_a_job_from_python_runs_where_it_was_deployed(stepping: type, tmp_path: Path) -> None:
    job = FedJob("steps", min_clients=2)
    model = {"w": [0.0, 1.0]}
    options = {"min_clients": 2, "num_rounds": 3, "wait_time_after_min_received": 0, "save_dir": "models"}
    job.to_server(FedJob.component(FedAvg, initial_model=model, **options))
    job.to_clients(FedJob.component(stepping, step=2), tasks=["train*"])
    definition = read_job(job.archive())
    for who in ("server", "site-1", "site-2"):
        app = definition.meta.app_for(who)
        assert app is not None
        safe_extract(definition.app_archive(app), tmp_path / who / "job" / f"app_{who}")
    run = tmp_path / "server" / "job"
    server = build_server_app(run / "app_server", ComponentBuilder(folder=run))
    (controller,) = server.controllers.values()
    outcomes: dict[str, JobOutcome] = {}
    with EmbeddedServer() as redis:

        def take_part(name: str, app: ClientApp) -> None:
            outcomes[name] = ClientJob(
                name,
                app.executors,
                redis_url=redis.url,
                task_filters=app.task_filters,
                result_filters=app.result_filters,
                components=app.components,
            ).run()

        threads = []
        for name in ("site-1", "site-2"):
            # a site has a process of its own, where no other has imported its code
            sys.modules.pop("stepping")
            built = build_client_app(tmp_path / name / "job" / f"app_{name}", ComponentBuilder(allow_custom=True))
            threads.append(threading.Thread(target=take_part, args=(name, built), name=name))
            threads[-1].start()
        assert ServerJob(controller, redis_url=redis.url, components=server.components).run().status == COMPLETED
        for thread in threads:
            thread.join(20)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {"site-1": COMPLETED, "site-2": COMPLETED}
    assert load_model(run / "models" / "FL_global_model.npz")[0] == {"w": [6.0, 7.0]}
