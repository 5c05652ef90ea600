"""``Connection``: one connection to one Redis node, used by one thread at a time.

A connection is either in step (every command sent has had its reply read) or closed: whatever breaks in between, a
timeout, an error of the network, a KeyboardInterrupt, closes it, so that a late reply is never taken for the next
command's. ``socket_connection`` has the one to servers, ``client_connection`` the one to fakeredis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from .replies import Arg, Command, RedisReply, ReplyError, require

__all__ = ["Arg", "Command", "Connection", "RedisReply", "ReplyError", "require"]


class Connection(ABC):
    """One connection used by one thread at a time, plus ``interrupt`` from any other.

    Every wait is finite: ``timeout`` is how many seconds Redis may be silent, None is the connection's own
    default. A timeout closes the connection and raises ``Unavailable``; a blocking command needs a timeout longer than
    its BLOCK.
    """

    #: the server's address, for logs: "127.0.0.1:6379"
    node: str
    closed: bool = False
    #: ``interrupt`` was called: whatever the connection is used for next fails
    interrupted: bool = False
    #: scripts are called as functions, see ``functions``
    functions: bool = False

    def call(self, *args: Arg, timeout: float | None = None) -> RedisReply:
        """Run one command.

        Raises:
            Unavailable: no answer came, or one that means "not now"; the connection is closed, unless the server
                refuses the command and goes on (memory or disk full).
            ReplyError: the answer is NOSCRIPT.
            ServerError: Redis refused the command.
        """
        return require(self.pipeline((args,), timeout)[0], self.node)

    def pipeline(self, commands: Sequence[Command], timeout: float | None = None) -> list[RedisReply]:
        """Run commands in one round trip; an error reply is in the list as a ``ReplyError``.

        Raises:
            Unavailable: as in ``call``.
        """
        try:
            self.send(commands)
            return [self.receive(timeout) for _ in commands]
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def send(self, commands: Sequence[Command]) -> None:
        """Write commands without waiting; ``receive`` must be called once for each."""

    @abstractmethod
    def receive(self, timeout: float | None = None) -> RedisReply:
        """Return the next reply, an error reply too unless it means ``Unavailable``, which closes the connection."""

    @abstractmethod
    def listen(self, timeout: float) -> RedisReply:
        """Return the next message of a subscribed connection, ``[b"message", channel, data]``; None if none came in
        time.

        The confirmations of further channels come here as well. Unlike in ``receive``, a timeout leaves the connection
        open, and ``wake`` from another thread ends the wait.
        """

    @abstractmethod
    def wake(self) -> None:
        """End the ``listen`` of another thread, or else the next one, which returns None; from any thread."""

    @abstractmethod
    def store(self, chunks: Iterable[tuple[str, Sequence[memoryview]]], ttl_ms: int) -> None:
        """Set each key to the concatenation of its flat byte views, to expire after ``ttl_ms``.

        Raises:
            ServerError: Redis refused a chunk; those before it are written, the connection is in step.
            Unavailable: as in ``call``; any of the chunks may be written.
        """

    @abstractmethod
    def load(self, chunks: Sequence[tuple[str, Sequence[memoryview]]]) -> None:
        """Fill the writable flat byte views with the values of the keys.

        Raises:
            BlobMissing: a key is not there.
            DecodeError: a value is not as long as its views.
            ServerError: Redis refused.
            Unavailable: as in ``call``. The views' content is undefined after any error.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """End the connection, from any thread: a blocked or later wait raises ``Unavailable`` at once."""

    @abstractmethod
    def close(self) -> None:
        """End the connection; closing again is allowed."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.node} {'closed' if self.closed else 'open'}>"
