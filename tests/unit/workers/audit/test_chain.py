"""What ``verify`` and ``compare`` find: any one change of a log, and the first entry that it touches."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redflare_workers.audit.audit_files import audit_files, read_entries
from redflare_workers.audit.audit_log import AuditLog
from redflare_workers.audit.chain import NotedHead, compare, noted_heads, verify, writer_of
from redflare_workers.audit.entry import Action, AuditEntry, AuditHead

#: Entries of the log that is changed: with the first, which opens it.
ENTRIES: Final = 12
places = st.integers(0, ENTRIES - 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of ``ENTRIES`` entries in several files."""
    folder = tmp_path_factory.mktemp("audit")
    log = AuditLog(folder, {"site": "site-1"}, file_bytes=1500)
    for number in range(ENTRIES - 1):
        log.record(
            Action.DEPLOY, {"job": f"job-{number}"}, by="server", reason="ünïcode", sites=["site-1"], count=number
        )
    return folder


@contextmanager
def changed(written: Path, lines: list[bytes]) -> Iterator[Path]:
    """The same files, with other lines in them: as many in each as before, and the rest in the last."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = audit_files(written)
        for path in files:
            count = len(path.read_bytes().splitlines()) if path is not files[-1] else len(lines)
            (folder / path.name).write_bytes(b"".join(line + b"\n" for line in lines[:count]))
            lines = lines[count:]
        yield folder


def lines_of(folder: Path) -> list[bytes]:
    return [line for path in audit_files(folder) for line in path.read_bytes().splitlines()]


def first_fault(folder: Path) -> int:
    """The sequence of the first entry that is wrong; 0: none is."""
    fault = verify(folder).fault
    return fault.sequence if fault else 0


def test_a_log_in_several_files_is_one_chain(written: Path) -> None:
    assert len(audit_files(written)) > 2
    report = verify(written)
    assert (report.entries, report.fault, report.torn) == (ENTRIES, None, "")
    assert report.last == list(read_entries(written))[-1]


def test_a_hash_can_be_computed_without_redflare(written: Path) -> None:
    for line in lines_of(written):
        document = json.loads(line)
        said = document.pop("hash")
        content = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(content.encode()).hexdigest() == said


@given(places, st.data())
@settings(deadline=None)
def test_a_byte_that_was_altered_is_found_in_its_entry(written: Path, place: int, data: Any) -> None:
    lines = lines_of(written)
    line = bytearray(lines[place])
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] = data.draw(st.integers(32, 126).filter(lambda byte: byte != lines[place][at]))
    with changed(written, [*lines[:place], bytes(line), *lines[place + 1 :]]) as folder:
        assert first_fault(folder) == place + 1


@given(
    places, st.sampled_from(["time", "action", "by", "reason", "subject", "facts", "sequence", "claimed", "previous"])
)
@settings(deadline=None)
def test_an_entry_that_was_altered_and_hashed_again_is_found_by_the_next(written: Path, place: int, key: str) -> None:
    lines = lines_of(written)
    document = orjson.loads(lines[place])
    document.pop("hash")
    other = {"subject": {"job": "other"}, "facts": {}, "sequence": 77, "claimed": key, "previous": "f" * 64}
    other |= {"claimed": not document["claimed"], "time": "2020-01-01T00:00:00.000Z"}
    forged = AuditEntry.make(**{**document, key: other.get(key, "other")}).to_line()[:-1]
    with changed(written, [*lines[:place], forged, *lines[place + 1 :]]) as folder:
        found = first_fault(folder)
    if key in ("sequence", "previous"):
        assert found == place + 1
    elif place < ENTRIES - 1:
        assert found == place + 2
    else:
        # nothing follows it: only another log can tell
        head = list(read_entries(written))[-1].head
        noted = NotedHead(head=head, time="", noted_in=1)
        with changed(written, [*lines[:place], forged]) as folder:
            assert first_fault(folder) == 0
            fault = compare(folder, [noted])
        assert fault is not None
        assert fault.sequence == ENTRIES


@given(places, st.integers(1, ENTRIES))
@settings(deadline=None)
def test_entries_that_were_removed_are_named_unless_none_follows(written: Path, place: int, count: int) -> None:
    lines = lines_of(written)
    left = lines[:place] + lines[place + count :]
    with changed(written, left) as folder:
        assert first_fault(folder) == (place + 1 if place + count < ENTRIES else 0)


@given(places, places)
@settings(deadline=None)
def test_entries_in_each_other_s_place_are_named_by_the_first(written: Path, one: int, other: int) -> None:
    lines = lines_of(written)
    lines[one], lines[other] = lines[other], lines[one]
    with changed(written, lines) as folder:
        assert first_fault(folder) == (min(one, other) + 1 if one != other else 0)


@given(places, places)
@settings(deadline=None)
def test_a_copy_that_was_inserted_is_named_by_its_place(written: Path, copied: int, place: int) -> None:
    lines = lines_of(written)
    with changed(written, [*lines[:place], lines[copied], *lines[place:]]) as folder:
        # a copy right before its original: the original is the one too many
        assert first_fault(folder) == (place + 2 if copied == place else place + 1)


@given(places)
@settings(deadline=None)
def test_a_forged_entry_that_was_inserted_is_found_by_the_one_behind_it(written: Path, place: int) -> None:
    lines = lines_of(written)
    document = orjson.loads(lines[place])
    content = {key: value for key, value in document.items() if key != "hash"}
    forged = AuditEntry.make(**{**content, "sequence": place + 2, "previous": document["hash"]}).to_line()[:-1]
    with changed(written, [*lines[: place + 1], forged, *lines[place + 1 :]]) as folder:
        # at the end there is none
        assert first_fault(folder) == (place + 3 if place < ENTRIES - 1 else 0)


def test_a_file_that_is_gone_is_found(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "audit")
    first, second, *_ = audit_files(tmp_path / "audit")
    kept = len(first.read_bytes().splitlines())
    second.unlink()
    assert first_fault(tmp_path / "audit") == kept + 1


def test_a_line_that_is_being_written_is_no_fault(written: Path) -> None:
    with changed(written, lines_of(written)) as folder:
        last = audit_files(folder)[-1]
        last.write_bytes(last.read_bytes()[:-30])
        report = verify(folder)
    assert (report.entries, report.fault) == (ENTRIES - 1, None)
    assert report.torn.startswith(str(last))


def test_what_was_cut_at_the_end_is_found_by_the_heads_that_another_log_has(written: Path, tmp_path: Path) -> None:
    server = AuditLog(tmp_path, {"server": "server"})
    for entry in read_entries(written):
        server.record(
            Action.END, {"job": "x"}, heads={"site-1": str(entry.head), "site-2": f"99 {'a' * 64}", "odd": "?"}
        )
    assert writer_of(written) == "site-1"
    heads = list(noted_heads(tmp_path, "site-1"))
    assert len(heads) == ENTRIES
    assert compare(written, heads) is None
    lines = lines_of(written)
    for left in range(ENTRIES):
        with changed(written, lines[:left]) as folder:
            assert first_fault(folder) == 0
            fault = compare(folder, heads)
        assert fault is not None
        assert fault.sequence == left + 1
        assert "cut" in str(fault)


def test_a_log_that_was_written_anew_is_found_by_the_heads_that_another_log_has(written: Path, tmp_path: Path) -> None:
    heads = [NotedHead(head=entry.head, time=entry.time, noted_in=1) for entry in read_entries(written)]
    other = AuditLog(tmp_path, {"site": "site-1"})
    for entry in list(read_entries(written))[1:]:
        other.record(Action(entry.action), entry.subject, by=entry.by, reason=entry.reason, **entry.facts)
    assert first_fault(tmp_path) == 0
    fault = compare(tmp_path, heads)
    assert fault is not None
    assert "written anew" in fault.text


@pytest.mark.parametrize(
    "text", [None, 7, "", "0 " + "a" * 64, "7 " + "g" * 64, "7  " + "a" * 64, "7 " + "a" * 64 + "\n"]
)
def test_what_is_no_head_is_none(text: object) -> None:
    assert AuditHead.parse(text) is None
