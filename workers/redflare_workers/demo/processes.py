"""The agents' processes, seen from the demo: started, watched, killed on purpose, started again, ended.

Each agent leads a process group of its own, so a Ctrl-C in the terminal reaches only the demo, which then ends them in
order. Its standard input is a lifeline (see ``lifeline``): closing it is how the demo ends an agent, and the kernel
closes it when the demo dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading

from redflare_workers.demo.data import Samples
from redflare_workers.demo.errors import DemoError
from redflare_workers.demo.events import Emit, Failed, SiteChanged, State
from redflare_workers.demo.kill_plan import KillPlan
from redflare_workers.demo.site_settings import SiteSettings
from redflare_workers.one_thread import ONE_THREAD

#: An agent that ends by itself this often, and begins no new round in between, is not started again.
MOST_DEATHS = 3

#: Time an agent gets to say goodbye, in seconds, before it is killed.
GRACE = 5.0

LOG_FILE = "agent.log"

#: Lines of the log that the error shows.
LAST_WORDS = 12


class AgentProcess:
    """One site's agent, kept alive until ``stop``: whatever ends the process, the next one is started.

    Args:
        settings: of the site.
        samples: the site's data.
        emit: called with every event, from this agent's watching thread.
        plan: asked half-way through each round whether the agent is to be killed; None: nobody is.
    """

    def __init__(self, settings: SiteSettings, samples: Samples, emit: Emit, plan: KillPlan | None) -> None:
        self.site = settings.site
        self._command = settings.prepare(samples)
        self._log = (settings.workspace / LOG_FILE).open("w+b")
        self._emit = emit
        self._plan = plan
        self._stopping = False
        self._round = 0  #: the latest that was begun
        self._lock = threading.Lock()  #: guards the process and its standard input
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name=f"demo-{self.site}", daemon=True)

    def __repr__(self) -> str:
        pid = self._process.pid if self._process else None
        return f"<AgentProcess {self.site} pid={pid} stopping={self._stopping}>"

    def start(self) -> None:
        """Start the process and the thread that watches it."""
        self._thread.start()

    def let_end(self) -> None:
        """Tell the process to end, without waiting for it; there will be no other."""
        self._stopping = True
        self._close_lifeline()

    def stop(self) -> None:
        """End the process; when this returns there is none."""
        self.let_end()
        self._thread.join(GRACE)
        if self._thread.is_alive() and self._process:
            _kill(self._process)
            self._thread.join()
        self._log.close()

    def _watch(self) -> None:
        deaths = 0
        while process := self._spawn():
            reached = self._round
            killed = self._follow(process)
            process.wait()
            self._close_lifeline()
            if self._stopping:
                return
            deaths = 0 if killed or self._round > reached else deaths + 1
            if deaths == MOST_DEATHS:
                self._emit(Failed(error=self._explain(process)))
                return

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping:
                return None
            process = self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=os.environ | ONE_THREAD,
                start_new_session=True,
            )
        self._emit(SiteChanged(site=self.site, state=State.STARTING, round_number=0, pid=process.pid))
        return process

    def _follow(self, process: subprocess.Popen[bytes]) -> bool:
        """Hear what the process says until it ends; whether it was killed on purpose."""
        assert process.stdout is not None
        killed = False
        with process.stdout:
            for line in process.stdout:
                told = json.loads(line)
                self._round = round_number = max(self._round, told["round"])
                match told["state"]:
                    case "ready":
                        self._changed(process, State.WAITING, round_number)
                    case "training":
                        self._changed(process, State.TRAINING, round_number)
                    case "halfway" if self._plan and self._plan.strikes(self.site, round_number):
                        _kill(process)
                        killed = True
                    case "halfway":
                        self._give_leave(process)
        if not self._stopping:
            self._changed(process, State.KILLED if killed else State.DIED, self._round)
        return killed

    def _changed(self, process: subprocess.Popen[bytes], state: State, round_number: int) -> None:
        self._emit(SiteChanged(site=self.site, state=state, round_number=round_number, pid=process.pid))

    def _give_leave(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            if process.stdin and not self._stopping:
                process.stdin.write(b".")
                process.stdin.flush()

    def _close_lifeline(self) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            if self._process and self._process.stdin:
                self._process.stdin.close()

    def _explain(self, process: subprocess.Popen[bytes]) -> DemoError:
        self._log.seek(0)
        last_words = "\n".join(self._log.read().decode(errors="replace").splitlines()[-LAST_WORDS:])
        return DemoError(
            f"the agent of {self.site} ended by itself {MOST_DEATHS} times, the last time with exit code "
            f"{process.returncode}; the end of its log:\n{last_words}"
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not waited for, so the number is still its own
        os.killpg(process.pid, signal.SIGKILL)
