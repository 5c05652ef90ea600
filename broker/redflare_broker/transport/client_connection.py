"""``ClientConnection``: a connection without a socket: to fakeredis, in the process of the test.

fakeredis runs a command inside ``send_command``, in the caller's thread, and blocks there. So a blocking read runs when
its reply is asked for, and in short slices, between which ``interrupt`` is noticed; a write wakes it at once.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redflare_broker.errors import Unavailable

from .connection import Connection
from .functions import as_functions
from .replies import Arg, Command, Kind, RedisReply, ReplyError, missing, wrong_size

#: Longest wait inside the foreign connection, in seconds: how late an interrupt may be seen.
_SLICE: Final = 0.02


class ForeignConnection(Protocol):
    """The part of a redis-py connection without a socket that ``ClientConnection`` needs."""

    def send_command(self, *args: Arg) -> None: ...

    def read_response(self, *, disable_decoding: bool) -> RedisReply: ...

    def can_read(self, timeout: float) -> bool: ...

    def disconnect(self) -> None: ...


class ClientConnection(Connection):
    """Commands through ``send_command`` and ``read_response`` of a connected connection, which it owns from now on."""

    def __init__(self, raw: ForeignConnection, node: str, timeout: float = 5.0) -> None:
        self.node = node
        self._connection = raw
        self._default_timeout = timeout
        self._replies: deque[RedisReply] = deque()
        self._waiting: deque[Command] = deque()
        self.interrupted = False
        self._woken = False

    def send(self, commands: Sequence[Command]) -> None:
        self._waiting.extend(as_functions(commands) if self.functions else commands)
        while self._waiting and not _block_index(self._waiting[0]):
            self._replies.append(self._run(self._waiting.popleft()))

    def receive(self, timeout: float | None = None) -> RedisReply:
        if not self._replies and self._waiting:
            command = self._waiting.popleft()
            self._replies.append(self._run_blocking(command, self._default_timeout if timeout is None else timeout))
            self.send(())
        if not self._replies:
            self._fail(RedisTimeoutError("a reply was asked for that no command owes"))
        reply = self._replies.popleft()
        if isinstance(reply, ReplyError) and reply.rule.kind is Kind.AWAY:
            self.close()
            raise reply.error(self.node)
        return reply

    def listen(self, timeout: float) -> RedisReply:
        if self._replies:
            return self._replies.popleft()
        deadline = time.monotonic() + timeout
        while True:
            self._check_open()
            if self._woken:
                self._woken = False
                return None
            remaining = max(deadline - time.monotonic(), 0)
            try:
                if self._connection.can_read(min(remaining, _SLICE)):
                    return self._connection.read_response(disable_decoding=True)
            except ResponseError as error:
                return reply_of(error)
            except RedisError as error:
                self._fail(error)
            if not remaining:
                return None

    def store(self, chunks: Iterable[tuple[str, Sequence[memoryview]]], ttl_ms: int) -> None:
        for key, views in chunks:
            self.call("SET", key, b"".join(views), "PX", ttl_ms)

    def load(self, chunks: Sequence[tuple[str, Sequence[memoryview]]]) -> None:
        for key, views in chunks:
            value = self.call("GET", key)
            if not isinstance(value, bytes):
                raise missing(self.node, key)
            size = sum(map(len, views))
            if len(value) != size:
                raise wrong_size(key, str(len(value)), size)
            rest = memoryview(value)
            for view in views:
                view[:] = rest[: len(view)]
                rest = rest[len(view) :]

    def wake(self) -> None:
        self._woken = True

    def interrupt(self) -> None:
        self.interrupted = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._connection.disconnect()

    def _run(self, command: Command) -> RedisReply:
        self._check_open()
        try:
            self._connection.send_command(*command)
            return self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return reply_of(error)
        except RedisError as error:
            self._fail(error)

    def _run_blocking(self, command: Command, timeout: float) -> RedisReply:
        """Run a stream read in slices until it has something, its BLOCK is over (0: never), or the timeout is."""
        at = _block_index(command) or 0
        block = int(command[at]) / 1000 or math.inf
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            if waited >= min(block, timeout):
                break
            slice_ms = max(round(min(_SLICE, block - waited, timeout - waited) * 1000), 1)
            reply = self._run((*command[:at], slice_ms, *command[at + 1 :]))
            if reply is not None:
                return reply
        if timeout < block:
            self._fail(RedisTimeoutError(f"no answer within {timeout:g} s"))
        return None

    def _check_open(self) -> None:
        if self.interrupted:
            self._fail(RedisConnectionError("the wait was interrupted by another thread"))
        if self.closed:
            self._fail(RedisConnectionError("the connection is closed"))

    def _fail(self, error: RedisError) -> NoReturn:
        self.close()
        raise Unavailable(f"{self.node}: {error}") from error


def reply_of(error: RedisError) -> ReplyError:
    """Put an error reply together again that redis-py has taken apart."""
    return ReplyError(f"{error.status_code} {error}" if error.status_code else str(error))


def _block_index(command: Command) -> int | None:
    """Return the index of the milliseconds of a stream read's BLOCK; None if it does not block."""
    words = [arg.upper() if isinstance(arg, str) else arg for arg in command]
    if words[0] not in ("XREAD", "XREADGROUP") or "STREAMS" not in words:
        return None
    options = words[: words.index("STREAMS")]
    return options.index("BLOCK") + 1 if "BLOCK" in options else None
