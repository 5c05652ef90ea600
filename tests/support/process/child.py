"""Real processes for tests: started in milliseconds, given commands over a pipe, killed, stopped and resumed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

#: One process imports everything once, and each child is a fork of it: none inherits the test's threads or sockets.
FORKSERVER: Final = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [f"tests.programs.{name}" for name in ("agent", "cj", "client_job", "server_job", "trainer")]
)

#: Seconds until a message that a test waits for must arrive.
PATIENCE: Final = 10.0
_LOG_LINES: Final = 40

Message = tuple[Any, ...]
Main = Callable[..., None]


class Child:
    """A child process that runs ``main(connection, log, args)``; killed at the end of the ``with`` block."""

    def __init__(self, main: Main, args: object, log: Path) -> None:
        self._log = log
        self._unread: list[Message] = []
        self._all: list[Message] = []
        self._pipe, other = FORKSERVER.Pipe()
        self._process: ForkServerProcess = FORKSERVER.Process(target=main, args=(other, str(log), args))
        self._process.start()
        other.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._pipe.closed and self._process.is_alive()

    @property
    def connection(self) -> Connection:
        """Readable when a message has arrived, for ``multiprocessing.connection.wait``."""
        return self._pipe

    def send(self, *command: Any) -> None:
        """Send a command."""
        self._pipe.send(command)

    def receive(self, kind: str, timeout: float = PATIENCE) -> Message:
        """Wait for the next message of a kind, its first item; return its other items. Keep messages of other kinds."""
        deadline = time.monotonic() + timeout
        while True:
            for index, message in enumerate(self._unread):
                if message[0] == kind:
                    return self._unread.pop(index)[1:]
            if not self._poll(deadline - time.monotonic()):
                raise AssertionError(f"no {kind!r} within {timeout:g} s, but {self._all}\n{self.log_tail()}")

    def received(self, kind: str) -> list[Message]:
        """All messages of a kind received so far."""
        while self._poll(0):
            pass
        return [message[1:] for message in self._all if message[0] == kind]

    def next_message(self) -> Message | None:
        """The next message, if one has arrived."""
        if self._unread or self._poll(0):
            return self._unread.pop(0)
        return None

    def _poll(self, timeout: float) -> bool:
        try:
            if self._pipe.closed or not self._pipe.poll(max(timeout, 0)):
                return False
            message = self._pipe.recv()
        except (EOFError, OSError):
            return False
        self._unread.append(message)
        self._all.append(message)
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to a running child."""
        assert self._process.is_alive(), f"it has exited already:\n{self.log_tail()}"
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it has exited."""
        self.signal(signal.SIGKILL)
        self._process.join()

    def dismiss(self) -> None:
        """SIGKILL, unless it has exited; messages that it has sent can still be read."""
        self._process.kill()

    def end(self) -> None:
        """Ask it to stop its agent or exchanger, and wait until it has exited."""
        self.send("end")
        self._process.join(PATIENCE)
        assert self._process.exitcode == 0, f"it exited with {self._process.exitcode}:\n{self.log_tail()}"

    def log_tail(self) -> str:
        """The last lines of its log."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-_LOG_LINES:])

    def close(self) -> None:
        """Kill it if it runs, and close the pipe. May be called again."""
        if self._pipe.closed:
            return
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Child {self.pid} {self._log.name}>"
