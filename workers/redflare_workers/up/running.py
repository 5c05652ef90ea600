"""``RunningUp``: how a command in the same folder finds the federation that ``redflare up`` runs there."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

import orjson

from redflare_workers.processes.process_table import start_time
from redflare_workers.util.atomic_file import replacing

_FILE: Final = "running.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningUp:
    """How to connect to a federation, and the process that runs it."""

    url: str = field(repr=False)
    pid: int
    #: see ``process_table.start_time``
    started: str

    @classmethod
    def of_this_process(cls, url: str) -> Self:
        return cls(url=url, pid=os.getpid(), started=start_time(os.getpid()))

    def write(self, folder: Path) -> None:
        """Write it for commands; only the owner may read it, because a URL may hold a password."""
        with replacing(folder / _FILE) as file:
            file.write(orjson.dumps(asdict(self)))

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove what ``write`` has written."""
        (folder / _FILE).unlink(missing_ok=True)

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Read it; None: nothing runs there now, whatever an ``up`` that was killed, or a stranger, has left."""
        try:
            found = cls(**orjson.loads((folder / _FILE).read_bytes()))
            return found if found.started and start_time(found.pid) == found.started else None
        except (OSError, TypeError, ValueError):
            return None
