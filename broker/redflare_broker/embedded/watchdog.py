"""``Watchdog``: the process that runs an embedded server, seen from here; ``watchdog_main`` is its program."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Final

from redflare_broker.errors import ConfigError, ServerError

#: For the C library of the server: payloads come and go, and taking fresh pages from the system for each makes a large
#: write a third slower; so up to 256 MiB that were freed are kept for the next.
_MEMORY: Final = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}

#: Seconds to wait for a directory: a server that is being ended in it is given ten to write its data.
LOCK_TIMEOUT: Final = 12.0


class Watchdog:
    """A pipe that keeps the server alive, and one that reports on it; to be used by one thread."""

    def __init__(self, directory: Path, temporary: bool, command: list[str]) -> None:
        program = str(Path(__file__).with_name("watchdog_main.py"))
        fate = "remove" if temporary else "keep"
        self.mine = True
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", program, str(directory), fate, *command],
            bufsize=0,  # or a line could wait in a buffer, where select does not see it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**_MEMORY, **os.environ},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._lifeline = self._process.stdin
        self._reports = self._process.stdout
        _watchdogs.add(self)

    def await_start(self, deadline: float) -> int:
        """Wait until the server runs, and return its process id."""
        if self.read_report(min(LOCK_TIMEOUT, deadline - time.monotonic())) != "locked":
            raise ConfigError(f"directory {str(self._directory)!r} is in use by another embedded server: stop it first")
        status, _, rest = self.read_report(deadline - time.monotonic()).partition(" ")
        if status != "started":
            raise ServerError(f"the embedded server in {str(self._directory)!r} cannot be run: {rest or 'no answer'}")
        return int(rest)

    def has_report(self) -> bool:
        """Whether a report waits: that the server has ended, or the end of file of a watchdog that is gone."""
        return self.await_report(0.0)

    def await_report(self, timeout: float | None) -> bool:
        """Wait for a report, without reading it; None: without a limit."""
        return bool(select.select([self._reports], [], [], None if timeout is None else max(timeout, 0.0))[0])

    def read_report(self, timeout: float) -> str:
        """Read the next report; empty when none comes in time, or when the watchdog is gone."""
        return self._reports.readline().decode().strip() if self.await_report(timeout) else ""

    def end(self) -> None:
        """End the server and wait until all is cleaned up; do nothing in a forked child, whose server it is not."""
        if self.mine:
            self._lifeline.close()
            self._process.wait()
            self._reports.close()

    def abandon(self) -> None:
        """In a forked child: let go of the pipe, or the server would outlive the parent while the child lives."""
        self.mine = False
        self._lifeline.close()


_watchdogs: Final[weakref.WeakSet[Watchdog]] = weakref.WeakSet()


def _abandon_all() -> None:
    for watchdog in list(_watchdogs):
        watchdog.abandon()


os.register_at_fork(after_in_child=_abandon_all)
