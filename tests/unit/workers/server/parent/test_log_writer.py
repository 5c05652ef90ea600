"""The thread that writes lines of jobs' logs into the job store."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.server.parent.log_writer import LogWriter
from redflare_workers.util.line_queue import MOST_BYTES


@pytest.fixture
def store() -> Iterator[JobStore]:
    with Server.connect(client=fakeredis.FakeRedis()) as server:
        made = JobStore(server, Keys("flare"))
        made.submit({"name": "means"}, b"zip", "job-1", submitter="ann")
        yield made


def lines_of(store: JobStore) -> list[tuple[str, str]]:
    return [(line.site, line.text) for line in store.read_log("job-1") if line.site]


def test_lines_are_stored_in_order(store: JobStore) -> None:
    writer = LogWriter(store)
    writer.write("job-1", "site-1", ["one", "two"])
    writer.start()
    writer.write("job-1", "server", ["three"])
    writer.write("job-1", "server", [])
    assert writer.flush(5)
    assert lines_of(store) == [("site-1", "one"), ("site-1", "two"), ("server", "three")]
    writer.stop(5)


def test_lines_of_a_log_are_stored_with_their_level_and_without_their_own_time(store: JobStore) -> None:
    writer = LogWriter(store)
    logged = "2026-11-29 21:14:10,123 {} redflare_workers.workflow.fedavg.FedAvg: round {}".format
    lines = [logged("INFO", 1), logged("INFO", 2), "printed", logged("ERROR", "3\n  Traceback"), "  a line below"]
    writer.write("job-1", "server", lines)
    writer.start()
    writer.stop(5)
    assert [(line.level, line.text) for line in store.read_log("job-1") if line.site] == [
        ("INFO", "round 1"),
        ("INFO", "round 2"),
        ("", "printed"),
        ("ERROR", "round 3\n  Traceback"),
        ("", "  a line below"),
    ]


def test_queued_lines_are_written_before_it_stops(store: JobStore) -> None:
    writer = LogWriter(store)
    writer.write("job-1", "site-1", ["one"])
    writer.start()
    writer.stop(5)
    assert lines_of(store) == [("site-1", "one")]


def test_lines_of_a_job_that_is_gone_do_not_hold_up_others(store: JobStore) -> None:
    writer = LogWriter(store)
    writer.start()
    writer.write("job-2", "site-1", ["one"])
    writer.write("job-1", "site-1", ["two"])
    writer.stop(5)
    assert lines_of(store) == [("site-1", "two")]


def test_an_unreachable_redis_does_not_cost_endless_memory(store: JobStore) -> None:
    writer = LogWriter(store)
    for _ in range(30):
        writer.write("job-1", "site-1", ["line " * 200] * 1000)
    writer.start()
    assert writer.flush(20)
    writer.write("job-1", "site-1", ["after"])
    writer.stop(5)
    (_, note), (_, after) = lines_of(store)[-2:]
    kept = len(store.read_log("job-1")) - 3
    assert (note.partition(",")[0], after) == (f"({30_000 - kept} lines", "after")


def test_one_job_that_logs_too_much_costs_no_line_of_another(store: JobStore) -> None:
    store.submit({"name": "means"}, b"zip", "job-2", submitter="ann")
    writer = LogWriter(store)
    for _ in range(40):
        writer.write("job-1", "site-1", ["x" * 200_000] * 500)
    writer.write("job-2", "site-1", ["one", "two"])
    writer.write("job-1", "site-2", ["of another site"])
    writer.start()
    assert writer.flush(20)
    writer.stop(5)
    assert [line.text for line in store.read_log("job-2") if line.site] == ["one", "two"]
    lines = lines_of(store)
    assert ("site-2", "of another site") in lines
    assert [text for _, text in lines if "left out" in text] == [text for site, text in lines[-1:]]
    assert sum(len(text) for _, text in lines) < 2 * MOST_BYTES


class Odd(str):
    """A line that raises an unexpected exception in the writer."""

    __slots__ = ()

    def rstrip(self, chars: str | None = None) -> str:
        raise LookupError("odd")


def test_a_line_that_cannot_be_stored_does_not_end_the_writing(store: JobStore) -> None:
    writer = LogWriter(store)
    writer.start()
    writer.write("job-1", "site-1", [Odd("one")])
    assert writer.flush(5)
    writer.write("job-1", "site-1", ["two"])
    assert writer.flush(5)
    assert lines_of(store) == [("site-1", "two")]
    writer.stop(5)
