"""A server forgets steps of jobs that it has acknowledged: a test of each row of that table in ``docs/protocol.md``.

A failover is played by putting back what Redis held at an earlier moment. Processes are in
``tests/integration/test_forgotten_job_steps.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from redflare_broker.errors import JobUnknown
from redflare_broker.job_store.record import ABORTED, APPROVED, COMPLETED, DISPATCHED, RUNNING, SUBMITTED
from redflare_workers.protocol.parent_messages import SiteReport
from redflare_workers.server.parent.job_verdict import JobVerdict
from redflare_workers.workspace.run_folder import RunFolder

from tests.support.federation.client_parents import META
from tests.support.job.runner_bench import DONE, RunnerBench, runner_bench
from tests.support.tables import protocol_rows


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[RunnerBench]:
    with runner_bench(tmp_path) as made:
        yield made


# -- submitted ---------------------------------------------------------------------------------------------------------


def test_a_forgotten_submission_is_not_there_and_is_made_again_under_its_id(bench: RunnerBench) -> None:
    replica = bench.snapshot()
    bench.store.submit(META, b"zip of two", "job-2", submitter="ann")
    replica.restore()
    assert [record.id for record in bench.store.list()] == ["job-1"]
    with pytest.raises(JobUnknown):
        bench.store.request_abort("job-2", "ann")
    assert bench.store.submit(META, b"zip of two", "job-2", submitter="ann") == "job-2"
    assert bench.store.read_archive("job-2") == b"zip of two"


def test_a_submission_that_was_not_forgotten_does_not_run_twice(bench: RunnerBench) -> None:
    before = bench.record()
    bench.store.submit(META, b"zip", "job-1", submitter="ann")
    assert bench.record() == before
    assert len(bench.store.list()) == 1


# -- on its way --------------------------------------------------------------------------------------------------------


def test_a_forgotten_step_of_a_job_that_was_not_dispatched_is_taken_again(bench: RunnerBench) -> None:
    bench.store.submit(META, b"zip of two", "job-2", submitter="ann")
    replica = bench.snapshot()
    bench.store.advance("job-2", SUBMITTED, APPROVED)
    replica.restore()
    # the server finds it in the list, as a new one
    assert "job-2" in bench.reconcile(bench.runner)
    assert bench.store.advance("job-2", SUBMITTED, APPROVED) is not None


@pytest.mark.parametrize("status", [SUBMITTED, APPROVED, DISPATCHED])
def test_forgotten_steps_of_a_running_job_and_its_sites_are_written_again(bench: RunnerBench, status: str) -> None:
    bench.runner.on_report(SiteReport(site="site-1", job="job-1", run="r", status="started"))
    bench.replicas[status].restore()
    assert (bench.record().status, bench.record().sites) == (status, {})
    bench.reconcile(bench.runner)
    assert (bench.record().status, bench.record().sites["site-1"].status) == (RUNNING, "started")


def test_a_forgotten_state_of_a_site_is_written_again_although_the_job_ran_before(bench: RunnerBench) -> None:
    for code in (None, 3):
        replica = bench.snapshot()
        report = SiteReport(site="site-1", job="job-1", run="r", status="stopped", exit_code=code, reason="out of disk")
        bench.runner.on_report(report)
        state = bench.record().sites["site-1"]
        replica.restore()
        bench.reconcile(bench.runner)
        assert replace(bench.record().sites["site-1"], at=state.at) == state


# -- an abort ----------------------------------------------------------------------------------------------------------


def test_a_forgotten_abort_that_the_server_has_heard_of_is_carried_out(bench: RunnerBench) -> None:
    replica = bench.snapshot()
    bench.store.request_abort("job-1", "ann", "enough")
    bench.reconcile(bench.runner)
    replica.restore()
    assert not bench.record().abort_requested
    bench.reconcile(bench.runner)
    assert bench.runner._abort == ("ann", "enough")
    bench.runner._end(JobVerdict(status=ABORTED, reason="aborted by ann: enough", by="ann"))
    assert (bench.record().status, bench.record().reason) == (ABORTED, "aborted by ann: enough")


def test_a_forgotten_abort_that_the_server_has_not_heard_of_is_asked_for_again(bench: RunnerBench) -> None:
    replica = bench.snapshot()
    bench.store.request_abort("job-1", "ann", "enough")
    replica.restore()
    assert bench.reconcile(bench.runner) == ["job-1"]
    assert not bench.record().abort_requested
    assert bench.store.request_abort("job-1", "ann", "enough").abort_requested


def test_a_forgotten_abort_of_a_job_that_was_not_dispatched_is_asked_for_again(bench: RunnerBench) -> None:
    bench.store.submit(META, b"zip of two", "job-2", submitter="ann")
    replica = bench.snapshot()
    assert bench.store.request_abort("job-2", "ann").status == ABORTED
    replica.restore()
    assert "job-2" in bench.reconcile(bench.runner), "it would run"
    assert bench.store.request_abort("job-2", "ann").status == ABORTED


# -- its end -----------------------------------------------------------------------------------------------------------


def end(bench: RunnerBench) -> None:
    bench.runner._end(DONE)
    bench.keeper.note_end(bench.runner)
    assert (bench.record().status, bench.record().result is not None) == (COMPLETED, True)


def test_a_forgotten_end_and_the_result_are_written_again(bench: RunnerBench) -> None:
    replica = bench.snapshot()
    end(bench)
    replica.restore()
    assert (bench.record().status, bench.record().result) == (RUNNING, None)
    assert bench.reconcile() == []
    assert (bench.record().status, bench.record().reason) == (COMPLETED, "3 rounds")
    bench.store.fetch_result("job-1", bench.workspace / "result.zip")


def test_a_forgotten_result_is_stored_with_the_end_that_was_forgotten_with_it(bench: RunnerBench) -> None:
    """It is stored before the end is recorded, so a server that keeps the end has kept the result."""
    replicas = []
    put = bench.store.put_result

    def put_result(*args: object, **options: object) -> object:
        replicas.append(bench.snapshot())
        return put(*args, **options)  # type: ignore[arg-type]

    bench.store.put_result = put_result  # type: ignore[assignment, method-assign]
    end(bench)
    replicas[0].restore()
    assert bench.record().status == RUNNING
    bench.reconcile()
    assert (bench.record().status, bench.record().result is not None) == (COMPLETED, True)


# -- deleted -----------------------------------------------------------------------------------------------------------


def test_a_forgotten_deletion_leaves_a_job_that_is_over_and_is_deleted_again(bench: RunnerBench) -> None:
    end(bench)
    replica = bench.snapshot()
    bench.store.delete("job-1")
    replica.restore()
    assert bench.reconcile() == [], "it does not run again"
    assert bench.record().status == COMPLETED
    bench.store.fetch_result("job-1", bench.workspace / "result.zip")
    submission = bench.record().submission
    bench.store.delete("job-1")
    assert (bench.store.get("job-1"), bench.store.deletions()) == (None, {submission: "job-1"})


# -- all of it ---------------------------------------------------------------------------------------------------------


def test_a_job_that_is_over_and_lost_is_in_the_servers_workspace_alone(bench: RunnerBench) -> None:
    end(bench)
    bench.client.flushall()
    assert bench.reconcile() == []
    assert bench.store.list() == []
    assert RunFolder(bench.workspace, "job-1").is_run


#: By the first cell of a row: its tests. Those with processes are in tests/integration/test_forgotten_job_steps.py.
ROWS: Final = {
    "that it was submitted": [
        test_a_forgotten_submission_is_not_there_and_is_made_again_under_its_id,
        test_a_submission_that_was_not_forgotten_does_not_run_twice,
    ],
    "that it was approved, dispatched or runs; how it stands at a site": [
        test_a_forgotten_step_of_a_job_that_was_not_dispatched_is_taken_again,
        test_forgotten_steps_of_a_running_job_and_its_sites_are_written_again,
        test_a_forgotten_state_of_a_site_is_written_again_although_the_job_ran_before,
    ],
    "that its abort was asked for": [
        test_a_forgotten_abort_that_the_server_has_heard_of_is_carried_out,
        test_a_forgotten_abort_that_the_server_has_not_heard_of_is_asked_for_again,
        test_a_forgotten_abort_of_a_job_that_was_not_dispatched_is_asked_for_again,
    ],
    "its end": [test_a_forgotten_end_and_the_result_are_written_again],
    "its result": [test_a_forgotten_result_is_stored_with_the_end_that_was_forgotten_with_it],
    "that it was deleted": [test_a_forgotten_deletion_leaves_a_job_that_is_over_and_is_deleted_again],
    "all of a job that is over": [test_a_job_that_is_over_and_lost_is_in_the_servers_workspace_alone],
}


def test_every_row_of_the_protocols_table_has_a_test() -> None:
    assert protocol_rows("What was forgotten of a job") == list(ROWS)
