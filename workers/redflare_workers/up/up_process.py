"""``UpProcess``: one process of ``redflare up``, and what its end means."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from redflare_broker.util.backoff import Backoff

from redflare_workers.processes.exit_code import describe_exit
from redflare_workers.processes.job_process import JobProcess
from redflare_workers.processes.kept_process import KeptProcess
from redflare_workers.util.exit_codes import FAILED, TAKEN

from .events import CannotRun, Died, Emit, Over, Ready, Said, Started
from .plan import PlannedProcess

#: Longest pause between two processes, in seconds.
_LAST_PAUSE: Final = 30.0
#: Seconds after which a process that ends has run well, so that the next pause is the first one again.
_EARLY: Final = 60.0
#: What a service writes when it is connected.
_READY: Final = "redflare: ready: "
#: What it writes beside errors.
_NEWS: Final = re.compile(
    r"redflare: ((started|ready|ended|note|warning): |process \d+ (started|aborted|died|stopping|ended): )"
)


@dataclass(eq=False, repr=False)
class UpProcess(KeptProcess):
    """A planned process. One that ends before it was ever connected cannot run, and is not started again.

    Nor is one whose name another process has taken: that was somebody's wish.
    """

    emit: Emit  #: called with every event, from the watching threads

    def __post_init__(self) -> None:
        super().__post_init__()
        self._connected = False  #: it was, at least once
        self._began = 0.0
        self._pauses = Backoff(1.0, _LAST_PAUSE, jitter=0.0)

    @classmethod
    def of(cls, planned: PlannedProcess, env: Mapping[str, str], emit: Emit) -> UpProcess:
        """Make one; ``env`` is added to what is planned."""
        return cls(planned.name, planned.command, planned.log, emit, env={**planned.env, **env})

    def _on_start(self) -> None:
        self._began = time.monotonic()
        self.emit(Started(name=self.name, pid=self._pid))

    def _on_lines(self, lines: list[str]) -> None:
        self.emit(Said(name=self.name, lines=lines))
        if any(_READY in line for line in lines):  # a module may have written a part of a line
            self._connected = True
            self.emit(Ready(name=self.name))

    def _ask(self, process: JobProcess) -> None:
        process.terminate()

    def _after_end(self, code: int) -> float | None:
        how = describe_exit(code)
        reason = reason_of(self._process.tail() if self._process else [])
        if not self._connected:
            self.emit(CannotRun(name=self.name, code=code if code > 0 else FAILED, reason=reason or how))
            return None
        if time.monotonic() - self._began >= _EARLY:
            self._pauses.reset()
        pause = None if code == TAKEN else self._pauses.next_delay()
        self.emit(Died(name=self.name, how=f"{how}: {reason}" if reason and code > 0 else how, pause=pause))
        return pause

    def _after_failed_start(self, error: OSError) -> float | None:
        pause = self._pauses.next_delay()
        self.emit(Died(name=self.name, how=f"it cannot be started: {error}", pause=pause))
        return pause

    def _on_over(self) -> None:
        self.emit(Over(name=self.name))


def reason_of(lines: Sequence[str]) -> str:
    """Find in the last lines of a service why it has ended: its error, or else its last line; "": it wrote nothing."""
    written = [line.strip() for line in lines if line.strip() and not _NEWS.match(line)]
    errors = [line.removeprefix("redflare: ") for line in written if line.startswith("redflare: ")]
    return errors[-1] if errors else written[-1] if written else ""
