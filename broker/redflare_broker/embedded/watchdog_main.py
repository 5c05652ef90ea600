"""The program of the watchdog: runs a server as its child and ends it when the parent is gone. Imports nothing of ours.

    watchdog_main.py <directory> <keep|remove> <command of the server ...>

It reports to its parent ``locked`` once it has the directory, ``started <pid>`` (or ``failed <why>``), and ``ended
<exit code>`` when the server ends by itself. It runs in a new session, where no Ctrl-C reaches it: the parent
decides. The parent holds the other end of the standard input; when that closes, on purpose or because the parent was
killed, the server is ended and reaped, a temporary directory removed, and the lock released.
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
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

#: Seconds a server has to write its data and go, before it is killed.
_GRACE = 10.0


def main(directory: str, fate: str, *command: str) -> None:
    """Run ``command`` until the standard input ends."""
    # a parent may ignore it, and the exit code of the server would be lost
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _leave)
    runner = ServerRunner(Path(directory), command)
    threading.Thread(target=runner.run, name="server-runner", daemon=True).start()
    try:
        sys.stdin.buffer.read()
    finally:
        runner.end()
        if fate == "remove":
            shutil.rmtree(directory, ignore_errors=True)


class ServerRunner:
    """Runs the server from a second thread, so that the main thread notices at once that the parent is gone."""

    def __init__(self, directory: Path, command: Sequence[str]) -> None:
        self._directory = directory
        self._command = command
        self._gate = threading.Lock()
        self._ending = False
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Take the directory, start the server, report its end. The lock is held until this process ends."""
        lock = (self._directory / "server.lock").open("ab")
        # A server that was ended a moment ago may still be writing its last lines into the same directory.
        fcntl.flock(lock, fcntl.LOCK_EX)
        _report("locked")
        with self._gate, (self._directory / "server.log").open("ab") as log:
            if self._ending:
                return
            try:
                self._server = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._directory
                )
            except OSError as error:
                _report(f"failed {error}")
                return
        _report(f"started {self._server.pid}")
        _report(f"ended {self._server.wait()}")
        threading.Event().wait()  # holding the lock

    def end(self) -> None:
        """End the server if it was started, and start none from now on."""
        with self._gate:
            self._ending = True
        if self._server is None or self._server.poll() is not None:
            return
        self._server.terminate()
        self._server.send_signal(signal.SIGCONT)  # a stopped process would never see the first signal
        try:
            self._server.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def _report(line: str) -> None:
    with contextlib.suppress(OSError):  # the parent may be gone, which this program is made for
        os.write(1, f"{line}\n".encode())  # not through a buffer, whose rest would raise an error at exit


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main(*sys.argv[1:])
