"""``LinkPayloads``: the payloads that one side of a link writes, reads, keeps alive and deletes."""

from __future__ import annotations

import logging
import math
import time

from redflare_broker.errors import BlobMissing, RedflareError
from redflare_broker.payload.encoded_payload import INLINE_BUFFERS
from redflare_broker.payload.payload_store import discard, payloads_of
from redflare_broker.payload.redis_store import check_ref, ref_of, renewal
from redflare_broker.transport.replies import Arg
from redflare_broker.wire.codec import Encoded, ReceivePlan, plan
from redflare_broker.wire.task_entry import BlobRef, Entry

from .session import Session

logger = logging.getLogger(__name__)


class LinkPayloads:
    """The payloads of one side of a link. Each call makes one attempt: the caller's loop repeats it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._limits = session.settings.limits
        self._ttl_ms = session.settings.policy.retention_ms
        self._store = payloads_of(session.server)
        #: life of a payload that no entry names yet: if this process dies, that is when it goes
        self._unnamed_ms = round(session.settings.heartbeat_ttl * 1000)
        self._kept: dict[str, BlobRef] = {}
        self._renewed = time.monotonic()
        self._unnamed: dict[str, BlobRef] = {}
        #: what could not be told yet when to expire, and in how many seconds it shall
        self._expiring: dict[str, tuple[BlobRef, float]] = {}
        self._unnamed_renewed = time.monotonic()

    @property
    def kept(self) -> tuple[BlobRef, ...]:
        """The payloads that this side keeps alive for the entries that name them."""
        return tuple(self._kept.values())

    def write(self, encoded: Encoded, prefix: str) -> tuple[tuple[memoryview, ...], BlobRef | None]:
        """Return the buffers of a small message, for its entry; store those of a large one.

        What is stored lives as long as heartbeats renew it, until ``name`` says that an entry names it.
        """
        buffers, ref = self.place(encoded, prefix)
        if ref is not None:
            self._unnamed[prefix] = ref
            try:
                self._store.put(
                    prefix, encoded.buffers, chunk=ref.chunk, ttl_ms=self._unnamed_ms, deadline=time.monotonic()
                )
            except BaseException:
                self._unnamed.pop(prefix, None)
                raise
        return buffers, ref

    def place(self, encoded: Encoded, prefix: str) -> tuple[tuple[memoryview, ...], BlobRef | None]:
        """Return what ``write`` would, and store nothing."""
        if encoded.nbytes <= self._limits.inline_bytes and len(encoded.buffers) <= INLINE_BUFFERS:
            return tuple(encoded.buffers), None
        return (), ref_of(prefix, encoded.buffers, self._limits.chunk_bytes)

    def name(self, ref: BlobRef) -> None:
        """Keep a payload alive for as long as its entry, which has been written."""
        self.keep(ref)
        try:
            self._store.renew(ref, self._ttl_ms, deadline=time.monotonic())
        except RedflareError as exc:
            logger.debug("%s: payload %s is renewed with a later beat: %s", self._session.label, ref.prefix, exc)
            self._renewed = -math.inf

    def naming(self, ref: BlobRef | None) -> list[list[Arg]]:
        """Make the commands that do so right before an entry that names a payload is written on its node."""
        return renewal(ref, self._ttl_ms) if ref is not None else []

    def receive(self, entry: Entry) -> ReceivePlan:
        """Receive an entry's buffers.

        Raises:
            DecodeError: the entry is not what it claims to be.
            BlobMissing: its payload is gone.
            Unavailable: try again.
        """
        if entry.blob is not None:
            check_ref(entry.blob, self._limits)
            received = plan(entry.meta, entry.data, entry.blob.sizes, self._limits)
            self._store.fetch(entry.blob, received.targets, deadline=time.monotonic())
            return received
        received = plan(entry.meta, entry.data, [len(buffer) for buffer in entry.buffers], self._limits)
        for target, buffer in zip(received.targets, entry.buffers, strict=True):
            target[:] = buffer
        return received

    def secure(self, ref: BlobRef) -> None:
        """Make sure that a payload is complete, and renew it, without fetching it.

        Raises:
            DecodeError, BlobMissing, Unavailable: as ``receive``.
        """
        check_ref(ref, self._limits)
        if not self._store.renew(ref, self._ttl_ms, deadline=time.monotonic()):
            raise BlobMissing(f"payload {ref.prefix!r} is gone, or a part of it")

    def keep(self, ref: BlobRef) -> None:
        """Keep a payload alive from now on."""
        self._unnamed.pop(ref.prefix, None)
        self._expiring.pop(ref.prefix, None)
        self._kept[ref.prefix] = ref

    def hand_over(self, ref: BlobRef) -> None:
        """Keep a payload alive no longer: somebody else renews and deletes it from now on."""
        self._unnamed.pop(ref.prefix, None)
        self._expiring.pop(ref.prefix, None)
        self._kept.pop(ref.prefix, None)

    def expire(self, ref: BlobRef, seconds: float) -> None:
        """Let a payload live for so long and no longer; with a later heartbeat, if it cannot be reached now."""
        self._expiring[ref.prefix] = (ref, seconds)
        try:
            self._expire_all()
        except RedflareError as exc:
            logger.warning("%s: payload %s expires later: %s", self._session.label, ref.prefix, exc)

    def _expire_all(self) -> None:
        """Expire what could not be reached when it should."""
        for prefix, (ref, seconds) in tuple(self._expiring.items()):
            self._store.renew(ref, round(seconds * 1000), deadline=time.monotonic())
            self._expiring.pop(prefix, None)

    def delete(self, ref: BlobRef | None) -> None:
        """Delete a payload that nobody needs any more; one that cannot be reached now goes with a later heartbeat."""
        if ref is not None:
            self.hand_over(ref)
            discard(self._session.server, ref)

    def renew(self) -> None:
        """Renew all payloads that are kept alive, and those that are being written; nothing when that is not due.

        Raises:
            Unavailable: the store is away.
        """
        self._expire_all()
        now = time.monotonic()
        if self._unnamed and now - self._unnamed_renewed >= self._session.settings.heartbeat_ttl / 4:
            for ref in tuple(self._unnamed.values()):
                # one that is named meanwhile, in the working thread, keeps its longer life
                self._store.prolong(ref, self._unnamed_ms, deadline=now)
            self._unnamed_renewed = now
        if not self._kept or now - self._renewed < self._session.settings.policy.retention / 4:
            return
        for ref in self.kept:
            self._store.renew(ref, self._ttl_ms, deadline=now)
        self._renewed = now
