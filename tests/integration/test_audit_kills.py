"""A writer of the audit log that is killed again and again loses no entry that it has written, and leaves one chain."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from redflare_workers.audit.audit_files import read_entries
from redflare_workers.audit.chain import verify

from tests.programs import audit_writer
from tests.programs.audit_writer import AuditWriterArgs
from tests.support.process.child import Child


@pytest.mark.parametrize("piece", [0, 7])
def test_a_writer_that_is_killed_leaves_a_chain_with_all_that_it_has_written(tmp_path: Path, piece: int) -> None:
    folder, rng = tmp_path / "audit", random.Random(1)
    for start in range(1, 21):
        with Child(audit_writer.main, AuditWriterArgs(folder=folder, piece=piece), tmp_path / "log") as writer:
            for _ in range(rng.randint(1, 20)):
                writer.receive("written")
            writer.kill()
            [last] = writer.received("written")[-1]
        report = verify(folder)
        assert report.fault is None
        assert report.entries >= last
        assert sum(entry.action == "open" for entry in read_entries(folder)) == start
    recovered = [entry for entry in read_entries(folder) if entry.action == "recover"]
    assert len(recovered) == len(list(folder.glob("torn-*"))) <= 19
    assert recovered or not piece
