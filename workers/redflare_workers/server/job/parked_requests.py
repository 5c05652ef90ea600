"""Requests for tasks that could not be answered yet: one of each client, each looked after by one thread at a time.

A request that waits is data, not a thread, so thousands may wait. Whoever learns that a client might get something now
calls for it; a call that comes while another thread is already asking for that client makes that thread ask once more,
so that no wake-up is lost between the asking and the waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from redflare_broker.cell.request import Request

from redflare_workers.apis.client import Client


@dataclass(slots=True, kw_only=True, eq=False)
class ParkedRequest:
    """A request that waits for a task."""

    client: Client
    request: Request
    #: A thread is asking for it just now.
    called: bool = False
    #: Something has changed since that thread began to ask.
    again: bool = False


class ParkedRequests:
    """Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: dict[str, ParkedRequest] = {}

    def enter(self, client: Client, request: Request) -> ParkedRequest | None:
        """Let a request wait; the one of the same client that it replaces, if any."""
        with self._guard:
            before = self._waiting.get(client.name)
            self._waiting[client.name] = ParkedRequest(client=client, request=request)
            return before

    def call(self, name: str) -> ParkedRequest | None:
        """Begin to ask for a client; None: it is not waiting, or another thread is asking and will ask again."""
        with self._guard:
            waiting = self._waiting.get(name)
            if waiting is None:
                return None
            if waiting.called:
                waiting.again = True
                return None
            waiting.called = True
            return waiting

    def pass_by(self) -> list[str]:
        """Who asks just now may be stuck: let others ask too; names of the clients that this concerns."""
        with self._guard:
            stuck = [name for name, waiting in self._waiting.items() if waiting.called]
            for name in stuck:
                self._waiting[name].called = False
            return stuck

    def wait_on(self, waiting: ParkedRequest) -> bool:
        """There was nothing for it; True: something has changed meanwhile, ask again."""
        with self._guard:
            again, waiting.again = waiting.again, False
            waiting.called = again
            return again

    def leave(self, waiting: ParkedRequest) -> bool:
        """It is about to be answered; False: it has left already, or was replaced, and must not be."""
        with self._guard:
            if self._waiting.get(waiting.client.name) is not waiting:
                return False
            del self._waiting[waiting.client.name]
            return True

    def among(self, names: Iterable[str] | None) -> list[str]:
        """Those of ``names`` (None: of all clients) that wait."""
        with self._guard:
            return list(self._waiting) if names is None else [name for name in names if name in self._waiting]

    def empty(self) -> list[ParkedRequest]:
        """All that waited; the room is empty afterwards."""
        with self._guard:
            waiting, self._waiting = list(self._waiting.values()), {}
            return waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<ParkedRequests with {sorted(self._waiting)[:10]} of {len(self._waiting)}>"
