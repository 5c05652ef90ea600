"""Records of running jobs that Redis has lost, taken back, or given to another job; on fakeredis, without processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redflare_broker.job_store.record import (
    ABORTED,
    APPROVED,
    COMPLETED,
    DISPATCHED,
    RUNNING,
    SUBMITTED,
    UNFINISHED,
    JobRecord,
)
from redflare_workers.protocol.parent_messages import SiteReport
from redflare_workers.server.parent.held_record import HeldRecord
from redflare_workers.server.parent.job_verdict import JobVerdict
from redflare_workers.server.parent.log_writer import LogWriter

from tests.support.federation.client_parents import META
from tests.support.job.runner_bench import DONE, RunnerBench, runner_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[RunnerBench]:
    with runner_bench(tmp_path) as made:
        yield made


# -- a record that is lost ---------------------------------------------------------------------------------------------


def test_the_record_of_a_running_job_that_redis_has_lost_is_written_again(bench: RunnerBench) -> None:
    bench.runner.on_report(SiteReport(site="site-1", job="job-1", run="r", status="started"))
    before = bench.record()
    bench.client.flushall()
    assert bench.reconcile(bench.runner) == []
    after = bench.record()
    assert after.sites["site-1"].status == "started"
    assert replace(after, sites=before.sites) == replace(before, archive=None)
    assert [record.id for record in bench.store.list()] == ["job-1"]
    assert "Redis had lost this job" in bench.store.read_log("job-1")[-1].text
    assert bench.reconcile(bench.runner) == ["job-1"]


@pytest.mark.parametrize("status", [SUBMITTED, APPROVED])
def test_the_loss_of_a_job_that_waits_is_told_once(
    bench: RunnerBench, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.store.submit({"name": "means"}, b"zip", "waits", submitter="ann")
    if status == APPROVED:
        bench.store.advance("waits", SUBMITTED, APPROVED)
    bench.reconcile()
    assert "is lost" not in caplog.text

    bench.client.flushall()
    bench.reconcile()
    bench.reconcile()

    [line] = [record.getMessage() for record in caplog.records if "is lost" in record.getMessage()]
    assert line.startswith(f"job waits (means, submitted by ann) was {status} and is lost: Redis has forgotten")
    assert line.endswith("submit it again, with --id waits")


def test_a_job_that_waited_and_was_aborted_and_deleted_is_not_lost(
    bench: RunnerBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.store.submit({"name": "means"}, b"zip", "waits")
    bench.reconcile()
    bench.store.request_abort("waits", "ann")
    bench.store.delete("waits")
    bench.reconcile()
    assert "is lost" not in caplog.text


def test_its_abort_reaches_it_and_its_result_is_stored(bench: RunnerBench) -> None:
    bench.client.flushall()
    bench.reconcile(bench.runner)
    assert bench.store.request_abort("job-1", "ann", "enough").status == RUNNING
    bench.reconcile(bench.runner)
    assert bench.runner._abort == ("ann", "enough")
    bench.runner._end(DONE)
    assert (bench.record().status, bench.record().result is not None) == (COMPLETED, True)


def test_a_job_that_ends_before_its_loss_is_noticed_writes_its_record_and_result(bench: RunnerBench) -> None:
    bench.client.flushall()
    bench.runner._end(DONE)
    assert (bench.record().status, bench.record().reason) == (COMPLETED, "3 rounds")
    assert bench.record().result is not None


def test_every_key_that_is_written_again_expires(bench: RunnerBench) -> None:
    bench.client.flushall()
    bench.reconcile(bench.runner)
    keys = bench.client.keys("*")
    assert len(keys) == 3
    assert all(bench.client.pttl(key) > 0 for key in keys)


def test_a_job_that_has_ended_and_was_deleted_does_not_come_back(bench: RunnerBench) -> None:
    bench.runner._end(DONE)
    bench.store.delete("job-1")
    bench.reconcile(bench.runner)
    assert bench.store.get("job-1") is None


# -- another job under its id ------------------------------------------------------------------------------------------


def submitted_anew(bench: RunnerBench) -> JobRecord:
    bench.client.flushall()
    bench.store.submit({**META, "name": "other"}, b"another", "job-1", submitter="bob")
    return bench.record()


def test_a_job_whose_id_is_another_jobs_now_is_ended_and_writes_nothing(bench: RunnerBench) -> None:
    other = submitted_anew(bench)
    assert bench.reconcile(bench.runner) == ["job-1"]
    by, reason = bench.runner._abort or ("", "")
    assert (by, "another job was submitted under its id" in reason) == ("server", True)
    bench.runner.on_report(SiteReport(site="site-1", job="job-1", run="r", status="stopped"))
    bench.runner._end(JobVerdict(status=ABORTED))
    assert bench.record() == other
    assert bench.runner.ended is None


def test_an_operator_who_aborts_the_other_job_ends_this_one_too(bench: RunnerBench) -> None:
    submitted_anew(bench)
    assert bench.store.request_abort("job-1", "ann").status == ABORTED
    bench.reconcile(bench.runner)
    assert bench.runner._abort is not None


def test_no_step_of_a_job_touches_another_of_its_id(bench: RunnerBench) -> None:
    submission = bench.record().submission
    other = submitted_anew(bench)
    assert submission
    assert other.submission not in ("", submission)
    store = bench.store
    assert store.advance("job-1", SUBMITTED, APPROVED, submission=submission) is None
    assert not store.set_site("job-1", "site-1", "started", submission=submission)
    assert not store.append_log("job-1", "site-1", ["a line"], submission=submission)
    with pytest.raises(Exception, match="no job job-1"):
        store.put_result("job-1", b"result", submission=submission)
    assert not store.restore(replace(other, submission=submission))
    assert bench.record() == other
    assert len(store.read_log("job-1")) == 1
    assert not [key for key in bench.client.keys("*") if b"result" in key]


def test_a_log_line_of_a_job_does_not_get_into_another_of_its_id(bench: RunnerBench) -> None:
    logs = LogWriter(bench.store)
    logs.start()
    submission = bench.record().submission
    submitted_anew(bench)
    logs.write("job-1", "server", ["of the first"], submission)
    logs.write("job-1", "server", ["of whichever there is"])
    logs.stop(10)
    assert [line.text for line in bench.store.read_log("job-1")][1:] == ["of whichever there is"]


# -- a record that has gone back ---------------------------------------------------------------------------------------


def test_a_job_that_has_ended_ends_again_when_a_failover_has_taken_that_back(bench: RunnerBench) -> None:
    replica = bench.snapshot()
    bench.runner._end(DONE)
    bench.keeper.note_end(bench.runner)
    replica.restore()
    bench.store.request_abort("job-1", "ann")
    assert bench.reconcile() == []
    assert (bench.record().status, bench.record().reason) == (COMPLETED, "3 rounds")
    assert bench.record().result is not None


@pytest.mark.parametrize("status", [SUBMITTED, APPROVED, DISPATCHED])
def test_a_running_job_moves_its_record_forward_again(
    bench: RunnerBench, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.client.hset("flare:{server}:job:job-1:record", "status", status)
    with caplog.at_level(logging.WARNING):
        bench.reconcile(bench.runner)
    assert bench.record().status == RUNNING
    assert f"had gone back to {status}" in caplog.text


def test_a_running_job_whose_record_had_gone_back_can_end(bench: RunnerBench) -> None:
    bench.client.hset("flare:{server}:job:job-1:record", "status", APPROVED)
    bench.runner._end(DONE)
    assert bench.record().status == COMPLETED


def test_only_so_many_ends_are_remembered(bench: RunnerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redflare_workers.server.parent.record_keeper._MOST", 2)
    bench.runner.ended = DONE
    for number in range(4):
        bench.runner.submission = f"s{number}"
        bench.keeper.note_end(bench.runner)
    assert list(bench.keeper._ended) == ["s2", "s3"]


def test_a_step_of_a_job_whose_record_was_just_lost_is_taken_all_the_same(bench: RunnerBench) -> None:
    held = HeldRecord(bench.store, bench.record(), dict)
    bench.client.flushall()
    assert held.advance(UNFINISHED, COMPLETED, "3 rounds") is not None
    assert (bench.record().status, bench.record().reason) == (COMPLETED, "3 rounds")


def test_a_job_whose_id_was_another_jobs_does_not_come_back_when_that_one_is_gone(bench: RunnerBench) -> None:
    submitted_anew(bench)
    bench.reconcile(bench.runner)
    bench.client.flushall()
    bench.runner._end(JobVerdict(status=ABORTED))
    assert bench.store.get("job-1") is None
