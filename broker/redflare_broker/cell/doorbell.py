"""``Doorbell``: the channel of a cell on which a sender rings that has not written to it before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from redflare_broker.keys import CellKeys
from redflare_broker.runtime.subscriber import Subscriber, Subscription
from redflare_broker.transport.server import Server

#: Receives channels until what it returns is called, as ``SharedConnection.subscribe``.
Subscribe: TypeAlias = Callable[[Subscription], Callable[[], None]]


class Doorbell:
    """Listens between ``open`` and ``close``.

    Args:
        subscribe: a subscriber shared with others; None: the cell has its own.
        on_ring: called with the name of a sender, from the subscriber's thread.
        on_resync: called when rings may have been missed.
    """

    def __init__(
        self,
        server: Server,
        keys: CellKeys,
        subscribe: Subscribe | None,
        on_ring: Callable[[str], None],
        on_resync: Callable[[], None],
    ) -> None:
        self._server = server
        self._keys = keys
        self._subscribe = subscribe or self._subscribe_alone
        self._subscription = Subscription([keys.doorbell], lambda words: on_ring(words[0]), on_resync)
        self._unsubscribe: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Begin to listen."""
        self._unsubscribe = self._subscribe(self._subscription)

    def close(self) -> None:
        """Listen no more."""
        self._unsubscribe()

    def _subscribe_alone(self, subscription: Subscription) -> Callable[[], None]:
        own = Subscriber(self._server, subscription, name=f"redflare-subscriber-{self._keys.fqcn}")
        own.start()
        return own.stop

    def __repr__(self) -> str:
        return f"<Doorbell {self._keys.doorbell}>"
