"""``KeyspaceFeed``: changes in Redis, pushed by it: keys by their prefix, and messages of channels.

Keys come by client tracking in broadcast mode (Redis 6), redirected to this very connection, which RESP2 allows: the
server then names each key that is written, deleted or expired. Where Redis has no such command, or the user may
not use it, only the channels are received and ``tracked`` is False. Changes while the feed is not connected are lost,
so each opening of it means: read everything again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from redflare_broker.errors import ServerError, Unavailable
from redflare_broker.transport.connection import Connection, RedisReply
from redflare_broker.transport.replies import ReplyError
from redflare_broker.transport.server import Server

_INVALIDATE: Final = "__redis__:invalidate"
#: Seconds of silence after which the connection is proved by a PING, and seconds it has to answer.
_PATIENCE: Final = 30.0
_PONG_WITHIN: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysChanged:
    """Keys were written, deleted or expired; None: all keys of the database were deleted."""

    keys: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyspaceMessage:
    """A message was published on a channel."""

    channel: str
    text: str


class KeyspaceFeed:
    """One subscribed connection, open for the length of a ``with`` block, and again for that of the next.

    The block and ``wait`` belong to one thread, ``close`` may come from any.

    Args:
        server: where to subscribe.
        route: a key on the node to subscribe at; channels and tracked keys must be served by it.
        prefixes: of the keys to watch; none of them may be the start of another.
        channels: to receive as well.
    """

    def __init__(self, server: Server, route: str, prefixes: Sequence[str], channels: Sequence[str] = ()) -> None:
        self._server = server
        self._route = route
        self._prefixes = prefixes
        self._channels = channels
        self._guard = threading.Lock()
        self._connection: Connection | None = None
        self._closed = False
        #: whether changes of keys are received
        self.tracked = False

    def wait(self, timeout: float | None = None) -> KeysChanged | KeyspaceMessage | None:
        """Wait for the next event; None after ``timeout`` seconds without one (None: wait for as long as it takes).

        Raises:
            Unavailable: the connection is lost, or the feed is closed.
        """
        connection = self._connection
        if connection is None:
            raise Unavailable(f"{self._server.url}: the feed is not open")
        if timeout is not None:
            return _event_in(connection.listen(timeout))
        while True:
            reply = connection.listen(_PATIENCE)
            if reply is None:
                connection.send([("PING",)])
                if (reply := connection.listen(_PONG_WITHIN)) is None:
                    raise Unavailable(f"{connection.node} did not answer a PING")
            if event := _event_in(reply):
                return event

    def close(self) -> None:
        """End a wait of the other thread at once, and the feed with it: it cannot be opened again."""
        with self._guard:
            self._closed = True
            if self._connection is not None:
                self._connection.interrupt()

    def __enter__(self) -> KeyspaceFeed:
        """Connect and subscribe, for the first time or again; return when everything that follows will be received.

        Raises:
            Unavailable: Redis is away, or the feed is closed.
            ServerError: the user may not subscribe.
        """
        connection = self._server.connection(self._route)
        with self._guard:
            self._connection = connection
            if self._closed:
                connection.interrupt()
        try:
            self.tracked = self._track(connection)
            if self.tracked:
                _subscribe(connection, "SUBSCRIBE", [_INVALIDATE])
            if self._channels:
                _subscribe(connection, self._server.subscribe, self._channels)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self._leave()

    def _leave(self) -> None:
        with self._guard:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _track(self, connection: Connection) -> bool:
        prefixes = [word for prefix in self._prefixes for word in ("PREFIX", prefix)]
        if not prefixes:
            return False
        try:
            number = cast("int", connection.call("CLIENT", "ID"))
            connection.call("CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", *prefixes)
        except ServerError:
            return False
        return True


def _subscribe(connection: Connection, verb: str, channels: Sequence[str]) -> None:
    """Subscribe and wait for every confirmation; a message in between can only announce what is read afterwards."""
    connection.send([(verb, *channels)])
    confirmed = 0
    while confirmed < len(channels):
        reply = connection.listen(_PONG_WITHIN)
        if reply is None:
            raise Unavailable(f"{connection.node} did not confirm a subscription within {_PONG_WITHIN:g} s")
        if isinstance(reply, ReplyError):
            raise reply.error(connection.node, f"to subscribe to {', '.join(channels)}") from reply
        if isinstance(reply, list) and isinstance(reply[0], bytes) and reply[0].endswith(b"subscribe"):
            confirmed += 1


def _event_in(reply: RedisReply) -> KeysChanged | KeyspaceMessage | None:
    """Decode a reply on a subscribed connection; None for confirmations and PONGs."""
    if not isinstance(reply, list) or len(reply) < 3 or reply[0] not in (b"message", b"smessage"):
        return None
    channel, content = cast("bytes", reply[1]).decode(), reply[2]
    if channel == _INVALIDATE:
        names = cast("list[bytes] | None", content)
        return KeysChanged(keys=None if names is None else tuple(name.decode("utf-8", "replace") for name in names))
    return KeyspaceMessage(channel=channel, text=cast("bytes", content).decode("utf-8", "backslashreplace"))
