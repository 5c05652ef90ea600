"""``AuditLog``: goes on after a crash at any byte, over many files, and when the disk was full."""

from __future__ import annotations

import hashlib
import shutil
import stat
import threading
from pathlib import Path
from typing import Final

import pytest
from redflare_broker.errors import ConfigError
from redflare_workers.audit.audit_files import audit_files, file_of, read_entries
from redflare_workers.audit.audit_log import AuditLog
from redflare_workers.audit.chain import verify
from redflare_workers.audit.entry import Action, AuditEntry

from tests.support.file_limit import files_end_at

SITE: Final = {"site": "site-1"}


def actions(folder: Path) -> list[str]:
    return [entry.action for entry in read_entries(folder)]


def assert_whole(folder: Path, entries: int) -> None:
    report = verify(folder)
    assert (report.fault, report.entries, report.torn) == (None, entries, "")


def test_an_entry_says_what_when_who_and_why(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, {"server": "server"}, clock=lambda: 1_800_000_000.1234)
    log.record(Action.ABORT, {"job": "monday", "submission": "5be1"}, by="ann", reason="enough", sites=("a", "b"))
    opened, entry = read_entries(tmp_path)
    assert (opened.sequence, opened.action, opened.subject, opened.previous) == (
        1,
        "open",
        {"server": "server"},
        "0" * 64,
    )
    assert (opened.by, opened.claimed) == ("server", False)
    assert (entry.sequence, entry.time, entry.at) == (2, "2027-01-15T08:00:00.123Z", 1_800_000_000_123)
    assert (entry.action, entry.by, entry.claimed, entry.reason) == ("abort", "ann", True, "enough")
    assert entry.facts == {"sites": ["a", "b"]}
    assert entry.previous == opened.hash
    assert log.head == entry.head
    assert stat.S_IMODE(tmp_path.joinpath("000001.jsonl").stat().st_mode) == 0o600


def test_somebody_without_a_name_is_not_taken_for_the_writer(tmp_path: Path) -> None:
    AuditLog(tmp_path, SITE).record(Action.ABORT, {"job": "monday"}, by="")
    entry = list(read_entries(tmp_path))[-1]
    assert (entry.by, entry.claimed) == ("?", True)


def test_a_process_that_fails_says_why_it_closes_the_log(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), AuditLog(tmp_path, SITE):
        raise ConfigError("no such folder")
    log = AuditLog(tmp_path, SITE)
    log.close("stopped")
    log.close("again")
    log.record(Action.START, {"job": "too late"})
    assert [(entry.action, entry.reason) for entry in read_entries(tmp_path)] == [
        ("open", ""),
        ("close", "no such folder"),
        ("open", ""),
        ("close", "stopped"),
    ]


def test_the_next_process_goes_on_with_the_chain_in_the_next_file_too(tmp_path: Path) -> None:
    for _ in range(3):
        log = AuditLog(tmp_path, SITE, file_bytes=1000)
        for _ in range(5):
            log.record(Action.START, {"job": "monday"})
        log.close("stopped")
    assert_whole(tmp_path, 21)
    assert len(audit_files(tmp_path)) > 3
    assert actions(tmp_path)[5:9] == ["start", "close", "open", "start"]


def test_entries_of_many_threads_are_one_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, SITE)

    def write(number: int) -> None:
        for _ in range(20):
            log.record(Action.FAULT, {}, by=f"thread-{number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_whole(tmp_path, 81)


def test_what_json_does_not_have_is_written_all_the_same(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, SITE)
    log.record(Action.END, {"job": "x"}, reason="\udcff" * 3, odd=Path("x"), large=1 << 70, many={"b", "a"})
    log.record(Action.END, {"job": "x"}, sites=["s" * 400] * 5000)
    assert log.obstacle() == ""
    _, odd, large = read_entries(tmp_path)
    assert odd.facts == {"odd": "x", "large": str(1 << 70), "many": ["a", "b"]}
    assert "left_out" in large.facts
    assert_whole(tmp_path, 3)


def test_a_line_that_was_torn_at_any_byte_is_kept_aside_and_the_chain_goes_on(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log", SITE)
    log.record(Action.DEPLOY, {"job": "monday"})
    log.record(Action.START, {"job": "monday"}, reason="ü")
    content = (tmp_path / "log" / "000001.jsonl").read_bytes()
    begin = content.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(1, len(content) - begin):
        folder = tmp_path / "torn"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "000001.jsonl").write_bytes(content[: begin + length])
        AuditLog(folder, SITE)
        assert_whole(folder, 4)
        assert actions(folder) == ["open", "deploy", "recover", "open"]
        assert (folder / "torn-3").read_bytes() == content[begin : begin + length]
        facts = list(read_entries(folder))[2].facts
        sha256 = hashlib.sha256(content[begin : begin + length]).hexdigest()
        assert facts == {"file": "torn-3", "bytes": length, "sha256": sha256}


@pytest.mark.parametrize("torn", [b'{"action":"st', b"\0" * 100])
def test_a_process_that_dies_while_it_recovers_is_recovered_from(tmp_path: Path, torn: bytes) -> None:
    AuditLog(tmp_path, SITE)
    path = tmp_path / "000001.jsonl"
    whole = path.read_bytes()
    # kept aside, and not cut yet
    path.write_bytes(whole + torn)
    (tmp_path / "torn-2").write_bytes(torn)
    AuditLog(tmp_path, SITE)
    assert (tmp_path / "torn-2").read_bytes() == torn
    assert_whole(tmp_path, 3)
    # cut, and not told yet
    path.write_bytes(whole)
    AuditLog(tmp_path, SITE)
    assert actions(tmp_path) == ["open", "recover", "open"]
    # torn while it was told
    second = path.read_bytes()[len(whole) :][:40]
    path.write_bytes(whole + second)
    AuditLog(tmp_path, SITE)
    assert (tmp_path / "torn-2").read_bytes() == torn + second
    assert actions(tmp_path) == ["open", "recover", "open"]
    assert_whole(tmp_path, 3)


def test_a_first_line_that_was_torn_is_recovered_in_the_first_and_in_any_other_file(tmp_path: Path) -> None:
    file_of(tmp_path, 1).write_bytes(b'{"act')
    log = AuditLog(tmp_path, SITE)
    assert actions(tmp_path) == ["recover", "open"]
    log.close()
    file_of(tmp_path, 2).write_bytes(b'{"act')
    AuditLog(tmp_path, SITE)
    assert actions(tmp_path) == ["recover", "open", "close", "recover", "open"]
    assert len(file_of(tmp_path, 2).read_bytes().splitlines()) == 2
    assert_whole(tmp_path, 5)


@pytest.mark.parametrize("wrong", ["altered", "no entry"])
def test_a_log_whose_end_was_altered_is_not_gone_on_with(tmp_path: Path, wrong: str) -> None:
    AuditLog(tmp_path, SITE)
    path = tmp_path / "000001.jsonl"
    line = path.read_bytes()
    path.write_bytes(line.replace(b"site-1", b"site-2", 1) if wrong == "altered" else b"hello\n")
    with pytest.raises(ConfigError, match=r"000001\.jsonl line 1 .*redflare audit verify"):
        AuditLog(tmp_path, SITE)


def test_a_log_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    file_of(tmp_path, 1).mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        AuditLog(tmp_path, SITE)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_entries_wait_while_the_disk_is_full_and_are_written_in_order_afterwards(tmp_path: Path, room: int) -> None:
    log = AuditLog(tmp_path, SITE)
    whole = (tmp_path / "000001.jsonl").read_bytes()
    with files_end_at(len(whole) + room):
        for number in range(5):
            log.record(Action.END, {"job": f"job-{number}"})
        assert "cannot be written" in log.obstacle()
        assert str(tmp_path) in log.obstacle()
    assert verify(tmp_path).entries == 1
    assert log.obstacle() == ""
    assert [entry.subject["job"] for entry in list(read_entries(tmp_path))[1:]] == [f"job-{n}" for n in range(5)]
    assert_whole(tmp_path, 6)


def test_a_process_that_is_killed_while_the_disk_is_full_leaves_a_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, SITE)
    size = (tmp_path / "000001.jsonl").stat().st_size
    with files_end_at(size + 50):
        log.record(Action.END, {"job": "lost"})
        # the next process finds no room either
        second = AuditLog(tmp_path, SITE)
        assert second.obstacle()
    assert second.obstacle() == ""
    assert_whole(tmp_path, 3)


def test_a_log_without_room_for_its_first_entry_begins_when_there_is_some(tmp_path: Path) -> None:
    with files_end_at(0):
        log = AuditLog(tmp_path / "audit", SITE)
        assert log.obstacle()
        assert log.head is None
    log.record(Action.START, {"job": "monday"})
    assert log.obstacle() == ""
    assert_whole(tmp_path / "audit", 2)


def test_entries_that_are_too_many_to_wait_are_counted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, SITE)
    with files_end_at(0):
        for _ in range(1010):
            log.record(Action.END, {"job": "x"})
    log.obstacle()
    assert actions(tmp_path)[-2:] == ["end", "gap"]
    assert list(read_entries(tmp_path))[-1].facts == {"count": 10}
    assert_whole(tmp_path, 1002)


@pytest.mark.parametrize("how", ["longer", "shorter", "gone", "replaced"])
def test_a_file_that_somebody_else_changes_is_not_written_to(tmp_path: Path, how: str) -> None:
    log = AuditLog(tmp_path, SITE)
    path = tmp_path / "000001.jsonl"
    content = path.read_bytes()
    if how == "longer":
        path.write_bytes(content + content)
    elif how == "shorter":
        path.write_bytes(content[:-10])
    else:
        path.rename(tmp_path / "old")
        if how == "replaced":
            path.write_bytes(content)
    before = path.read_bytes() if path.exists() else b""
    log.record(Action.START, {"job": "monday"})
    assert log.obstacle()
    assert (path.read_bytes() if path.exists() else b"") == before


def test_an_entry_is_as_it_was_read(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, SITE)
    [entry] = read_entries(tmp_path)
    assert AuditEntry.parse(entry.to_line()[:-1]) == entry
    assert log.head == entry.head
