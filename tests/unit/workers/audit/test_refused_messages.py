"""What strangers send is in the audit log, and cannot fill it."""

from __future__ import annotations

from pathlib import Path

from redflare_workers.audit.audit_files import audit_folder, read_entries
from redflare_workers.audit.audit_log import AuditLog
from redflare_workers.audit.entry import AuditEntry
from redflare_workers.audit.refused_messages import RefusedMessages

from tests.support.clock import Clock


def entries(folder: Path) -> list[AuditEntry]:
    """Those behind the first, which opens the log."""
    return list(read_entries(folder))[1:]


def test_the_first_of_a_kind_and_sender_is_an_entry_and_the_rest_become_numbers(tmp_path: Path) -> None:
    folder, clock = audit_folder(tmp_path), Clock()
    refused = RefusedMessages(AuditLog(folder, {"server": "server"}), every=3600, clock=clock)
    for number in range(1000):
        refused.note("ghost", "refused request", f"number {number}")
    refused.note("other", "refused request", "too")
    refused.flush()
    first, second = entries(folder)
    assert (first.by, first.claimed, first.reason, first.facts["kind"]) == (
        "ghost",
        True,
        "number 0",
        "refused request",
    )
    assert second.by == "other"
    clock.now += 3600
    refused.flush()
    refused.flush(final=True)
    third = entries(folder)[2]
    assert third.facts == {"kind": "refused request", "count": 999, "senders": {"ghost": 999}}
    assert len(entries(folder)) == 3


def test_a_sender_that_has_a_new_name_for_each_message_does_not_fill_the_disk(tmp_path: Path) -> None:
    folder, clock = audit_folder(tmp_path), Clock()
    refused = RefusedMessages(AuditLog(folder, {"server": "server"}), clock=clock)
    for hour in range(24):
        for number in range(1000):
            refused.note(f"ghost-{hour}-{number}", "refused request", "x" * 10_000)
        clock.now += 3600
        refused.flush()
    written = entries(folder)
    assert len(written) == 200 + 24
    assert sum(entry.facts["count"] for entry in written) == 24_000
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000
