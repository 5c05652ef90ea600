"""``redflare audit`` without a federation: what it shows and finds, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from redflare_workers.audit.audit_files import audit_files, audit_folder
from redflare_workers.audit.audit_log import AuditLog
from redflare_workers.audit.entry import Action

from tests.support.process.cli import Cli


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A server's, whose log has entries about two jobs, one of them from somebody with odd names."""
    with AuditLog(audit_folder(tmp_path), {"server": "server"}) as log:
        log.record(Action.SUBMIT, {"job": "monday", "submission": "5be1"}, by="ann@lab", name="means")
        log.record(Action.DISPATCH, {"job": "monday"}, sites=["site-1", "site-2"])
        log.record(Action.ABORT, {"job": "tuesday"}, by="bob", reason="\x1b[31mred\nand more " + "x" * 100)
        log.record(Action.FAULT, {}, by="site-1", reason="odd", kind="refused request", count=1)
    return tmp_path


def test_a_log_is_a_line_for_each_entry(cli: Cli, workspace: Path) -> None:
    ran = cli("audit", "show", str(workspace))
    lines = ran.stdout.splitlines()
    assert (ran.exit_code, len(lines)) == (0, 2 + 6)
    assert all(len(line) <= 80 for line in lines)
    assert "ann@lab ?" in lines[3]
    assert "sites site-1, site-2" in lines[4]
    assert r"\x1b[31mred" in lines[5]
    assert "\x1b" not in ran.stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--job", "monday"], ["submit", "dispatch"]),
        (["--site", "site-1"], ["dispatch", "fault"]),
        (["--action", "abort", "--action", "close"], ["abort", "close"]),
        (["--job", "monday", "--site", "site-2"], ["dispatch"]),
        (["--job", "wednesday"], []),
    ],
)
def test_entries_are_chosen_by_job_site_and_action(
    cli: Cli, workspace: Path, options: list[str], expected: list[str]
) -> None:
    ran = cli("audit", "show", str(workspace), *options, "--json")
    assert [json.loads(line)["action"] for line in ran.stdout.splitlines()] == expected
    assert ran.exit_code == (0 if expected else 1)


def test_a_log_that_was_changed_is_shown_in_json_and_by_the_exit_code(cli: Cli, workspace: Path) -> None:
    ran = cli("audit", "verify", str(workspace), "--json")
    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["entries"] == 6
    [path] = audit_files(audit_folder(workspace))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    ran = cli("audit", "verify", str(workspace), "--json")
    assert ran.exit_code == 1
    fault = json.loads(ran.stdout)["fault"]
    assert (fault["sequence"], fault["place"]) == (3, f"{path} line 3")
    ran = cli("audit", "verify", str(workspace))
    assert ran.exit_code == 1
    assert "entry 3 is the first that is not as it was written" in ran.stderr
    assert "entry 3 was removed or put elsewhere: entry 4 stands in its place" in ran.stderr


def test_a_line_that_is_being_written_is_noted(cli: Cli, workspace: Path) -> None:
    [path] = audit_files(audit_folder(workspace))
    path.write_bytes(path.read_bytes() + b'{"act')
    ran = cli("audit", "verify", str(workspace))
    assert ran.exit_code == 0
    assert "6 entries are as they were written" in ran.stdout
    assert "line 7 has no end" in ran.stderr


def test_logs_that_know_nothing_of_each_other_cannot_be_compared(cli: Cli, workspace: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    AuditLog(audit_folder(site), {"site": "site-1"}).close()
    ran = cli("audit", "verify", str(site), "--against", str(workspace))
    assert ran.exit_code == 1
    assert "has noted no entry of site-1: nothing can be compared" in ran.stderr


def test_a_log_to_compare_with_that_was_changed_is_no_witness(cli: Cli, workspace: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    AuditLog(audit_folder(site), {"site": "site-1"}).close()
    [path] = audit_files(audit_folder(workspace))
    path.write_bytes(path.read_bytes().replace(b"ann", b"eve"))
    ran = cli("audit", "verify", str(site), "--against", str(workspace))
    assert ran.exit_code == 1
    assert "the log to compare with was changed itself" in ran.stderr


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_folder_without_a_log_is_wrong_usage(cli: Cli, tmp_path: Path, command: str) -> None:
    ran = cli("audit", command, str(tmp_path))
    assert ran.exit_code == 2
    assert "there is no audit log in" in ran.stderr
