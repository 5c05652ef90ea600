"""``JobProcess``: the process of a job, started, read and ended by its parent.

It leads its own process group. Its standard input is a lifeline, which closes when the parent ends, however it dies;
the job's process then ends itself (see ``ending``). When it has ended, so has all that it started.
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

from redflare_broker.util.visible import VisibleBytes

from redflare_workers.util.atomic_file import open_private
from redflare_workers.util.blas_env import ONE_THREAD

from .exit_code import describe_exit
from .how_ended import COOPERATIVE, KILLED, TERMINATED
from .process_table import MARK, kill_group, kill_marked, start_time, wait_gone

logger = logging.getLogger(__name__)

#: Lines of the output that are kept for the reason of a failure.
TAIL_LINES: Final = 20
#: Bytes of a log file; further output is not written to it.
MAX_LOG: Final = 256 << 20
_SIGNALS: Final = {TERMINATED: "SIGTERM", KILLED: "SIGKILL"}
_NO_EXIT_CODES: Final = (
    "%s: this program ignores SIGCHLD, so the kernel keeps no exit codes, and every end looks like code 0; call "
    "signal.signal(signal.SIGCHLD, signal.SIG_DFL) at its start"
)
_LINE: Final = 2000
#: Bytes of a line that are forwarded at once where lines are not cut.
_PIECE: Final = 1 << 20
_READ: Final = 1 << 16
_PUMP_WITHIN: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMark:
    """The marks by which a later parent finds a process."""

    pid: int
    #: see ``process_table.start_time``
    started: str
    #: in the environment of the process and all that it starts
    mark: str

    def reap(self, grace: float) -> list[int]:
        """Kill what is left of the process after ``grace`` seconds; return the numbers of the processes killed."""
        gone = wait_gone(self.pid, self.started, grace)
        kill_group(self.pid, self.started)
        killed = kill_marked(self.mark)
        return killed if gone or self.pid in killed else [self.pid, *killed]


class JobProcess:
    """A process; ``start`` it once.

    Args:
        name: of the process in log lines and in the names of threads.
        command: that starts it.
        mark: unique, by which ``ProcessMark`` finds it.
        log: file that its output is appended to; None: none.
        on_lines: called with lines of its output as they come, from one thread; must not block for long.
        on_exit: called once with the exit code (of a signal: negative) when it, and all that it started, is gone.
        env: added to the environment.
        cwd: its working directory.
        max_log: bytes that the log file may have.
        max_line: characters of a line that ``on_lines`` gets; None: all of them, a very long line in pieces.
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
        max_line: int | None = _LINE,
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
        """Start the process.

        Raises:
            OSError: it cannot be started, or its log cannot be opened.
        """
        log = open(self._log or os.devnull, "ab", buffering=0, opener=open_private)  # noqa: SIM115  # by its pump
        try:
            process = self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
                # files of a run are for its owner only
                umask=0o077,
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
        """Write to the process's standard input; without effect once it was released, or has ended."""
        with self._guard, contextlib.suppress(BrokenPipeError):
            if self._process is not None and self._process.stdin is not None and not self._process.stdin.closed:
                self._process.stdin.write(data)
                self._process.stdin.flush()

    def release(self) -> None:
        """Close the lifeline: the process ends in order, or kills itself after some seconds."""
        with self._guard, contextlib.suppress(BrokenPipeError):
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()

    def terminate(self) -> None:
        """Send SIGTERM to the process group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process group."""
        self._signal(signal.SIGKILL)

    def end(
        self,
        gone: threading.Event,
        request: Callable[[], object] | None,
        reason: str,
        *,
        abort_grace: float,
        stop_grace: float,
        on_step: Callable[[str], object] = lambda how: None,
    ) -> str:
        """End the process and wait: in order, by SIGTERM after ``abort_grace``, by SIGKILL after ``stop_grace``.

        Args:
            gone: set when the process is gone.
            request: asks the process to end in order; None: it does not listen yet.
            on_step: called before each step, with one of ``how_ended``; the last one is returned.
        """
        steps = (COOPERATIVE, request, abort_grace), (TERMINATED, self.terminate, stop_grace), (KILLED, self.kill, None)
        for how, step, seconds in steps:
            if step is None:
                continue
            on_step(how)
            if how != COOPERATIVE:
                logger.warning("%s: %s to its process group: %s", self.name, _SIGNALS[how], reason)
            step()
            if gone.wait(seconds):
                break
        return how

    def tail(self) -> list[str]:
        """Return the last lines of the process's output."""
        return list(self._tail)

    def _signal(self, number: signal.Signals) -> None:
        with self._guard:
            # until it is reaped, no other process gets its number
            if self._process is not None and not self._reaped:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)

    # -- threads -------------------------------------------------------------------------------------------------------

    def _watch(self, process: subprocess.Popen[bytes], pump: threading.Thread) -> None:
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        except AttributeError:
            # no such call on this system
            process.wait()
        except ChildProcessError:
            logger.error(_NO_EXIT_CODES, self.name)
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
            logger.exception("%s: handling its end failed", self.name)

    def _kill_left(self) -> list[int]:
        try:
            return kill_marked(self._mark)
        except OSError as error:
            # no file can be opened: its end must be reported all the same
            logger.error("%s: cannot find processes that it has left: %s", self.name, error)
            return []

    def _pump(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        assert process.stdout is not None
        rest, shown = b"", VisibleBytes()
        with process.stdout as output, log:
            written = os.fstat(log.fileno()).st_size
            while piece := os.read(output.fileno(), _READ):
                written = self._write(log, shown.feed(piece), written)
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > (self._max_line or _PIECE):
                    lines, rest = [*lines, rest], b""
                self._forward(lines)
            self._write(log, shown.feed(b"", last=True), written)
        self._forward([rest] if rest else [])

    def _write(self, log: IO[bytes], piece: bytes, written: int) -> int:
        if written >= self._max_log:
            return written
        try:
            log.write(piece)
            if written + len(piece) >= self._max_log:
                log.write(b"\n(the log has %d bytes, no more is written)\n" % self._max_log)
        except OSError as error:
            logger.error("%s: cannot write its log: %s", self.name, error)
            return self._max_log
        return written + len(piece)

    def _forward(self, lines: list[bytes]) -> None:
        texts = [line.decode(errors="replace")[: self._max_line].rstrip("\r") for line in lines]
        if not texts:
            return
        self._tail.extend(texts)
        try:
            self._on_lines(texts)
        except Exception:
            logger.exception("%s: forwarding lines of its log failed", self.name)

    def __repr__(self) -> str:
        state = "not started" if self._process is None else "gone" if self._reaped else f"pid {self._process.pid}"
        return f"<JobProcess {self.name}, {state}>"


def _killed(pids: list[int], own: int) -> str:
    others = [pid for pid in pids if pid != own]
    return f"; killed processes {others} that it had left" if others else ""
