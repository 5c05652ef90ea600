"""Finds and kills processes that an earlier parent has started, without hitting others that got their number.

A job's process, and all that it starts, carries a mark in its environment. On Linux it is read from ``/proc``;
elsewhere only the process itself can be found, by its number and the time of its start.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

#: Variable in the environment of a job's process and of all that it starts.
MARK: Final = "REDFLARE_RUN"

_PROC: Final = Path("/proc")
#: Index of the start time behind the name of the program in ``/proc/<pid>/stat``, and of the state.
_START, _STATE = 19, 0
_POLL: Final = 0.05


def start_time(pid: int) -> str:
    """When a process was started, a text that differs for others with its number; "": it does not run."""
    if sys.platform == "linux":
        try:
            fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[_STATE] in "ZX" else fields[_START]
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip()


def wait_gone(pid: int, started: str, timeout: float) -> bool:
    """Wait until a process that is not a child of this one has ended; False: it still runs."""
    deadline = time.monotonic() + timeout
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.pidfd_open(pid)
        try:
            if start_time(pid) == started:
                poller = select.poll()
                poller.register(descriptor, select.POLLIN)
                poller.poll(timeout * 1000)
        finally:
            os.close(descriptor)
    # where there is no pidfd
    while start_time(pid) == started != "" and time.monotonic() < deadline:
        time.sleep(_POLL)
    return not started or start_time(pid) != started


def marked(mark: str, variable: str = MARK) -> list[int]:
    """Return the numbers of the processes that carry a mark, without this one; none on systems without ``/proc``.

    Args:
        variable: in the environment, that has the mark.
    """
    wanted = f"{variable}={mark}".encode()
    return [
        int(entry.name)
        for entry in (_PROC.iterdir() if mark and _PROC.is_dir() else ())
        if entry.name.isdigit() and int(entry.name) != os.getpid() and wanted in _environment(int(entry.name))
    ]


def wait_marked_gone(mark: str, timeout: float, variable: str = MARK) -> bool:
    """Wait until no process carries a mark; False: some still do after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while (found := marked(mark, variable)) and time.monotonic() < deadline:
        for pid in found:
            wait_gone(pid, start_time(pid), max(deadline - time.monotonic(), 0.0))
    return not found


def kill_marked(mark: str, timeout: float = 5.0, variable: str = MARK) -> list[int]:
    """Send SIGKILL to all processes that carry a mark, wait until they are gone, and return their numbers."""
    killed: list[int] = []
    deadline = time.monotonic() + timeout
    while (found := marked(mark, variable)) and time.monotonic() < deadline:
        killed += [pid for pid in found if pid not in killed]
        for pid in found:
            _kill_if_marked(pid, f"{variable}={mark}".encode())
        for pid in found:
            wait_gone(pid, start_time(pid), max(deadline - time.monotonic(), 0.0))
    return killed


def kill_group(pid: int, started: str) -> None:
    """Send SIGKILL to the group of a process, if it is the one that was started at that time."""
    if started and start_time(pid) == started:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _kill_if_marked(pid: int, wanted: bytes) -> None:
    with contextlib.suppress(OSError):
        if not hasattr(os, "pidfd_open"):
            os.kill(pid, signal.SIGKILL)
            return
        descriptor = os.pidfd_open(pid)
        try:
            # another process may have got the number since it was read
            if wanted in _environment(pid):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
