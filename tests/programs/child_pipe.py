"""Shared by the child programs: messages and commands over a pipe, and points at which they wait for the test."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from redflare_broker.link.payloads import LinkPayloads
from redflare_broker.scripts.link_scripts import LinkScripts
from redflare_broker.transport.socket_connection import SocketConnection

Message = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Death:
    """The exchange with Redis at which a process kills itself."""

    #: Number of the exchange with Redis.
    nth: int
    #: Whether the command reaches Redis before the death; the reply is not read.
    sent: bool


class ParentPipe:
    """Sends messages to the test and runs its commands; the process ends with its test."""

    def __init__(self, connection: Connection, log: str) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._go = threading.Event()
        self._spared = False
        # a failing test shows this file
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)

    def send(self, *message: Any) -> None:
        """Send a message to the test; it arrives whatever happens to this process afterwards."""
        with self._lock:
            self._connection.send(message)

    def serve(self, commands: Mapping[str, Callable[..., None]]) -> None:
        """Run each command of the test in a thread; return at "end"."""
        while True:
            try:
                name, *args = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)  # the test is gone
            if name == "end":
                return
            if name == "go":
                self._go.set()
            else:
                self.run_command(commands[name], *args, name=name)

    def run_command(self, command: Callable[..., None], *args: Any, name: str = "main") -> None:
        """Run a command of the test, or of the program itself, in a thread."""
        threading.Thread(target=command, args=args, name=f"command-{name}", daemon=True).start()

    def wait_at(self, point: str) -> None:
        """At a point like "before:settle" send "at" and wait for "go": the moment to kill this process, or another."""
        if not point:
            return
        when, step = point.split(":")
        owner = LinkScripts if hasattr(LinkScripts, step) else LinkPayloads
        original = getattr(owner, step)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when == "before":
                self._wait(point)
            result = original(*args, **kwargs)
            if when == "after":
                self._wait(point)
            return result

        setattr(owner, step, wrapped)

    def reach(self, point: str, wanted: str) -> None:
        """Wait here if ``point``, one of the program itself, is the one at which to wait."""
        if point == wanted:
            self._wait(point)

    def die_at(self, death: Death | None) -> None:
        """SIGKILL this process around its n-th exchange with Redis; its heartbeats are not counted."""
        if death is None:
            return
        counted = itertools.count(1)
        for step in ("send", "store"):
            setattr(SocketConnection, step, self._deadly(getattr(SocketConnection, step), counted, death))

    def spare(self) -> None:
        """Cancel ``die_at``."""
        self._spared = True

    def _deadly(self, step: Callable[..., None], counted: Iterator[int], death: Death) -> Callable[..., None]:
        @functools.wraps(step)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            beats = threading.current_thread().name.startswith("redflare-heartbeat")
            fatal = not beats and next(counted) == death.nth and not self._spared
            if fatal and not death.sent:
                os.kill(os.getpid(), signal.SIGKILL)
            step(*args, **kwargs)
            if fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    def _wait(self, point: str) -> None:
        self._go.clear()
        self.send("at", point)
        self._go.wait()
