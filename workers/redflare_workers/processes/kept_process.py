"""``KeptProcess``: a process that is started again when it ends, until it is stopped, or is over."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .job_process import JobProcess

#: Seconds in which a process must end before it is killed.
GRACE = 5.0


@dataclass(eq=False, repr=False)
class KeptProcess:
    """A process that is kept running until ``stop``; a subclass decides after each end whether there is a next one."""

    name: str  #: in messages
    command: Sequence[str]  #: starts it
    log: Path  #: the file that its output goes to
    env: Mapping[str, str] = field(default_factory=dict, kw_only=True)  #: added to the environment

    def __post_init__(self) -> None:
        self._guard = threading.RLock()
        self._process: JobProcess | None = None
        self._pid = 0
        self._stopping = threading.Event()
        self._over = threading.Event()  #: there will be no other process

    def start(self) -> None:
        """Start the process, unless it should end already.

        Raises:
            OSError: it cannot be started, or its log cannot be opened.
        """
        with self._guard:
            if self._stopping.is_set():
                self._finish()
                return
            self._process = JobProcess(
                self.name,
                self.command,
                mark=uuid.uuid4().hex,
                log=self.log,
                on_lines=self._on_lines,
                on_exit=self._on_exit,
                env=self.env,
                max_line=None,
            )
            self._pid = self._process.start().pid
            self._on_start()

    def let_end(self) -> None:
        """Let the process end, without waiting for it; no other is started."""
        with self._guard:
            self._stopping.set()
            if self._process:
                self._ask(self._process)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        with self._guard:
            if self._process:
                self._process.kill()

    def stop(self) -> None:
        """End the process; when this returns, it is gone."""
        self.let_end()
        if self._process and not self._over.wait(GRACE):
            self._process.kill()
            self._over.wait()

    # -- for each kind -------------------------------------------------------------------------------------------------

    def _on_start(self) -> None:
        """Handle the start of a process."""

    def _on_lines(self, lines: list[str]) -> None:
        """Handle lines of its output, in the thread that watches it."""

    def _ask(self, process: JobProcess) -> None:
        """Ask a process to end in order."""
        process.release()

    def _after_end(self, code: int) -> float | None:
        """Return the seconds until the next process is started; None: there is no other."""
        return None

    def _after_failed_start(self, error: OSError) -> float | None:
        """Return the same when a process could not be started again."""
        return None

    def _on_over(self) -> None:
        """Handle that there will be no other process."""

    # -- in the watching threads ---------------------------------------------------------------------------------------

    def _on_exit(self, code: int) -> None:
        with self._guard:
            pause = None if self._stopping.is_set() else self._after_end(code)
        while pause is not None and not self._stopping.wait(pause):
            try:
                self.start()
                return
            except OSError as error:
                pause = self._after_failed_start(error)
        self._finish()

    def _finish(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._on_over()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} pid={self._pid} stopping={self._stopping.is_set()}>"
