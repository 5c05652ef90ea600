"""What the server's audit log has of jobs whose records Redis loses, takes back or never had; on fakeredis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from redflare_broker.job_store.record import COMPLETED, RUNNING, UNFINISHED
from redflare_workers.audit.audit_files import audit_files, audit_folder, read_entries
from redflare_workers.audit.audit_log import AuditLog
from redflare_workers.audit.entry import AuditEntry
from redflare_workers.server.parent.held_record import HeldRecord
from redflare_workers.server.parent.record_keeper import RecordKeeper
from redflare_workers.server.parent.site_heads import SiteHeads

from tests.support.federation.client_parents import META
from tests.support.federation.parent_bench import ParentBench
from tests.support.file_limit import files_end_at
from tests.support.job.runner_bench import RunnerBench, runner_bench
from tests.support.waiting import wait_until

SERVER: Final = {"server": "server"}


class AuditedBench:
    """A job that runs, and what keeps its record, with an audit log."""

    def __init__(self, bench: RunnerBench) -> None:
        self.bench = bench
        self.folder = audit_folder(bench.workspace)
        self.restart()

    def restart(self) -> None:
        """Begin with what a server finds at its start."""
        self.log = AuditLog(self.folder, SERVER)
        self.keeper = RecordKeeper(self.bench.store, self.bench.workspace, self.log)
        self.held = HeldRecord(self.bench.store, self.bench.record(), dict, self.log)

    def compare(self) -> None:
        self.keeper.compare(self.bench.store.list(UNFINISHED), ())

    def entries(self, job: str = "job-1") -> list[AuditEntry]:
        return [entry for entry in read_entries(self.folder) if entry.subject.get("job") == job]

    def actions(self, job: str = "job-1") -> list[str]:
        return [entry.action for entry in self.entries(job)]


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[AuditedBench]:
    with runner_bench(tmp_path) as bench:
        yield AuditedBench(bench)


def test_a_job_is_submitted_once_whatever_the_server_is_restarted(audited: AuditedBench) -> None:
    audited.compare()
    audited.compare()
    audited.restart()
    audited.compare()
    [submit] = audited.entries()
    assert (submit.action, submit.by, submit.claimed) == ("submit", "ann", True)
    assert submit.subject["submission"] == audited.bench.record().submission
    archive = audited.bench.record().archive
    assert archive is not None
    assert submit.facts["archive"] == archive.sha256


def test_a_record_that_is_lost_or_has_gone_back_is_written_again_with_an_entry(audited: AuditedBench) -> None:
    audited.bench.client.flushall()
    audited.held.compare(None)
    audited.bench.client.hset("flare:{server}:job:job-1:record", "status", "APPROVED")
    audited.held.compare(audited.bench.record())
    assert audited.actions() == ["restore", "restore"]
    assert [entry.facts["status"] for entry in audited.entries()] == [RUNNING, RUNNING]
    assert [entry.reason for entry in audited.entries()] == [
        "Redis has lost its record; it is written again",
        "its record had gone back to APPROVED",
    ]


def test_a_job_that_waited_and_is_lost_has_an_entry(audited: AuditedBench) -> None:
    audited.bench.store.submit(META, b"zip of two", "job-2", submitter="ann")
    audited.compare()
    audited.bench.client.flushall()
    audited.compare()
    audited.compare()
    assert audited.actions("job-2") == ["submit", "lose"]


@pytest.mark.parametrize("seen", [True, False])
def test_a_job_that_an_operator_aborts_before_its_dispatch_has_its_entries_once(
    audited: AuditedBench, seen: bool
) -> None:
    store = audited.bench.store
    store.submit(META, b"zip of two", "job-2", submitter="ann")
    if seen:
        audited.compare()
    store.request_abort("job-2", "bob", "by mistake")
    for job in ("job-2", "job-2", "no/id", None, "job-3"):
        audited.keeper.note_change(job)
    audited.compare()
    audited.restart()
    audited.keeper.note_change("job-2")
    audited.compare()
    submit, abort, end = audited.entries("job-2")
    assert (submit.action, submit.by) == ("submit", "ann")
    assert (abort.action, abort.by, abort.reason, abort.claimed) == ("abort", "bob", "by mistake", True)
    assert (end.action, end.by, end.claimed, end.facts["status"]) == ("end", "server", False, "FINISHED:ABORTED")


def test_an_abort_by_the_server_itself_is_not_claimed(audited: AuditedBench) -> None:
    audited.held.note_abort("server", "says an operator")
    audited.held.disowned = True
    audited.held.note_abort("server", "the store says that it is over")
    assert [entry.claimed for entry in audited.entries()] == [True, False]


def test_a_job_that_runs_can_end_although_its_entry_has_to_wait(audited: AuditedBench) -> None:
    [path] = audit_files(audited.folder)
    with files_end_at(path.stat().st_size):
        assert audited.held.advance(UNFINISHED, COMPLETED, "3 rounds") is not None
    assert audited.bench.record().status == COMPLETED
    assert audited.actions() == []
    assert audited.log.obstacle() == ""
    assert audited.actions() == ["end"]


def test_a_server_whose_log_cannot_be_written_takes_no_job_until_it_can(tmp_path: Path) -> None:
    bench = ParentBench(tmp_path)
    try:
        [path] = audit_files(audit_folder(tmp_path))
        with files_end_at(path.stat().st_size):
            bench.store.submit(META, b"no archive", "job-1")

            def waiting() -> str:
                record = bench.store.get("job-1")
                return record.waiting.reason if record and record.waiting else ""

            wait_until(lambda: "the audit log" in waiting(), 20)
            assert "File too large" in waiting()
            assert bench.status() == "SUBMITTED"
        wait_until(lambda: bench.status() == "FINISHED:CAN_NOT_SCHEDULE", 20)
    finally:
        bench.close()
    assert [entry.action for entry in read_entries(audit_folder(tmp_path))] == ["open", "submit", "refuse", "close"]


def test_heads_are_those_that_sites_have_told_last() -> None:
    heads = SiteHeads()
    first, second = f"1 {'a' * 64}", f"2 {'b' * 64}"
    for head in (first, second, None, "3 odd"):
        heads.note("site-1", head)
    assert heads.of(["site-1", "site-2"]) == {"site-1": second}
