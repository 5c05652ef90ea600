"""The steps of jobs, and of the job store, that set TTLs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from redflare_broker.job_state.awaited_sites import AwaitedSites
from redflare_broker.job_store.record import DISPATCHED, RUNNING, SUBMITTED
from redflare_broker.scripts import store_scripts
from redflare_broker.scripts.lease import Lease

from tests.support.job.state import JobBench, large, received, sent, task
from tests.support.job.store import StoreBench, result, submission
from tests.support.ttls import row
from tests.support.ttls.row import BEAT, RECORD, SHORT, Row

ROWS: Final[list[Row]] = []
sets = partial(row.sets, ROWS)

# -- a job -------------------------------------------------------------------------------------------------------------

_SETS: Final = {"standing": "retention", "ended": "retention"}
_ALL: Final = {"clients": "retention", "client_prefix": "retention", "blobs": "retention", "history": "retention"}
_JOB: Final = {"job": "retention", **_ALL, **_SETS}


def whole(job: JobBench) -> Any:
    """Give the job every key that it can have: a client, an open task and an ended one, a history, payloads."""
    store = job.started()
    job.joined()
    store.append(0, [b"1"])
    store.schedule(task("t1", data=large(1)))
    store.schedule(task("t2", 2))
    store.note("t2", [received("ct2", result=large(2))])
    store.finish("t2", "ok", 1.0)
    return store


@sets("job/join", clients="retention", client="retention", heartbeat="beat_ttl")
def a_client_joins(job: JobBench) -> Iterator[None]:
    job.started()
    job.joined("site-2")
    yield
    lease = Lease(name="site-1", instance="gpu-1:7:c1")
    job.membership.join(job.connection, lease, "site-1.job-1", {}, ttl_ms=BEAT, beating=True)


@sets("job/beat", clients="retention", client="retention", heartbeat="beat_ttl")
def a_client_beats(job: JobBench) -> Iterator[None]:
    whole(job)
    lease = job.joined()
    yield
    job.beat(lease, BEAT)


@sets("job/beat")
def a_client_beats_that_has_left(job: JobBench) -> Iterator[None]:
    whole(job)
    lease = job.joined()
    job.membership.leave(job.connection, lease)
    yield
    job.beat(lease, BEAT)


@sets("job/begin", **_JOB)
def a_server_resumes_a_job(job: JobBench) -> Iterator[None]:
    whole(job)
    lease = job.serve()
    yield
    job.begin(lease)


@sets("job/list_members", task_prefix="retention", **_JOB)
def a_server_lists_the_members(job: JobBench) -> Iterator[None]:
    whole(job)
    yield
    job.list_members()


@sets("job/await", job="retention")
def a_server_waits_for_sites(job: JobBench) -> Iterator[None]:
    whole(job)
    yield
    job.membership.note_awaited(job.connection, job.lease, AwaitedSites(sites=("site-2",)))


@sets("job/end", task_prefix="settled", **dict.fromkeys(_JOB, "settled"))
def a_job_ends(job: JobBench) -> Iterator[None]:
    whole(job)
    yield
    job.membership.end(job.connection, job.lease, "done")


@sets("job/schedule", task="retention", standing="retention", blobs="retention")
def a_task_is_scheduled(job: JobBench) -> Iterator[None]:
    store = job.started()
    yield
    store.schedule(task(data=large()))


@sets("job/note_client_task", blobs="retention")
def a_result_is_noted(job: JobBench) -> Iterator[None]:
    store = whole(job)
    yield
    store.note("t1", [received(result=large(3))])


@sets("job/note_client_task", blobs="retention")
def a_result_is_noted_of_a_task_that_is_gone(job: JobBench) -> Iterator[None]:
    store = whole(job)
    yield
    store.note("t9", [received(result=large(3))])


@sets("job/finish", ended="retention")
def a_task_ends_that_a_checkpoint_will_contain(job: JobBench) -> Iterator[None]:
    store = whole(job)
    yield
    store.finish("t1", "ok", 2.0)


@sets("job/finish", task="settled")
def a_task_ends_that_nobody_needs(job: JobBench) -> Iterator[None]:
    store = job.started(resume=False)
    store.schedule(task())
    store.note("t1", [sent()])
    yield
    store.finish("t1", "ok", 2.0)


@sets("job/checkpoint", task_prefix="settled", blobs="retention")
def a_checkpoint_is_written(job: JobBench) -> Iterator[None]:
    store = whole(job)
    store.finish("t1", "ok", 2.0)
    yield
    store.checkpoint({}, large(4))


@sets("job/append", history="retention")
def a_history_grows(job: JobBench) -> Iterator[None]:
    store = whole(job)
    yield
    store.append(1, [b"2"])


@sets("job/own_payloads", blobs="retention")
def a_payload_is_owned(job: JobBench) -> Iterator[None]:
    store = whole(job)
    yield
    store.own("flare:blob:{b9}", 1)


# -- the job store -----------------------------------------------------------------------------------------------------

RECORD_TTLS: Final = {"jobs": "retention", "record": "retention", "log": "retention", "chunks": "retention"}


@sets("store/submit", **RECORD_TTLS)
def a_job_is_submitted(store: StoreBench) -> Iterator[None]:
    file = store.store._steps.upload("job-1-archive", b"archive")
    yield
    store.run(submission(store, "job-1", file, 1))


@sets("store/restore", jobs="retention", record="retention", log="retention")
def a_lost_job_is_restored(store: StoreBench) -> Iterator[None]:
    record = store.running()
    store.connection.call("FLUSHALL")
    yield
    assert store.store.restore(record)


@sets("store/advance")
def a_job_moves_on(store: StoreBench) -> Iterator[None]:
    store.submit()
    yield
    assert store.store.advance("job-1", SUBMITTED, DISPATCHED)


@sets("store/advance", **RECORD_TTLS)
def a_job_ends_in_the_store(store: StoreBench) -> Iterator[None]:
    store.running()
    store.store.put_result("job-1", b"result")
    yield
    assert store.store.advance("job-1", RUNNING, "FINISHED:COMPLETED")


@sets("store/abort", **RECORD_TTLS)
def a_job_is_aborted_before_it_is_dispatched(store: StoreBench) -> Iterator[None]:
    store.submit()
    yield
    store.run(store_scripts.ABORT.command(store.values("job-1"), by="ann", reason="", change=b"{}"))


@sets("store/result", **RECORD_TTLS)
def a_job_gets_a_result(store: StoreBench) -> Iterator[None]:
    store.running()
    file = store.store._steps.upload("job-1-result", b"result")
    yield
    store.run(result(store, "job-1", file, 1))


@sets("store/log", log="the record's")
def a_line_is_logged(store: StoreBench) -> Iterator[None]:
    store.running()
    yield
    store.connection.call("PEXPIRE", store.keys.record("job-1"), RECORD)
    store.store.append_log("job-1", "site-1", ["a line"])
    store.connection.call("PEXPIRE", store.keys.record("job-1"), SHORT)


@sets("store/renew", **RECORD_TTLS)
def a_job_is_renewed(store: StoreBench) -> Iterator[None]:
    store.running()
    store.store.put_result("job-1", b"result")
    yield
    store.run(store_scripts.RENEW.command(store.values("job-1")))


@sets("store/renew", jobs="retention")
def a_job_is_renewed_that_was_renewed_a_moment_ago(store: StoreBench) -> Iterator[None]:
    store.running()
    yield
    store.connection.call("PEXPIRE", store.keys.record("job-1"), store.store.policy.retention_ms)
    store.run(store_scripts.RENEW.command(store.values("job-1")))
    store.connection.call("PEXPIRE", store.keys.record("job-1"), SHORT)


@sets("store/renew")
def a_finished_job_is_not_renewed(store: StoreBench) -> Iterator[None]:
    store.finished()
    yield
    store.run(store_scripts.RENEW.command(store.values("job-1")))


@sets("store/delete", deleted="retention")
def a_job_is_deleted(store: StoreBench) -> Iterator[None]:
    store.finished("job-2")
    store.store.delete("job-2")
    store.finished()
    yield
    store.run(store_scripts.DELETE.command(store.values("job-1")))
