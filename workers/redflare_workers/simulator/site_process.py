"""A process with sites, seen from the simulation."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Final

from redflare_workers.util.blas_env import ONE_THREAD

from .site_process_args import PROGRAM, SiteProcessArgs

#: Seconds a process has to end once it is told to; its own limit is shorter.
_GRACE: Final = 7.0
#: Lines of its output that an error shows.
_LAST_WORDS: Final = 12


class SiteProcess:
    """Started at once. It leads a process group of its own: a Ctrl-C in the terminal reaches only the simulation, and
    whatever a site has started ends with it.

    Args:
        order: for it.
        on_end: called with what is to be said of it when it has ended, whatever the reason.
    """

    def __init__(self, order: SiteProcessArgs, on_end: Callable[[str], None]) -> None:
        self.name = order.name
        self._sites = order.sites
        self._on_end = on_end
        self._last_words: collections.deque[str] = collections.deque(maxlen=_LAST_WORDS)
        packed = order.pack()
        self._process = subprocess.Popen(
            # -P: no folder of the user's may hide a module before the paths are set
            [sys.executable, "-P", "-m", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=ONE_THREAD | os.environ,
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=work, name=f"redflare-{self.name}-{what}", daemon=True)
            for what, work in (("output", self._pass_on), ("end", self._await_end))
        ]
        for thread in self._threads:
            thread.start()
        assert self._process.stdin is not None
        # one that has ended already is reported when its end is seen
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(packed)
            self._process.stdin.flush()

    def let_end(self) -> None:
        """Tell it to end; does not wait."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False: ``timeout`` seconds were not enough."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self._process.returncode is not None

    def stop(self) -> None:
        """End it, by force if need be; nothing of it is left when this returns."""
        self.let_end()
        if not self.wait(_GRACE):
            self._kill_group()
        for thread in self._threads:
            thread.join()

    def _await_end(self) -> None:
        self._process.wait()
        # what its sites have started; they hold its output open, too
        self._kill_group()
        self._threads[0].join()
        self._on_end(self._explain())

    def _pass_on(self) -> None:
        """Show what it prints, where also a notebook and a live display see it."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for raw in output:
                line = raw.decode(errors="replace")
                self._last_words.append(line.rstrip())
                sys.stderr.write(line)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _explain(self) -> str:
        first, last = self._sites[0], self._sites[-1]
        sites = first if first == last else f"{first} to {last}"
        code, words = self._process.returncode, list(self._last_words)
        named = f"the process with {sites} (pid {self._process.pid})"
        if code == 1 and words:
            return f"{named} failed: {words[-1]}"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return "\n".join([f"{named} {how}; the end of its output:", *words] if words else [f"{named} {how}"])

    def __repr__(self) -> str:
        return f"<SiteProcess {self.name} pid={self._process.pid}: {len(self._sites)} sites>"
