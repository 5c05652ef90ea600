"""``WatchedProcess``: starts a process of the demo, watches it, kills it on purpose, starts it again, ends it.

An ``AgentProcess`` reports what its site does, a ``DemoServerProcess`` each result and each round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from redflare_workers.processes.kept_process import KeptProcess
from redflare_workers.util.blas_env import ONE_THREAD

from .errors import DemoError
from .events import Emit, Failed, JobProcessEnded, RoundEnded, SiteActivity, SiteAnswered, SiteChanged, Trained
from .kill_plan import KillPlan
from .lifeline import STATUS

#: A process that ends by itself this often, without progress in between, is not started again.
MAX_CRASHES = 3

#: Lines of the log that the error shows.
LOG_LINES = 12


@dataclass(eq=False, repr=False)
class WatchedProcess(KeptProcess):
    """A process that is kept running until ``stop``, or until it ends with exit code 0."""

    emit: Emit  #: called with every event, from the watching threads

    def __post_init__(self) -> None:
        super().__post_init__()
        # whatever the user has set: the numbers depend on it
        self.env = ONE_THREAD
        self._killed = False  #: the process, on purpose
        self._round = 0  #: the latest it has reported
        self._first_round = 0  #: the latest when the process was started
        self._crashes = 0
        self._log_lines: deque[str] = deque(maxlen=LOG_LINES)  #: output that is no status

    def start(self) -> None:
        """Start the process, unless it should end already."""
        with self._guard:
            self._killed, self._first_round = False, self._round
            super().start()

    def kill(self) -> None:
        """Kill the process with SIGKILL; the next one is started."""
        with self._guard:
            if not self._stopping.is_set():
                self._killed = True
                super().kill()

    def give_leave(self) -> None:
        """Let a process that waits for leave go on."""
        with self._guard:
            if self._process:
                self._process.send(b".")

    # -- for each kind -------------------------------------------------------------------------------------------------

    def _on_status(self, status: dict[str, Any]) -> None:
        """Handle a status; it always has ``state`` and ``round``."""

    def _on_end(self) -> None:
        """Handle the end of the process, before another one is started."""
        self.emit(JobProcessEnded(name=self.name, pid=self._pid, round_number=self._round, killed=self._killed))

    # -- in the watching threads ---------------------------------------------------------------------------------------

    def _on_lines(self, lines: list[str]) -> None:
        with self._guard:
            for line in lines:
                output, found, status = line.partition(STATUS.decode())
                if output or not found:
                    self._log_lines.append(output)
                if found:
                    report = orjson.loads(status)
                    self._round = max(self._round, report["round"])
                    self._on_status(report)

    def _after_end(self, code: int) -> float | None:
        if code == 0:
            return None
        self._on_end()
        self._crashes = 0 if self._killed or self._round > self._first_round else self._crashes + 1
        if self._crashes == MAX_CRASHES:
            self.emit(Failed(error=self._explain(code)))
            return None
        return 0.0

    def _after_failed_start(self, error: OSError) -> float | None:
        self.emit(Failed(error=DemoError(f"{self.name} cannot be started again: {error}")))
        return None

    def _explain(self, code: int) -> DemoError:
        log = "\n".join(self._log_lines)
        return DemoError(
            f"{self.name} ended by itself {MAX_CRASHES} times, the last time with exit code {code}; "
            f"the end of its log:\n{log}"
        )


@dataclass(eq=False, repr=False)
class AgentProcess(WatchedProcess):
    """One site's agent; ``name`` is that of the site."""

    plan: KillPlan | None = None  #: asked half-way through each round whether to kill the agent; None: it is not
    #: called with the round before the agent goes on to the second half
    on_halfway: Callable[[int], object] = lambda round_number: None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.site, self.name = self.name, f"the agent of {self.name}"

    def _on_start(self) -> None:
        self._changed(SiteActivity.STARTING, 0)

    def _on_status(self, status: dict[str, Any]) -> None:
        match status["state"]:
            case "ready":
                self._changed(SiteActivity.WAITING, self._round)
            case "training":
                self._changed(SiteActivity.TRAINING, self._round)
            case "halfway" if self.plan and self.plan.strikes(self.site, self._round):
                self.kill()
            case "halfway":
                self.on_halfway(self._round)
                self.give_leave()

    def _on_end(self) -> None:
        self._changed(SiteActivity.KILLED if self._killed else SiteActivity.DIED, self._round)

    def _changed(self, state: SiteActivity, round_number: int) -> None:
        self.emit(SiteChanged(site=self.site, state=state, round_number=round_number, pid=self._pid))


class DemoServerProcess(WatchedProcess):
    """The server of the job."""

    def _on_status(self, status: dict[str, Any]) -> None:
        figures = {name: status[name] for name in ("loss", "accuracy", "seconds") if name in status}
        match status["state"]:
            case "answered":
                self.emit(SiteAnswered(site=status["site"], round_number=status["round"], **figures))
            case "round":
                self.emit(RoundEnded(round_number=status["round"], **figures))
            case "done":
                self.emit(Trained())
            case "failed":
                self.emit(Failed(error=DemoError(f"the federation failed: {status['reason']}")))
