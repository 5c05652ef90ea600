"""``JobProcess``: the process of a job, seen from the parent that starts it, reads its output and ends it.

It leads a process group of its own. Its standard input is a lifeline: it ends when this process does, however that
dies, and then the job's process ends itself (see ``ending``). When it has ended, so has all that it started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from redflare_workers.util.blas_env import ONE_THREAD

from .exit_code import describe_exit
from .process_table import MARK, kill_group, kill_marked, start_time, wait_gone

logger = logging.getLogger(__name__)

#: Lines of the output that are kept for the reason of a failure.
TAIL_LINES: Final = 20
#: Bytes of a log file; what comes then is not written to it any more.
MAX_LOG: Final = 256 << 20
_LINE: Final = 2000
_READ: Final = 1 << 16
_PUMP_WITHIN: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMark:
    """What a later parent finds a process by."""

    pid: int
    #: as ``start_time`` tells
    started: str
    #: in the environment of the process and all that it starts
    mark: str

    def reap(self, grace: float) -> list[int]:
        """End what is left of it: it has seconds to end itself, and is killed then. Numbers of those killed."""
        gone = wait_gone(self.pid, self.started, grace)
        kill_group(self.pid, self.started)
        killed = kill_marked(self.mark)
        return killed if gone or self.pid in killed else [self.pid, *killed]


class JobProcess:
    """A process; ``start`` it once.

    Args:
        name: what it is called in messages and threads' names.
        command: that starts it.
        mark: tells it from all others.
        log: file that its output is added to; None: none.
        on_lines: called with lines of its output as they come, from a thread of its own; must not block for long.
        on_exit: called once with the exit code (of a signal: negative) when it, and all that it started, is gone.
        env: added to the environment.
        cwd: its working directory.
        max_log: bytes that the log file may have.
        max_line: characters of a line that ``on_lines`` gets.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        mark: str,
        log: Path | None = None,
        on_lines: Callable[[list[str]], object],
        on_exit: Callable[[int], object],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        max_log: int = MAX_LOG,
        max_line: int = _LINE,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._mark = mark
        self._log = log
        self._on_lines = on_lines
        self._on_exit = on_exit
        self._env = {**ONE_THREAD, **os.environ, "PYTHONUNBUFFERED": "1", **(env or {}), MARK: mark}
        self._cwd = cwd
        self._max_log = max_log
        self._max_line = max_line
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._reaped = False
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.mark: ProcessMark | None = None

    def start(self) -> ProcessMark:
        """Start it.

        Raises:
            OSError: it cannot be started, or its log not be written.
        """
        log = (self._log or Path(os.devnull)).open("ab", buffering=0)
        try:
            process = self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        except BaseException:
            log.close()
            raise
        self.mark = ProcessMark(pid=process.pid, started=start_time(process.pid), mark=self._mark)
        pump = threading.Thread(target=self._pump, args=(process, log), name=f"redflare-log-{self.name}", daemon=True)
        pump.start()
        threading.Thread(
            target=self._watch, args=(process, pump), name=f"redflare-watch-{self.name}", daemon=True
        ).start()
        return self.mark

    def send(self, data: bytes) -> None:
        """Write to its standard input; without effect once it was released, or has ended."""
        with self._guard, contextlib.suppress(BrokenPipeError):
            if self._process is not None and self._process.stdin is not None and not self._process.stdin.closed:
                self._process.stdin.write(data)
                self._process.stdin.flush()

    def release(self) -> None:
        """Close the lifeline: it ends by itself, in order, or kills itself after some seconds."""
        with self._guard, contextlib.suppress(BrokenPipeError):
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()

    def terminate(self) -> None:
        """SIGTERM to its group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to its group."""
        self._signal(signal.SIGKILL)

    def tail(self) -> list[str]:
        """The last lines of its output."""
        return list(self._tail)

    def _signal(self, number: signal.Signals) -> None:
        with self._guard:
            # as long as it was not reaped, the number is its own
            if self._process is not None and not self._reaped:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)

    # -- threads -------------------------------------------------------------------------------------------------------

    def _watch(self, process: subprocess.Popen[bytes], pump: threading.Thread) -> None:
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        except (AttributeError, ChildProcessError):
            # no such call here; or the kernel keeps no ended children for us, and their exit codes are lost
            process.wait()
        # what it has started must not outlive it; its output would not end either
        self.kill()
        left = self._kill_left()
        with self._guard:
            code = process.wait()
            self._reaped = True
        self.release()
        pump.join(_PUMP_WITHIN)
        logger.info("%s, process %d: %s%s", self.name, process.pid, describe_exit(code), _killed(left, process.pid))
        try:
            self._on_exit(code)
        except Exception:
            logger.exception("%s: its end could not be dealt with", self.name)

    def _kill_left(self) -> list[int]:
        try:
            return kill_marked(self._mark)
        except OSError as error:
            # no file can be opened: its end must be told all the same
            logger.error("%s: it is not known what it has left: %s", self.name, error)
            return []

    def _pump(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        assert process.stdout is not None
        rest = b""
        with process.stdout as output, log:
            written = os.fstat(log.fileno()).st_size
            while piece := os.read(output.fileno(), _READ):
                written = self._write(log, piece, written)
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > self._max_line:
                    lines, rest = [*lines, rest], b""
                self._tell(lines)
        self._tell([rest] if rest else [])

    def _write(self, log: IO[bytes], piece: bytes, written: int) -> int:
        if written >= self._max_log:
            return written
        try:
            log.write(piece)
            if written + len(piece) >= self._max_log:
                log.write(b"\n(the log has %d bytes, no more is written)\n" % self._max_log)
        except OSError as error:
            logger.error("%s: its log cannot be written: %s", self.name, error)
            return self._max_log
        return written + len(piece)

    def _tell(self, lines: list[bytes]) -> None:
        texts = [line.decode(errors="replace")[: self._max_line].rstrip("\r") for line in lines]
        if not texts:
            return
        self._tail.extend(texts)
        try:
            self._on_lines(texts)
        except Exception:
            logger.exception("%s: lines of its log could not be passed on", self.name)

    def __repr__(self) -> str:
        state = "not started" if self._process is None else "gone" if self._reaped else f"pid {self._process.pid}"
        return f"<JobProcess {self.name}, {state}>"


def _killed(pids: list[int], own: int) -> str:
    others = [pid for pid in pids if pid != own]
    return f"; it had left processes {others}, which were killed" if others else ""
