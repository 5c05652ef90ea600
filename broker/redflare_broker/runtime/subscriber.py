"""``Subscriber``: a thread that receives the channels of all links of a process, over one connection.

A message is a wake-up and no more. Every confirmation of a subscription, the first and each after a reconnect, means
that messages may have been missed, so the link then asks Redis how things stand.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, Kind, ReplyError
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff

logger = logging.getLogger(__name__)

#: Seconds one wait for a message lasts, after which the connection is proved by a PING.
_PATIENCE: Final = 30.0
_PONG_WITHIN: Final = 5.0
#: Channels of one command.
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """Channels, and what is called from the subscriber's thread."""

    #: Names that share one hash tag.
    channels: Sequence[str]
    #: Called with the message's words, split at spaces.
    on_message: Callable[[list[str]], None]
    #: Called after each (re)subscription of a channel: messages may have been missed before it.
    on_resync: Callable[[], None]


class Subscriber:
    """Receives the channels of subscriptions on a dedicated connection; they come and go while it runs.

    Args:
        server: where to subscribe; on a cluster all channels must be served by one node.
        first: the subscriptions to begin with.
    """

    def __init__(self, server: Server, *first: Subscription, name: str = "redflare-subscriber") -> None:
        self._server = server
        self._by_channel: dict[str, Subscription] = {}
        self._stopped = threading.Event()
        #: re-entrant: a signal handler may stop an agent while its own thread is in here
        self._guard = threading.RLock()
        self._connection: Connection | None = None
        self._started = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        for subscription in first:
            self.add(subscription)

    def start(self) -> None:
        """Begin to receive; a second start has no effect."""
        with self._guard:
            first, self._started = not self._started, True
        if first:
            self._thread.start()

    def add(self, subscription: Subscription) -> None:
        """Receive its channels from now on, from any thread."""
        with self._guard:
            self._by_channel |= dict.fromkeys(subscription.channels, subscription)
            self._wake()

    def remove(self, subscription: Subscription) -> None:
        """Receive its channels no more. A handler that runs at this moment goes on."""
        with self._guard:
            for channel in subscription.channels:
                if self._by_channel.get(channel) is subscription:
                    del self._by_channel[channel]
            self._wake()

    def _wake(self) -> None:
        if self._connection is not None:
            self._connection.wake()

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
                for channel, words in self._messages():
                    backoff.reset()
                    self._dispatch(channel, words)
            except RedflareError as exc:
                if self._stopped.is_set():
                    return
                level = backoff.level(exc, logging.INFO if isinstance(exc, Unavailable) else logging.ERROR)
                logger.log(level, "%r lost its connection, tries again: %s", self, exc)
            except Exception:
                logger.exception("%r failed; it goes on", self)
            self._stopped.wait(backoff.next_delay())

    def _messages(self) -> Generator[tuple[str, list[str]]]:
        """Yield channel and words of each message; no words for each confirmation of a subscription."""
        connection = self._open()
        subscribed: set[str] = set()
        asked = False
        try:
            while not self._stopped.is_set():
                if self._catch_up(connection, subscribed):
                    asked = False
                message = connection.listen(_PONG_WITHIN if asked else _PATIENCE)
                if message is None and not self._is_behind(subscribed):
                    if asked:
                        raise Unavailable(f"{connection.node} did not answer a PING")
                    connection.send([["PING"]])
                asked = message is None
                if isinstance(message, ReplyError) and message.rule.kind is Kind.FINAL:
                    raise message.error(connection.node, "to subscribe")
                if not isinstance(message, list) or len(message) < 3:
                    continue
                kind, channel, content = message[:3]
                if not isinstance(kind, bytes) or not isinstance(channel, bytes):
                    continue
                if kind in (b"subscribe", b"ssubscribe"):
                    yield channel.decode("utf-8", "replace"), []
                elif isinstance(content, bytes):
                    yield channel.decode("utf-8", "replace"), content.decode("utf-8", "replace").split(" ")
        finally:
            with self._guard:
                self._connection = None
            connection.close()

    def _is_behind(self, subscribed: set[str]) -> bool:
        with self._guard:
            return self._by_channel.keys() != subscribed

    def _catch_up(self, connection: Connection, subscribed: set[str]) -> bool:
        """Subscribe to what has come, and leave what is no longer wanted; False: there is nothing to do."""
        with self._guard:
            wanted = list(self._by_channel)
        verb = self._server.subscribe
        commands: list[list[Arg]] = []
        steps = (
            (verb, [each for each in wanted if each not in subscribed]),
            (verb.replace("SUB", "UNSUB"), sorted(subscribed.difference(wanted))),
        )
        for word, channels in steps:
            # a cluster wants the channels of one slot in a command, and has those of one link here
            commands += [[word, *channels[at : at + _AT_ONCE]] for at in range(0, len(channels), _AT_ONCE)]
        if commands:
            connection.send(commands)
            subscribed.clear()
            subscribed.update(wanted)
        return bool(commands)

    def _open(self) -> Connection:
        with self._guard:
            route = next(iter(self._by_channel), "")
        connection = self._server.connection(route)
        with self._guard:
            self._connection = connection
            if self._stopped.is_set():
                connection.interrupt()
        return connection

    def _dispatch(self, channel: str, words: list[str]) -> None:
        with self._guard:
            subscription = self._by_channel.get(channel)
        if subscription is None:
            return
        try:
            if words:
                subscription.on_message(words)
            else:
                subscription.on_resync()
        except Exception:
            logger.exception("the subscriber of %s: a handler failed on %s", channel, words)

    def __repr__(self) -> str:
        channels = list(self._by_channel)
        return f"<Subscriber of {channels[0] if channels else 'nothing'}{' and more' if len(channels) > 2 else ''}>"
