"""``Retries``: tries a step again while Redis is unavailable, for as long as somebody at a terminal waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn, TypeVar

from redflare_broker.errors import Unavailable
from redflare_broker.util.backoff import Backoff

from .connection import Command, Connection, RedisReply

T = TypeVar("T")


class Retries:
    """Tries steps again, which must be safe to run twice.

    Args:
        seconds: no attempt of a step begins later than this after its first failure.
        on_failure: called with the first failure of a step.
    """

    def __init__(self, seconds: float, on_failure: Callable[[Unavailable], object]) -> None:
        self.seconds = seconds
        self._on_failure = on_failure

    def run(self, step: Callable[[], T]) -> T:
        """Run a step until Redis has answered it; raise its last failure when the time is over."""
        backoff, until, told = Backoff(), time.monotonic() + self.seconds, False
        while True:
            try:
                return step()
            except Unavailable as error:
                delay = backoff.next_delay()
                if time.monotonic() + delay > until:
                    raise
                if not told:
                    told = True
                    self._on_failure(error)
                time.sleep(delay)

    def __repr__(self) -> str:
        return f"<Retries for {self.seconds:g} s>"


class RetryingConnection(Connection):
    """Runs each step on a connection that it borrows for it, and again on another one.

    It has no replies in between: ``send``, ``receive`` and ``listen`` are not for it.

    Args:
        borrow: lends a connection to the node of the moment.
        node: names it in messages.
    """

    def __init__(self, retries: Retries, borrow: Callable[[], AbstractContextManager[Connection]], node: str) -> None:
        self.node = node
        self._retries = retries
        self._borrow = borrow

    def _run(self, step: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with self._borrow() as connection:
                return step(connection)

        return self._retries.run(attempt)

    def pipeline(self, commands: Sequence[Command], timeout: float | None = None) -> list[RedisReply]:
        return self._run(lambda connection: connection.pipeline(commands, timeout))

    def store(self, chunks: Iterable[tuple[str, Sequence[memoryview]]], ttl_ms: int) -> None:
        kept = list(chunks)
        self._run(lambda connection: connection.store(kept, ttl_ms))

    def load(self, chunks: Sequence[tuple[str, Sequence[memoryview]]]) -> None:
        self._run(lambda connection: connection.load(chunks))

    def send(self, commands: Sequence[Command]) -> NoReturn:
        raise NotImplementedError

    def receive(self, timeout: float | None = None) -> NoReturn:
        raise NotImplementedError

    def listen(self, timeout: float) -> NoReturn:
        raise NotImplementedError

    def wake(self) -> None:
        """Do nothing: nobody listens on it."""

    def interrupt(self) -> None:
        """Do nothing: it holds no connection."""

    def close(self) -> None:
        """Do nothing, as ``interrupt``."""
