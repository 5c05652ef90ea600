"""``PrimaryWatch``: hears from the Sentinels when another server has become the primary.

A primary that was cut off, or slept, does not know for some seconds that it was replaced. It answers, keeps the
connections it has, and what is written to it meanwhile is lost.
"""

from __future__ import annotations

import logging
from typing import Final, Self, cast

from redflare_broker.transport.server import Server

from .subscriber import Subscriber, Subscription

logger = logging.getLogger(__name__)

_CHANNEL: Final = "+switch-master"


class PrimaryWatch:
    """Ends the connections of a server to all but its primary; a wait on one of them begins again with the primary.

    A context manager: it watches during the block.

    Args:
        server: found through Sentinels; for any other nothing is watched.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sentinels = server.sentinels()
        self._subscriber = (
            Subscriber(
                self._sentinels, Subscription([_CHANNEL], self._on_switch, self._ask), name="redflare-primary-watch"
            )
            if self._sentinels is not None
            else None
        )

    def start(self) -> None:
        """Begin to listen to a Sentinel, to another when that is gone."""
        if self._subscriber is not None:
            self._subscriber.start()

    def stop(self) -> None:
        """End the thread and the connections to the Sentinels. May be called again."""
        if self._subscriber is not None:
            self._subscriber.stop()
        if self._sentinels is not None:
            self._sentinels.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def _on_switch(self, words: list[str]) -> None:
        """Handle the message of a Sentinel: name of the service, host and port of the old primary, and of the new."""
        if words[0] == self._server.service:
            _, _, _, host, port = words
            self._server.leave_all_but((host, int(port)))

    def _ask(self) -> None:
        """Ask for the primary: messages before the subscription were missed."""
        if self._sentinels is None:
            return
        with self._sentinels.borrow(_CHANNEL) as connection:
            found = connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._server.service)
        if isinstance(found, list):
            host, port = cast("list[bytes]", found)
            self._server.leave_all_but((host.decode(), int(port)))

    def __repr__(self) -> str:
        return f"<PrimaryWatch of {self._server.url}>"
