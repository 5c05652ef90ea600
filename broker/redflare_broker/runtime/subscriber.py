"""``Subscriber``: a thread that receives the abort and notice channels of one agent's link.

A message is a wake-up and no more. Every confirmation of a subscription, the first and each after a reconnect, means
that messages may have been missed, so the link then asks Redis how things stand.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from typing import Final

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Kind, ReplyError
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff

logger = logging.getLogger(__name__)

#: Seconds one wait for a message lasts, after which the connection is proved by a PING.
_PATIENCE: Final = 30.0
_PONG_WITHIN: Final = 5.0


class Subscriber:
    """Receives channels on a dedicated connection and passes each message on, from its thread.

    Args:
        server: where to subscribe.
        channels: names that share one hash tag.
        on_message: called with the message's words, split at spaces.
        on_resync: called after each (re)subscription: messages may have been missed before it.
    """

    def __init__(
        self,
        server: Server,
        channels: list[str],
        on_message: Callable[[list[str]], None],
        on_resync: Callable[[], None],
        name: str = "redflare-subscriber",
    ) -> None:
        self._server = server
        self._channels = channels
        self._on_message = on_message
        self._on_resync = on_resync
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread at once, also when it is blocked."""
        self._stopped.set()
        with self._guard:
            if self._connection is not None:
                self._connection.interrupt()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=10.0)

    def _run(self) -> None:
        backoff = Backoff()
        while not self._stopped.is_set():
            try:
                for words in self._messages():
                    backoff.reset()
                    self._dispatch(words)
            except RedflareError as exc:
                if self._stopped.is_set():
                    return
                level = backoff.level(exc, logging.INFO if isinstance(exc, Unavailable) else logging.ERROR)
                logger.log(level, "subscriber of %s lost its connection, tries again: %s", self._channels[0], exc)
            except Exception:
                logger.exception("subscriber of %s failed; it goes on", self._channels[0])
            self._stopped.wait(backoff.next_delay())

    def _messages(self) -> Generator[list[str]]:
        """Yield the words of each message; an empty list for each confirmation of a subscription."""
        connection = self._open()
        try:
            connection.send([[self._server.subscribe, *self._channels]])
            while not self._stopped.is_set():
                message = connection.listen(_PATIENCE)
                if message is None:
                    connection.send([["PING"]])
                    message = connection.listen(_PONG_WITHIN)
                    if message is None:
                        raise Unavailable(f"{connection.node} did not answer a PING")
                if isinstance(message, ReplyError) and message.rule.kind is Kind.FINAL:
                    raise message.error(connection.node, "to subscribe")
                if not isinstance(message, list) or len(message) < 3 or not isinstance(message[0], bytes):
                    continue
                if message[0].endswith(b"subscribe"):
                    yield []
                elif isinstance(message[2], bytes):
                    yield message[2].decode("utf-8", "replace").split(" ")
        finally:
            with self._guard:
                self._connection = None
            connection.close()

    def _open(self) -> Connection:
        connection = self._server.connection(self._channels[0])
        with self._guard:
            self._connection = connection
            if self._stopped.is_set():
                connection.interrupt()
        return connection

    def _dispatch(self, words: list[str]) -> None:
        try:
            if words:
                self._on_message(words)
            else:
                self._on_resync()
        except Exception:
            logger.exception("subscriber of %s: a handler failed on %s", self._channels[0], words)

    def __repr__(self) -> str:
        return f"<Subscriber {self._channels}>"
