"""One request to several cells: its payload is stored once, and each of them may get a meta of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from redflare_broker.fqcn import FQCN
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.util.thread_pool import ElasticThreadPool
from redflare_broker.wire.message_entry import pack_meta

from .outgoing import OutgoingRequests
from .pending import Pending
from .request import Reply


class Multicast:
    """Requests that wait for their replies together; thread-safe.

    Args:
        on_reply: called once for each target with its key and reply, from a cell's thread, so it must be quick.
    """

    def __init__(
        self, outgoing: OutgoingRequests, pool: ElasticThreadPool, on_reply: Callable[[str, Reply], object]
    ) -> None:
        self._outgoing = outgoing
        self._pool = pool
        self._on_reply = on_reply
        self._guard = threading.Lock()
        self._waiting: dict[str, Pending | None] = {}
        self._given_up = False
        #: the payload in chunks that are ours to delete
        self._stored: EncodedPayload | None = None

    def ask(
        self, channel: str, topic: str, targets: Mapping[str, tuple[str, dict[str, Any] | None]], source: EncodedPayload
    ) -> None:
        """Post the requests; ``targets`` and what is raised are those of ``Cell.ask_many``."""
        packed = {key: (FQCN.check(fqcn), pack_meta(meta)) for key, (fqcn, meta) in targets.items()}
        stored = None
        if len(packed) > 1:
            # a single target deletes the chunks itself
            stored = self._outgoing.store(source)
            self._stored = stored if stored.blob is not None and source.blob is None else None
        self._waiting = dict.fromkeys(packed)
        try:
            for key, (fqcn, meta) in packed.items():
                on_reply = partial(self._answered, key)
                pending = self._outgoing.ask(channel, topic, fqcn, meta, source, on_reply=on_reply, stored=stored)
                with self._guard:
                    if key in self._waiting:
                        self._waiting[key] = pending
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop waiting for all replies."""
        with self._guard:
            self._given_up = True
            waiting, self._waiting = self._waiting, {}
        for pending in waiting.values():
            if pending is not None:
                pending.cancel()
        self._discard()

    def is_written(self, key: str) -> bool:
        """Whether the request of that key was written to its target's inbox, or answered."""
        with self._guard:
            pending = self._waiting.get(key)
            return key not in self._waiting or (pending is not None and bool(pending.entry_id))

    def _answered(self, key: str, reply: Reply) -> None:
        with self._guard:
            given_up = self._given_up
            self._waiting.pop(key, None)
            last = not self._waiting
        if given_up:
            self._pool.submit(reply.release)
            return
        try:
            self._on_reply(key, reply)
        finally:
            if last:
                self._discard()

    def _discard(self) -> None:
        """Delete the chunks of the payload, which are not needed any more."""
        with self._guard:
            stored, self._stored = self._stored, None
        if stored is not None and not self._pool.submit(partial(self._outgoing.discard, stored)):
            self._outgoing.discard(stored)

    def __repr__(self) -> str:
        return f"<Multicast waiting for {sorted(self._waiting)}>"
