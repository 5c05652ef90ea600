"""What every benchmark shares: child processes, and counts of the server's commands."""

from __future__ import annotations

import ctypes
import itertools
import logging
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Final, Self

import redis

from tests.benchmarks.figures import Figure

#: Longest time one call to a child may take; a benchmark that hangs is reported with the method that hung.
CALL_TIMEOUT: Final = 300.0
_PR_SET_PDEATHSIG: Final = 1


class ChildError(RuntimeError):
    """A child process failed or hung; the message holds its traceback. Fix what it names and run again."""


class Child:
    """An object that lives in a process of its own and whose methods are called over a pipe.

    ``factory(*args)`` is called in the child; its ``close()``, if it has one, is called when the child is closed.
    """

    def __init__(self, factory: Callable[..., object], *args: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._name = factory.__name__
        self._process = context.Process(target=_serve, args=(theirs, factory, args), name=self._name, daemon=True)
        _start_without_interrupts(self._process)
        theirs.close()

    def __repr__(self) -> str:
        return f"Child({self._name}, pid={self._process.pid})"

    def start(self, method: str, *args: object) -> None:
        """Call ``method(*args)`` without waiting; ``result`` waits for its end."""
        self._pipe.send((method, args))

    def result(self, timeout: float = CALL_TIMEOUT) -> Any:
        """Wait for the oldest call that is open; return its result."""
        if not self._pipe.poll(timeout):
            raise ChildError(f"{self!r} has not answered for {timeout:.0f} s")
        try:
            failed, value = self._pipe.recv()
        except EOFError:
            raise ChildError(f"{self!r} ended (exit code {self._process.exitcode}) before it answered") from None
        if failed:
            raise ChildError(f"{self!r} failed:\n{value}")
        return value

    def call(self, method: str, *args: object) -> Any:
        """Run ``method(*args)`` of the object in the child."""
        self.start(method, *args)
        return self.result()

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Close the object and end the process; one that does not end by itself in 10 s is killed."""
        try:
            self._pipe.send(None)
            self._process.join(10)
        except OSError:
            pass  # it has ended already
        finally:
            self.kill()
            self._pipe.close()

    def __enter__(self) -> Self:
        try:
            self.result()  # the object is constructed
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        # After an error or Ctrl-C the child may be blocked for ever, so its end is not waited for.
        if exc_type is not None:
            self.kill()
        self.close()


def _start_without_interrupts(process: multiprocessing.process.BaseProcess) -> None:
    """Start a process that never sees Ctrl-C, which reaches the whole group; the parent ends its children itself."""
    resource_tracker.ensure_running()  # started now, because its start would end the block below
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _serve(pipe: Connection, factory: Callable[..., object], args: tuple[object, ...]) -> None:
    """Run in the child: answer calls until the parent closes the pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a parent that was killed takes its children along
    logging.basicConfig(level=logging.ERROR)  # aborts and takeovers are what is measured, nothing to warn of
    with pipe:
        try:
            target = factory(*args)
            pipe.send((False, None))
        except Exception:
            pipe.send((True, traceback.format_exc()))
            return
        while request := _next(pipe):
            method, arguments = request
            try:
                answer = (False, getattr(target, method)(*arguments))
            except Exception:
                answer = (True, traceback.format_exc())
            pipe.send(answer)
    if hasattr(target, "close"):
        target.close()


def _next(pipe: Connection) -> tuple[str, tuple[object, ...]] | None:
    """Wait for the next call; None when the parent has closed the pipe or asked for the end."""
    try:
        return pipe.recv()  # type: ignore[no-any-return]
    except EOFError:
        return None


@contextmanager
def children(*makers: Callable[[], Child]) -> Iterator[list[Child]]:
    """Start several children at once, wait until all have started, and end them all however the block is left."""
    with ExitStack() as stack:
        started = []
        for maker in makers:
            started.append(maker())
            stack.callback(started[-1].kill)
        yield [stack.enter_context(child) for child in started]


def idle(seconds: float) -> None:
    """Let time pass in which nothing is asked for: what a link does by itself is what is measured."""
    time.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkContext:
    """The server that a benchmark measures, and how much of it."""

    url: str
    #: Directory for the agents' workspaces.
    workspace: str
    site: str = "bench"
    #: Fewer samples, shorter waits: the numbers are rougher, the code that runs is the same.
    quick: bool = False
    #: Shrinks all sizes further, for tests of the suite itself: ``scale=0.01`` turns 2,000 samples into 20.
    scale: float = 1.0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def count(self, full: int, quick: int) -> int:
        """How many samples to take."""
        return max(2, round((quick if self.quick else full) * self.scale))

    def seconds(self, full: float, quick: float) -> float:
        """How long to wait."""
        return (quick if self.quick else full) * self.scale

    def unique(self, name: str) -> str:
        """A name that no other benchmark and no other run on this server uses."""
        return f"{name}-{os.getpid()}-{next(self._numbers)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One file of this folder: ``measure`` is called once per run, ``figures`` say how its values are shown."""

    name: str
    about: str
    measure: Callable[[BenchmarkContext], dict[str, float]]
    figures: Sequence[Figure]


@dataclass(slots=True)
class CommandCount:
    """Commands the server was sent while a ``count_commands`` block ran."""

    #: Sent by clients: each one is part of a round trip.
    by_clients: int = 0
    #: Called by Lua inside a client's EVALSHA: work for the server, no round trip.
    by_scripts: int = 0
    names: dict[str, int] = field(default_factory=dict)


_END_OF_COUNT: Final = "end of count"


@contextmanager
def count_commands(url: str) -> Iterator[CommandCount]:
    """Count commands with MONITOR, the only source that tells those of clients from those inside scripts.

    INFO's ``total_commands_processed`` and ``commandstats`` add the two up.
    """
    count = CommandCount()
    with redis.Redis.from_url(url, single_connection_client=True) as marker:
        marker.ping()  # connect now, so that the handshake is not counted
        with redis.Redis.from_url(url, socket_timeout=None) as client, client.monitor() as monitor:
            reader = threading.Thread(target=_count, args=(monitor, count), name="bench-monitor", daemon=True)
            reader.start()
            try:
                yield count
            finally:
                marker.execute_command("ECHO", _END_OF_COUNT)  # comes after all that is to be counted
                reader.join(10)


def _count(monitor: Any, count: CommandCount) -> None:
    """Count what MONITOR shows, up to the marker."""
    for seen in monitor.listen():
        if seen["command"] == f"ECHO {_END_OF_COUNT}":
            return
        if seen["client_type"] == "lua":
            count.by_scripts += 1
            continue
        name = seen["command"].split(" ", 1)[0].upper()
        count.by_clients += 1
        count.names[name] = count.names.get(name, 0) + 1
