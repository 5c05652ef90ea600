"""A process with sites, seen from the simulation."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Final

from redflare_workers.processes.job_process import JobProcess

from .site_process_args import PROGRAM, SiteProcessArgs

#: Seconds in which a process must end; its own limit is shorter.
_GRACE: Final = 7.0
#: Lines of its output that an error shows.
_LOG_LINES: Final = 12
_UNBUFFERED: Final = "PYTHONUNBUFFERED"


class SiteProcess:
    """A process with sites, started by the constructor; calls ``on_end`` with the reason when it has ended, whatever
    that is.
    """

    def __init__(self, args: SiteProcessArgs, on_end: Callable[[str], None]) -> None:
        self.name = args.name
        self._sites = args.sites
        self._on_end = on_end
        self._ended = threading.Event()
        packed = args.pack()
        self._process = JobProcess(
            args.name,
            # -P: no folder of the user's may hide a module before the paths are set
            [sys.executable, "-P", "-m", PROGRAM],
            mark=uuid.uuid4().hex,
            on_lines=self._pass_on,
            on_exit=self._on_exit,
            # as the user has it: unbuffered, lines that threads of sites print at once would be mixed
            env={_UNBUFFERED: os.environ.get(_UNBUFFERED, "")},
            max_line=None,
        )
        self._pid = self._process.start().pid
        # one that has ended already is reported when its end is seen
        self._process.send(packed)

    def let_end(self) -> None:
        """Let it end; does not wait."""
        self._process.release()

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False: ``timeout`` seconds were not enough."""
        return self._ended.wait(timeout)

    def stop(self) -> None:
        """End it, by force if need be; nothing of it is left when this returns."""
        self.let_end()
        if not self.wait(_GRACE):
            self._process.kill()
            self._ended.wait()

    def _on_exit(self, code: int) -> None:
        self._on_end(self._explain(code))
        self._ended.set()

    def _pass_on(self, lines: list[str]) -> None:
        """Print its output to this process's standard error, which a notebook or a live display may have replaced."""
        for line in lines:
            sys.stderr.write(f"{line}\n")

    def _explain(self, code: int) -> str:
        first, last = self._sites[0], self._sites[-1]
        sites = first if first == last else f"{first} to {last}"
        output = [line.rstrip() for line in self._process.tail()[-_LOG_LINES:]]
        named = f"the process with {sites} (pid {self._pid})"
        if code == 1 and output:
            return f"{named} failed: {output[-1]}"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return "\n".join([f"{named} {how}; the end of its output:", *output] if output else [f"{named} {how}"])

    def __repr__(self) -> str:
        return f"<SiteProcess {self.name} pid={self._pid}: {len(self._sites)} sites>"
