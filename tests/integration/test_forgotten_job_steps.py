"""A server and its sites after a failover that has taken a job's last steps back: with processes, on a real server.

The rows of the table in ``docs/protocol.md`` are in ``tests/unit/workers/server/parent/test_forgotten_steps.py``.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redflare_broker.job_store.record import ABORTED, COMPLETED

from tests.support.federation.client_parents import PATIENCE
from tests.support.federation.parents import Operation, averaging, job_of, operation_of_its_own
from tests.support.redis_server.snapshot import Snapshot
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


@pytest.fixture
def operation(tmp_path: Path) -> Iterator[Operation]:
    with operation_of_its_own(tmp_path) as made:
        yield made


def fail_over(operation: Operation, replica: Snapshot) -> None:
    """Put what a replica had in the place of all, and cut every connection, as a failover does."""
    replica.restore()
    operation.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.mark.parametrize("restarted", [False, True], ids=["same server", "restarted"])
@pytest.mark.parametrize("status", [COMPLETED, ABORTED])
def test_a_job_whose_end_is_forgotten_ends_again_and_runs_nowhere(
    operation: Operation, status: str, restarted: bool
) -> None:
    server = operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Adding", averaging(300 if status == COMPLETED else 100_000)))
    operation.wait_for_log("round 3 of")
    replica = Snapshot(operation.client)
    if status == ABORTED:
        operation.store.request_abort("job-1", "ann", "enough")
    ended = operation.wait_for(status)
    if restarted:
        server.kill()
    fail_over(operation, replica)
    if restarted:
        operation.server()
    again = operation.wait_for(status)
    assert again.result is not None
    assert again.submission == ended.submission
    # one that was restarted does not know any more who had confirmed an abort
    assert ended.reason.startswith(again.reason) if restarted else again.reason == ended.reason
    wait_until(lambda: not operation.processes(), PATIENCE, "no process of the job runs")


def test_a_job_whose_deletion_is_forgotten_is_listed_until_it_is_deleted_again(
    operation: Operation, tmp_path: Path
) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of())
    operation.wait_for(COMPLETED)
    folders = [operation.folder / name / "job-1" for name in ("server", "site-1")]
    replica = Snapshot(operation.client)
    operation.store.delete("job-1")
    wait_until(lambda: not any(folder.exists() for folder in folders), PATIENCE)
    fail_over(operation, replica)
    assert operation.record().status == COMPLETED
    operation.store.fetch_result("job-1", tmp_path / "result.zip")
    # the server is back at work
    operation.submit(job_of(), "job-2")
    operation.wait_for(COMPLETED, "job-2")
    assert not any(folder.exists() for folder in folders)
    operation.store.delete("job-1")
    assert [record.id for record in operation.store.list()] == ["job-2"]
