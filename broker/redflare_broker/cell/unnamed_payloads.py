"""``UnnamedPayloads``: chunks that a cell has written, or is writing, and that no message names yet.

They live for as long as heartbeats renew them, so that a process that is killed leaves nothing behind. The message that
names them first gives them ``retention``, in the same round trip.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import RedflareError
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.payload.payload_store import discard, payloads_of
from redflare_broker.payload.redis_store import ref_of, renewal
from redflare_broker.transport.replies import Arg
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import BlobRef

logger = logging.getLogger(__name__)


class UnnamedPayloads:
    """Thread-safe."""

    def __init__(self, server: Server, settings: LinkSettings) -> None:
        self._server = server
        self._limits = settings.limits
        self._retention_ms = settings.policy.retention_ms
        self._ttl_ms = round(settings.heartbeat_ttl * 1000)
        self._guard = threading.Lock()
        #: by prefix; those whose message is on its way are still renewed
        self._refs: dict[str, BlobRef] = {}
        self._on_the_way: set[str] = set()

    def store(self, payload: EncodedPayload, prefix: str, stop: Callable[[], bool]) -> EncodedPayload:
        """Write the buffers of a large payload to chunks under ``prefix``; return a small or stored one as it is.

        Raises:
            Unavailable: Redis is unreachable, and ``stop`` returned True.
            ServerError: it refuses them.
        """
        if payload.fits_entry(self._limits):
            return payload
        views = [memoryview(each) for each in payload.buffers]
        ref = ref_of(prefix, views, self._limits.chunk_bytes)
        with self._guard:
            # before the first chunk is written: to write all of them may take longer than they live
            self._refs[prefix] = ref
        try:
            payloads_of(self._server).put(prefix, views, chunk=ref.chunk, ttl_ms=self._ttl_ms, stop=stop)
        except BaseException:
            self.named(ref)
            raise
        return EncodedPayload(payload.data, blob=ref)

    def naming(self, blob: BlobRef | None) -> list[list[Arg]]:
        """Return the commands that are to be run before a message that names this payload, if it is the first one."""
        if blob is None:
            return []
        with self._guard:
            if blob.prefix not in self._refs or blob.prefix in self._on_the_way:
                return []
            self._on_the_way.add(blob.prefix)
        return renewal(blob, self._retention_ms)

    def named(self, blob: BlobRef | None) -> None:
        """Note that a message names a payload, or that none will."""
        if blob is not None:
            with self._guard:
                self._refs.pop(blob.prefix, None)
                self._on_the_way.discard(blob.prefix)

    def discard(self, blob: BlobRef) -> None:
        """Delete a payload that is not needed; if Redis is unreachable, with a later heartbeat."""
        self.named(blob)
        discard(self._server, blob)

    def renew(self) -> None:
        """Renew all of them, with a heartbeat."""
        with self._guard:
            refs = list(self._refs.values())
        for ref in refs:
            try:
                # one that is named meanwhile keeps its longer life
                payloads_of(self._server).prolong(ref, self._ttl_ms, stop=lambda: True)
            except RedflareError as error:
                logger.debug("payload %s is not renewed now, the next heartbeat tries again: %s", ref.prefix, error)

    def __len__(self) -> int:
        return len(self._refs)

    def __repr__(self) -> str:
        return f"<UnnamedPayloads, {len(self._refs)} of {self._server.url}>"
