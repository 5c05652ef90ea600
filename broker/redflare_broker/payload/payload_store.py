"""``PayloadStore``: what keeps the buffers of large messages; ``payloads_of`` chooses it, ``discard`` deletes one."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Protocol

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import BlobRef

from .redis_store import RedisPayloadStore, Stop

logger = logging.getLogger(__name__)


class PayloadStore(Protocol):
    """Keeps payloads under the prefixes of their keys. Every call may be repeated, and is thread-safe.

    All calls repeat their attempts while the store is away; ``stop`` and ``deadline`` end them as in ``Server.run``.
    """

    def put(
        self,
        prefix: str,
        buffers: Sequence[memoryview],
        *,
        chunk: int,
        ttl_ms: int,
        stop: Stop = None,
        deadline: float | None = None,
    ) -> BlobRef:
        """Write buffers (flat byte views) under ``prefix``; remove what was written when it fails.

        Args:
            chunk: bytes that are written at once; more where that would make too many parts.
            ttl_ms: life of the payload; ``renew`` prolongs it.

        Raises:
            Unavailable: ``stop`` or ``deadline`` ended the attempts.
            ServerError: the store refused (no permission).
        """

    def fetch(
        self, ref: BlobRef, targets: Sequence[memoryview], *, stop: Stop = None, deadline: float | None = None
    ) -> None:
        """Fill ``targets`` (writable flat byte views of the sizes that ``ref`` names) with the payload.

        Raises:
            BlobMissing: the payload is gone, or a part of it; its sender must send it again.
            DecodeError: the payload is not as long as ``ref`` states.
            Unavailable: as ``put``. The targets' content is undefined after any error.
        """

    def renew(self, ref: BlobRef, ttl_ms: int, *, stop: Stop = None, deadline: float | None = None) -> bool:
        """Let the payload live for ``ttl_ms`` from now; False if it is gone, or a part of it.

        Raises:
            Unavailable: as ``put``.
        """

    def prolong(self, ref: BlobRef, ttl_ms: int, *, stop: Stop = None, deadline: float | None = None) -> None:
        """Let the payload live for ``ttl_ms`` from now at least.

        Raises:
            Unavailable: as ``put``.
        """

    def stored(self, prefix: str) -> int:
        """Count the bytes of a payload that are there, for inspection: one attempt; 0 without a prefix.

        Raises:
            Unavailable: the store is away.
        """

    def remove(self, ref: BlobRef, *, stop: Stop = None, deadline: float | None = None) -> None:
        """Delete the payload; one that is gone already is no error.

        Raises:
            Unavailable: as ``put``.
        """


def payloads_of(server: Server) -> PayloadStore:
    """Return the store for the payloads of messages that go through ``server``; a second store is chosen here."""
    return RedisPayloadStore(server)


def discard(server: Server, ref: BlobRef) -> None:
    """Delete a payload that nobody needs any more; if its node is away, a later heartbeat of this process does it.

    It makes one attempt, and raises nothing: a payload that cannot be deleted expires.
    """

    def remove() -> None:
        payloads_of(server).remove(ref, deadline=time.monotonic())

    try:
        remove()
    except Unavailable as exc:
        logger.warning("payload %s is deleted later: %s", ref.prefix, exc)
        server.owed.add(f"deleting payload {ref.prefix}", remove)
    except RedflareError as exc:
        logger.warning("payload %s cannot be deleted and expires: %s", ref.prefix, exc)
