"""Requests that wait for their replies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from redflare_broker.keys import CellKeys
from redflare_broker.payload.encoded_payload import EncodedPayload

from .request import Reply

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Pending:
    """A request whose reply has not come yet."""

    id: str
    #: Higher each time it is posted again.
    attempt: int
    channel: str
    topic: str
    #: Keys of the target's cell, and its inbox for requests of this one.
    keys: CellKeys
    inbox: str
    meta: bytes
    #: The data as the caller gave it, to be stored again when Redis loses it; and as it is sent.
    source: EncodedPayload
    payload: EncodedPayload
    #: The target does not delete the chunks.
    keep: bool = False
    #: Called once, from a cell's thread, so it must be quick; not called after ``cancel``.
    on_reply: Callable[[Reply], object]
    #: Takes the request out of the table, and deletes its message.
    on_cancel: Callable[[Pending], None]
    #: How often the payload was stored anew.
    stores: int = 0
    #: How often it was posted.
    posts: int = 1
    #: Its entry in the target's inbox; "" while that is on its way.
    entry_id: str = ""
    posted: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    @property
    def target(self) -> str:
        """FQCN of the cell that is asked."""
        return self.keys.fqcn

    def cancel(self) -> None:
        """Stop waiting: ``on_reply`` is not called any more, and the target need not answer."""
        self.on_cancel(self)

    def __repr__(self) -> str:
        return f"<Pending {self.channel}/{self.topic} {self.id} to {self.target}, attempt {self.attempt}>"


class PendingRequests:
    """All requests of a cell that wait; thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: dict[str, Pending] = {}

    def add(self, pending: Pending) -> None:
        """Add a request that waits.

        Raises:
            ValueError: one of that id waits already.
        """
        with self._guard:
            if self._waiting.setdefault(pending.id, pending) is not pending:
                raise ValueError(f"a request of id {pending.id!r} waits already: wait for its reply, or cancel it")

    def get(self, request_id: str) -> Pending | None:
        """Return the request of that id, if it waits."""
        return self._waiting.get(request_id)

    def remove(self, request_id: str) -> Pending | None:
        """Take a request out, because its reply has come or is not wanted; None: it does not wait."""
        with self._guard:
            return self._waiting.pop(request_id, None)

    def waits(self, pending: Pending) -> bool:
        """Whether a request still waits for its reply."""
        with self._guard:
            return self._waiting.get(pending.id) is pending

    def all(self) -> list[Pending]:
        with self._guard:
            return list(self._waiting.values())

    def take_all(self) -> list[Pending]:
        """Take all requests out, and return them."""
        with self._guard:
            waiting, self._waiting = self._waiting, {}
        return list(waiting.values())

    def settle(self, pending: Pending, reply: Reply) -> None:
        """Hand the reply to a request that was taken out."""
        try:
            pending.on_reply(reply)
        except Exception:
            logger.exception("%r: its on_reply failed on %r", pending, reply)

    def __len__(self) -> int:
        return len(self._waiting)
