"""``AgentSupervisor``: keeps the process of an agent running, starts it again when it dies, and stops it.

The process leads its own process group and ends itself when this one is gone (its standard input is the lifeline); when
it has ended, so has everything that it started.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from redflare_broker.errors import Unavailable

from redflare_workers.processes.exit_code import ExitCode, describe_exit
from redflare_workers.processes.process_table import MARK, kill_marked

from .agent_process_args import AgentProcessArgs
from .link_guard import LinkGuard

#: Longest pause between two processes, in seconds.
_LAST_PAUSE: Final = 30.0
#: A process that ends sooner, in seconds, has crashed early; the supervisor gives up after so many in a row.
_EARLY: Final = 60.0
_MAX_EARLY_CRASHES: Final = 5
#: Seconds beyond the grace of the function until SIGKILL.
_MARGIN: Final = 5.0

#: Seconds in which the open task is answered when the supervisor gives up; Redis, or the job, may be away.
_FAREWELL: Final = 30.0

#: Exit codes after which there is nothing to start again.
_FINAL: Final = (ExitCode.LEFT, ExitCode.CONFIG, ExitCode.INFRASTRUCTURE, ExitCode.REPLACED)

Kind = Literal["started", "aborted", "died", "stopping", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEvent:
    """Something that has happened to the process."""

    event: Kind
    pid: int
    text: str


class AgentSupervisor:
    """Run it once, in the main thread.

    Args:
        args: of the process.
        on_event: called with all that happens.
        first_pause: seconds between two processes, doubled each time.
        take_over: replace a living agent of this name, which ends; otherwise this one is refused.
    """

    def __init__(
        self,
        args: AgentProcessArgs,
        on_event: Callable[[ProcessEvent], object] = lambda event: None,
        *,
        first_pause: float = 1.0,
        take_over: bool = False,
    ) -> None:
        self._args = args
        self._first_pause = first_pause
        self._take_over = take_over
        self._on_event = on_event
        #: Exit codes of processes that have ended, and negative: signals that this one got.
        self._events: queue.SimpleQueue[tuple[Literal["ended", "stop"], int]] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: LinkGuard
        self._mark = uuid.uuid4().hex

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the process, and the supervisor; from any thread, and from a signal handler."""
        self._events.put(("stop", number))

    def run(self) -> tuple[int, int]:
        """Keep the process running; return the exit code of the last one, and the signal that ended this call, or 0.

        A process that dies again and again, or cannot be started again after it died, is given up: the open task, whose
        job would wait for ever, is answered with EXECUTION_EXCEPTION and the last exit.

        Raises:
            NameTaken: an agent of this name is alive, and is not to be replaced.
            ServerError: Redis refuses this user.
        """
        self._guard = LinkGuard(self._args)
        try:
            if not self._take_over:
                self._guard.claim(self._pause)
            return self._keep()
        except Unavailable:
            # it was stopped before it began
            return ExitCode.LEFT, self._events.get()[1]
        finally:
            self._guard.close()

    def _pause(self, seconds: float) -> bool:
        """Wait, at most until ``stop``; return whether it was called."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return False
        self._events.put(event)
        return True

    def _keep(self) -> tuple[int, int]:
        pause, crashes = self._first_pause, 0
        while True:
            pid, began = self._start(), time.monotonic()
            what, number = self._events.get()
            if what == "stop":
                return self._stopped(pid, number), number
            if number == ExitCode.ABORTED:
                self._emit("aborted", pid, "its task was aborted and the trainer did not return; starting it again")
                continue
            # it ran before, so its task may be open
            broken = number == ExitCode.CONFIG and bool(self._args.last_exit)
            self._args = replace(self._args, last_exit=describe_exit(number))
            if number in _FINAL and not broken:
                self._emit("ended", pid, describe_exit(number))
                return number, 0
            early = time.monotonic() - began < _EARLY
            pause, crashes = (pause, crashes + 1) if early else (self._first_pause, 1)
            if broken or crashes >= _MAX_EARLY_CRASHES:
                self._emit("died", pid, f"{describe_exit(number)}; giving up after {crashes} early crashes")
                self._give_up()
                return number, 0
            self._emit("died", pid, f"{describe_exit(number)}; starting it again in {pause:g} s")
            with contextlib.suppress(queue.Empty):
                _, number = self._events.get(timeout=pause)
                return ExitCode.LEFT, number
            pause = min(2 * pause, _LAST_PAUSE)

    def _start(self) -> int:
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "redflare_workers.agent_run.agent_main"],
            stdin=subprocess.PIPE,
            env={**os.environ, **self._args.environment(), MARK: self._mark, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        over, stuck = threading.Event(), threading.Event()
        watched = process, over, stuck

        def end() -> None:
            stuck.set()
            self._signal(signal.SIGKILL)

        threading.Thread(target=self._watch, args=watched, name="redflare-agent-watch", daemon=True).start()
        guarded = process.pid, over, end
        threading.Thread(target=self._guard.watch, args=guarded, name="redflare-agent-guard", daemon=True).start()
        what = "answers the open task for " if self._args.giving_up else ""
        self._emit("started", process.pid, f"{what}agent {self._args.agent_id} of {self._args.site}")
        return process.pid

    def _give_up(self) -> None:
        """Answer the open task in a process that does not start the trainer; a signal ends the wait for it."""
        self._args = replace(self._args, giving_up=True)
        pid = self._start()
        code = None
        with contextlib.suppress(queue.Empty):
            what, code = self._events.get(timeout=_FAREWELL)
            code = code if what == "ended" else None
        if code is None:
            self._signal(signal.SIGKILL)
            while self._events.get()[0] != "ended":
                pass
        answered = "the open task, if there was one, is answered" if code == ExitCode.LEFT else "its task is still open"
        self._emit("ended", pid, answered)

    def _watch(self, process: subprocess.Popen[bytes], over: threading.Event, stuck: threading.Event) -> None:
        # without reaping it: its number, and that of its group, stays its own
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        kill_marked(self._mark)
        over.set()
        code = ExitCode.ABORTED if stuck.is_set() else process.wait()
        if code == ExitCode.ABORTED:
            # before another process holds its side of the link
            self._guard.note_end(process.pid)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._events.put(("ended", code))

    def _stopped(self, pid: int, number: int) -> int:
        """End the process in order, or by force when that takes too long or another signal comes."""
        self._emit("stopping", pid, f"it got {signal.Signals(number).name}")
        self._signal(signal.SIGTERM)
        try:
            what, code = self._events.get(timeout=self._args.stop_grace + _MARGIN)
        except queue.Empty:
            what, code = "stop", 0
        if what == "stop":
            self._signal(signal.SIGKILL)
            while what == "stop":
                what, code = self._events.get()
        self._emit("ended", pid, describe_exit(code))
        return code

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)

    def _emit(self, event: Kind, pid: int, text: str) -> None:
        self._on_event(ProcessEvent(event=event, pid=pid, text=text))

    def __repr__(self) -> str:
        return f"<AgentSupervisor of {self._args.site}--{self._args.agent_id}>"
