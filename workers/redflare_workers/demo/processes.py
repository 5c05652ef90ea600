"""The demo's processes, seen from the demo: started, watched, killed on purpose, started again, ended.

Each leads a process group of its own, so a Ctrl-C in the terminal reaches only the demo, which then ends them in order.
Its standard input is a lifeline (see ``lifeline``): closing it is how the demo ends a process, and the kernel closes it
when the demo dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from redflare_workers.util.blas_env import ONE_THREAD

from .errors import DemoError
from .events import Emit, Failed

#: A process that ends by itself this often, and gets no further in between, is not started again.
MOST_DEATHS = 3

#: Time a process gets to say goodbye, in seconds, before it is killed.
GRACE = 5.0

#: Lines of the log that the error shows.
LAST_WORDS = 12


class WatchedProcess(ABC):
    """A process that is kept alive until ``stop`` or until it ends with exit code 0: if another end comes, the next
    process is started.

    Args:
        name: what it is called.
        command: that starts it.
        log: the file that its standard error goes to.
        emit: called with every event, from the watching thread.
    """

    def __init__(self, name: str, command: list[str], log: Path, emit: Emit) -> None:
        self.name = name
        self._command = command
        self._log = log.open("w+b")
        self._emit = emit
        self._stopping = False
        self._round = 0  #: the latest that it has told of
        self._lock = threading.Lock()  #: guards the process and its standard input
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False  #: the process, on purpose
        self._thread = threading.Thread(target=self._watch, name=f"demo-{name}", daemon=True)

    def __repr__(self) -> str:
        pid = self._process.pid if self._process else None
        return f"<{type(self).__name__} {self.name} pid={pid} stopping={self._stopping}>"

    def start(self) -> None:
        """Start the process and the thread that watches it."""
        self._thread.start()

    def kill(self) -> None:
        """Kill the process with SIGKILL; the next one is started."""
        with self._lock:
            if self._process and not self._stopping:
                self._killed = True
                _kill(self._process)

    def let_end(self) -> None:
        """Tell the process to end, without waiting for it; there will be no other."""
        self._stopping = True
        self._close_lifeline()

    def stop(self) -> None:
        """End the process; when this returns there is none."""
        self.let_end()
        if self._thread.ident is not None:
            self._thread.join(GRACE)
            if self._thread.is_alive() and self._process:
                _kill(self._process)
                self._thread.join()
        self._log.close()

    # -- for each kind -------------------------------------------------------------------------------------------------

    @abstractmethod
    def _began(self, pid: int) -> None:
        """It was started."""

    @abstractmethod
    def _heard(self, pid: int, told: dict[str, Any]) -> None:
        """It has told this; ``state`` and ``round`` are always there."""

    @abstractmethod
    def _ended(self, pid: int, *, killed: bool) -> None:
        """It has ended, and another one is about to be started; ``killed``: on purpose."""

    def _give_leave(self) -> None:
        """Let a process that waits for leave go on."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            if self._process and self._process.stdin and not self._stopping:
                self._process.stdin.write(b".")
                self._process.stdin.flush()

    # -- the watching thread -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        deaths = 0
        while process := self._spawn():
            reached = self._round
            self._follow(process)
            process.wait()
            self._close_lifeline()
            if self._stopping or process.returncode == 0:
                return
            self._ended(process.pid, killed=self._killed)
            deaths = 0 if self._killed or self._round > reached else deaths + 1
            if deaths == MOST_DEATHS:
                self._emit(Failed(error=self._explain(process)))
                return

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping:
                return None
            self._killed = False
            process = self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=os.environ | ONE_THREAD,
                start_new_session=True,
            )
        self._began(process.pid)
        return process

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Hear what the process says until it ends."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                told = json.loads(line)
                self._round = max(self._round, told["round"])
                self._heard(process.pid, told)

    def _close_lifeline(self) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            if self._process and self._process.stdin:
                self._process.stdin.close()

    def _explain(self, process: subprocess.Popen[bytes]) -> DemoError:
        self._log.seek(0)
        last_words = "\n".join(self._log.read().decode(errors="replace").splitlines()[-LAST_WORDS:])
        return DemoError(
            f"{self.name} ended by itself {MOST_DEATHS} times, the last time with exit code "
            f"{process.returncode}; the end of its log:\n{last_words}"
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not waited for, so the number is still its own
        os.killpg(process.pid, signal.SIGKILL)
