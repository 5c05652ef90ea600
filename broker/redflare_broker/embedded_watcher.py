"""Runs a server as its child and ends it when the parent is gone. A program of its own; imports nothing of ours.

    embedded_watcher.py <directory> <keep|remove> <command of the server ...>

It tells its parent ``locked`` once the directory is its own, ``started <pid>``, and ``ended <exit code>`` when the
server ends by itself. It lives in a session of its own, where no Ctrl-C reaches it: the parent decides. The parent
holds the other end of the standard input; when that closes, on purpose or because the parent was killed, the server is
ended and reaped, a temporary directory removed, and the lock released.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

#: Seconds a server has to write its data and go, before it is killed.
_GRACE = 10.0


def main(directory: str, fate: str, *command: str) -> None:
    """Run ``command`` until the standard input ends."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        with (Path(directory) / "server.lock").open("ab") as locked:
            # A server that was ended a moment ago may still be writing its last lines into the same directory.
            fcntl.flock(locked, fcntl.LOCK_EX)
            _tell("locked")
            _run(directory, command)
    finally:
        if fate == "remove":
            shutil.rmtree(directory, ignore_errors=True)


def _run(directory: str, command: tuple[str, ...]) -> None:
    with (Path(directory) / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
    try:
        _tell(f"started {server.pid}")
        threading.Thread(target=_report, args=(server,), name="report", daemon=True).start()
        sys.stdin.buffer.read()
    finally:
        _end(server)


def _report(server: subprocess.Popen[bytes]) -> None:
    _tell(f"ended {server.wait()}")


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    if server.poll() is None:
        server.send_signal(signal.SIGCONT)  # a stopped process would never see the first signal
    try:
        server.wait(_GRACE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # the parent may be gone, which is what we are here for
        os.write(1, f"{line}\n".encode())  # not through a buffer, whose rest would be complained of at the end


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main(*sys.argv[1:])
