"""``LocalFederation``: starts the planned processes, keeps them running, and ends all of them, however it ends."""

from __future__ import annotations

import time
import uuid
from queue import Empty, SimpleQueue
from typing import Final

from redflare_broker.config.settings import load_settings
from redflare_broker.errors import RedflareError
from redflare_broker.runtime.preflight import check
from redflare_broker.transport.server import Server

from redflare_workers.processes.ending import GRACE as CHILD_GRACE
from redflare_workers.processes.process_table import kill_marked, marked, wait_marked_gone
from redflare_workers.util.exit_codes import FAILED
from redflare_workers.util.signals import Signalled
from redflare_workers.workspace.workspace_lock import WorkspaceHold, folder_lock

from .events import CannotRun, Connected, Emit, Ending, Event, Noted, Over, Ready
from .plan import GRACE, ORDER_OF_END, SERVER, Kind, PlannedProcess, UpPlan
from .running import RunningUp
from .up_process import UpProcess

#: In the environment of all that it starts, and that those start; the next ``up`` of the folder finds what is left.
MARK: Final = "REDFLARE_UP"
#: Seconds in which what an ``up`` that was killed has left ends by itself: Redis is the last.
_LEFT_GRACE: Final = 2 * CHILD_GRACE
#: Seconds in which a killed process is gone.
_KILLED_WITHIN: Final = 10.0


class UpFailed(RedflareError):
    """A process cannot run; ``code`` is the exit code for the command."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class LocalFederation:
    """Run it once, in the main thread.

    Args:
        events: that the processes report to, and signals, as ``Signalled``; one may be there already.
        on_event: called with what happens.
    """

    def __init__(self, plan: UpPlan, events: SimpleQueue[Event], on_event: Emit) -> None:
        self._plan = plan
        self._events = events
        self._on_event = on_event
        self._mark = uuid.uuid4().hex
        self._processes: dict[str, tuple[Kind, UpProcess]] = {}
        self._connected: set[str] = set()
        self._over: set[str] = set()
        #: nobody reads any more what it says
        self._unheard = False

    def run(self) -> int:
        """Keep all processes running until a signal; return its number, or 0: nobody hears any more what happens.

        Raises:
            FolderTaken: another one runs in the folder.
            UpFailed: a process cannot run.
            ConfigError: the folder cannot be used.
            RedflareError: the Redis that was given cannot be used.
        """
        folder = self._plan.folder
        folder.make()

        def refusal(owner: str) -> str:
            return f"process {owner} runs `redflare up` in {folder.path} already; stop it, or give another --folder"

        with folder_lock(folder.lock, refusal) as hold:
            self._clear(hold)
            folder.prepare(self._plan.workspaces)
            if self._plan.redis is None:
                self._check_redis()
            RunningUp.of_this_process(self._plan.access.url).write(folder.path)
            try:
                self._start(self._plan.processes[:1] if self._plan.redis else self._plan.others)
                return self._follow()
            finally:
                self._end()
                RunningUp.remove(folder.path)

    def _clear(self, hold: WorkspaceHold) -> None:
        """End what an ``up`` that was killed has left, and note whose processes the next ones are."""
        if hold.last and (left := marked(hold.last, MARK)):
            text = f"the last `redflare up` in this folder was killed; {len(left)} of its processes are ending"
            self._tell(Noted(text=text))
            if not wait_marked_gone(hold.last, _LEFT_GRACE, MARK):
                killed = kill_marked(hold.last, variable=MARK)
                self._tell(Noted(text=f"killed {len(killed)} that did not end"))
        hold.note(self._mark)

    def _check_redis(self) -> None:
        """Try the Redis that was given now, rather than let every process wait for it."""
        settings = load_settings(self._plan.folder.workspace(SERVER))
        with Server.connect(self._plan.access.url, settings.connection) as server:
            check(server, allow_eviction=settings.allow_eviction)

    def _start(self, planned: tuple[PlannedProcess, ...]) -> None:
        for each in planned:
            process = UpProcess.of(each, {MARK: self._mark}, self._events.put)
            self._processes[each.name] = each.kind, process
            try:
                process.start()
            except OSError as error:
                # nothing else will tell
                self._over.add(each.name)
                raise UpFailed(f"{each.name} cannot be started: {error}", FAILED) from error

    def _follow(self) -> int:
        while True:
            event = self._events.get()
            self._note(event)
            match event:
                case Signalled(number=number):
                    return number
                case CannotRun(name=name, code=code, reason=reason):
                    raise UpFailed(f"{name} cannot run: {reason}", code)
                case Ready(name=name) if name not in self._connected:
                    self._connected.add(name)
                    if self._plan.redis and name == self._plan.redis.name:
                        self._start(self._plan.others)
                    elif len(self._connected) == len(self._plan.processes):
                        self._tell(Connected())

    def _note(self, event: Event) -> None:
        if isinstance(event, Over):
            self._over.add(event.name)
        self._tell(event)

    def _tell(self, event: Event) -> None:
        """Report an event; where that fails, because a terminal or a pipe was closed, end all."""
        if self._unheard:
            return
        try:
            self._on_event(event)
        except (OSError, SystemExit):  # rich ends the program when a pipe is closed
            self._unheard = True
            self._events.put(Signalled(number=0))

    # -- end -----------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """End all: agents, sites, the server, Redis, each kind when the one before is gone. Nothing is left."""
        self._tell(Ending())
        patient = True
        for kind in ORDER_OF_END:
            names = {name for name, (its_kind, _) in self._processes.items() if its_kind == kind}
            for name in names:
                self._processes[name][1].let_end()
            if patient:
                patient = self._await_over(names, GRACE[kind])
            if left := sorted(names - self._over):
                self._tell(Noted(text=f"killing {', '.join(left)}"))
                for name in left:
                    self._processes[name][1].kill()
                patient = self._await_over(names, _KILLED_WITHIN) and patient
        kill_marked(self._mark, variable=MARK)

    def _await_over(self, names: set[str], seconds: float) -> bool:
        """Wait until processes are gone, or seconds have passed; False: a signal has come instead."""
        deadline = time.monotonic() + seconds
        while not names <= self._over:
            try:
                event = self._events.get(timeout=max(deadline - time.monotonic(), 0.0))
            except Empty:
                break
            self._note(event)
            if isinstance(event, Signalled) and event.number:
                return False
        return True
