"""What the child programs have in common: words over a pipe, and points at which to wait for the test."""

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
    """Where a process is to die."""

    #: Number of the exchange with Redis.
    nth: int
    #: What it sends reaches Redis, and the answer nobody; otherwise not even that.
    sent: bool


class ParentPipe:
    """Tells the test what happens and hears what to do; the process ends with its test."""

    def __init__(self, connection: Connection, log: str) -> None:
        self._connection = connection
        self._guard = threading.Lock()
        self._go = threading.Event()
        self._spared = False
        # what Python and its libraries say stands in a file that a failing test shows
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)

    def tell(self, *message: Any) -> None:
        """Say something to the test; what was said stays said, whatever happens to this process."""
        with self._guard:
            self._connection.send(message)

    def obey(self, orders: Mapping[str, Callable[..., None]]) -> None:
        """Run each order of the test in a thread of its own; returns at "end"."""
        while True:
            try:
                word, *args = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)  # the test is gone
            if word == "end":
                return
            if word == "go":
                self._go.set()
            else:
                self.run_order(orders[word], *args, name=word)

    def run_order(self, order: Callable[..., None], *args: Any, name: str = "main") -> None:
        """Run an order, or what is done without one, in a thread of its own."""
        threading.Thread(target=order, args=args, name=f"order-{name}", daemon=True).start()

    def wait_at(self, point: str) -> None:
        """At a point like "before:settle" say "at" and wait for "go": the moment to kill this process, or another."""
        if not point:
            return
        when, step = point.split(":")
        owner = LinkScripts if hasattr(LinkScripts, step) else LinkPayloads
        original = getattr(owner, step)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when == "before":
                self._wait(point)
            said = original(*args, **kwargs)
            if when == "after":
                self._wait(point)
            return said

        setattr(owner, step, wrapped)

    def reach(self, point: str, wanted: str) -> None:
        """A point of the program's own; the same as a step if it is the one at which to wait."""
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
        """It shall not die any more."""
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
        self.tell("at", point)
        self._go.wait()
