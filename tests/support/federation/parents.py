"""A real federation: an SP, CPs, and jobs from the job store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import redis
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.job_store.record import JobRecord
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.jobs import pack_files
from redflare_workers.server.parent.run_state import RunState
from redflare_workers.workspace.run_folder import RunFolder

from tests.programs import server_parent
from tests.programs.server_parent import ServerParentArgs
from tests.support.federation.client_parents import CUSTOM, PATIENCE, Sites, client_config
from tests.support.process.child import Child
from tests.support.waiting import wait_until

#: Longer than a test; jobs are deleted in the end.
POLICY: Final = JobRetentionPolicy(job_retention=60.0, upload_keep=6.0, event_retention=6.0)

FEDAVG: Final = "redflare_workers.workflow.FedAvg"


def averaging(rounds: int = 2, clients: int = 1, **args: Any) -> dict[str, Any]:
    """The config of federated averaging, which can resume."""
    given = {"initial_model": {"w": [0.0]}, "min_clients": clients, "num_rounds": rounds, **args}
    return {"path": FEDAVG, "args": {"wait_time_after_min_received": 0, "save_dir": "models", **given}}


def job_of(
    executors: Mapping[str, Mapping[str, Any]] | str = "Adding",
    *workflows: Mapping[str, Any],
    custom: str = CUSTOM,
    server_code: str = "",
    **meta: Any,
) -> tuple[dict[str, Any], bytes]:
    """Meta and archive of a job.

    Args:
        executors: by app: ``executor`` and its arguments; or that of the one app, for all.
        workflows: federated averaging if there is none.
        server_code: ``custom/flow.py`` of the first app.
    """
    apps = {"app": {"executor": executors}} if isinstance(executors, str) else executors
    job_meta = {"name": "means", "deploy_map": {app: ["@ALL"] for app in apps}, **meta}
    files = {"meta.json": json.dumps(job_meta).encode()}
    server = {"format_version": 2, "workflows": list(workflows) or [averaging()]}
    for app, args in apps.items():
        config = client_config(f"mine.{args['executor']}", {k: v for k, v in args.items() if k != "executor"})
        files[f"{app}/config/config_fed_client.json"] = json.dumps(config).encode()
        files[f"{app}/config/config_fed_server.json"] = json.dumps(server).encode()
        files[f"{app}/custom/mine.py"] = custom.encode()
        if server_code:
            files[f"{app}/custom/flow.py"] = server_code.encode()
    return job_meta, pack_files(files)


class Operation(Sites):
    """The SP, the CPs and the job store of a federation.

    Args:
        client: the test's connection.
    """

    def __init__(self, url: str, folder: Path, namespace: str, client: redis.Redis) -> None:
        super().__init__(url, folder, namespace)
        self.client = client
        connection = Server.connect(url)
        self.store = JobStore(connection, Keys(namespace), POLICY)
        self._undo.append(connection.close)

    def server(self, name: str = "server", *, max_jobs: int = 0, take_over: bool = False, **settings: Any) -> Child:
        """Start the server, or its successor; ``name``: of its workspace."""
        workspace = self.workspace(name, **settings)
        args = ServerParentArgs(
            url=self.url, workspace=str(workspace), policy=POLICY, max_jobs=max_jobs, take_over=take_over
        )
        child = Child(server_parent.main, args, self.folder / f"server-{len(self._undo)}.log")
        self._undo.append(child.close)
        child.receive("ready", PATIENCE)
        return child

    def submit(self, job: tuple[dict[str, Any], bytes], job_id: str = "job-1") -> str:
        return self.store.submit(*job, job_id, submitter="ann")

    def record(self, job_id: str = "job-1") -> JobRecord:
        record = self.store.get(job_id)
        assert record is not None
        return record

    def wait_for(self, status: str, job_id: str = "job-1") -> JobRecord:
        """Wait until the job is of this status."""

        def reached() -> bool:
            record = self.record(job_id)
            assert not record.finished or record.status == status, f"{record.status}: {record.reason}\n{self.log()}"
            return record.status == status

        wait_until(reached, PATIENCE, f"job {job_id} {status}")
        return self.record(job_id)

    def log(self, job_id: str = "job-1") -> str:
        """The job's log."""
        return "\n".join(f"{line.site}: {line.text}" for line in self.store.read_log(job_id))

    def wait_for_log(self, text: str, job_id: str = "job-1", count: int = 1) -> None:
        wait_until(lambda: self.log(job_id).count(text) >= count, PATIENCE, f"{text!r} in the log of {job_id}")

    def history(self, job_id: str = "job-1") -> list[str]:
        return [moment.status for moment in self.record(job_id).history]

    def state(self, job_id: str = "job-1") -> RunState:
        """The run state that the server has recorded for a running job."""
        state = RunState.read(RunFolder(self.folder / "server", job_id))
        assert state is not None
        return state

    def processes(self) -> list[str]:
        """Command lines of the processes of jobs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes()
            except OSError:
                continue
            if str(self.folder).encode() in command:
                found.append(command.replace(b"\0", b" ").decode())
        return found

    def assert_nothing_is_left(self) -> None:
        """Check that no process of a job runs, and that every key has a TTL."""
        wait_until(lambda: not self.processes(), PATIENCE, "no process of a job")
        for key in self.client.scan_iter(f"{self.namespace}:*", 1000):
            assert self.client.pttl(key) != -1, f"{key!r} never expires"

    def close(self) -> None:
        for record in self.store.list():
            if record.finished:
                self.store.delete(record.id)
        super().close()
        self.client.delete(self.store.keys.deleted, self.store.keys.policy)
        for key in self.client.scan_iter(f"{self.namespace}:*job*", 1000):
            self.client.delete(key)


@contextmanager
def operation_at(url: str, folder: Path, namespace: str, client: redis.Redis) -> Iterator[Operation]:
    """An operation at a real server; in the end nothing of it may be left."""
    operation = Operation(url, folder, namespace, client)
    try:
        yield operation
        operation.assert_nothing_is_left()
    finally:
        operation.close()


@contextmanager
def operation_of_its_own(folder: Path) -> Iterator[Operation]:
    """An operation at an embedded server that no other test uses."""
    with (
        EmbeddedServer() as server,
        redis.Redis.from_url(server.url) as client,
        operation_at(server.url, folder, "flare", client) as operation,
    ):
        yield operation
