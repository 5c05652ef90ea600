"""A process that writes into an audit log as fast as it can, and tells of each entry that it has written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from redflare_workers.audit.audit_log import AuditLog
from redflare_workers.audit.entry import Action

from tests.programs.child_pipe import ParentPipe


@dataclass(frozen=True, kw_only=True)
class AuditWriterArgs:
    """Arguments of the program."""

    folder: Path
    #: bytes that the system writes at once; 0: any number
    piece: int = 0


def main(connection: Connection, log: str, args: AuditWriterArgs) -> None:
    """Write until the test kills this process."""
    pipe = ParentPipe(connection, log)
    if args.piece:
        _write_in_pieces(args.piece)
    audit = AuditLog(args.folder, {"site": "site-1"}, file_bytes=20_000)
    while True:
        audit.record(Action.START, {"job": "monday"}, by="server", reason="as fast as it can")
        assert not audit.obstacle()
        assert audit.head
        pipe.send("written", audit.head.sequence)


def _write_in_pieces(piece: int) -> None:
    """Let a kill come between two pieces of a line."""
    at_once: Any = os.pwrite

    def pwrite(handle: int, data: bytes, offset: int) -> int:
        return sum(at_once(handle, data[i : i + piece], offset + i) for i in range(0, len(data), piece))

    os.pwrite = pwrite  # type: ignore[assignment]
