"""The payloads that a job's server stores for its clients, and those of results that it took over.

Each is noted in the journal before its chunks are written, so whatever becomes of this process, none is left behind: a
successor finds the note, and without one the chunks expire.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from secrets import token_hex

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import JobLost, RedflareError
from redflare_broker.job_state.task_store import JobTaskStore, OwnedBlob
from redflare_broker.keys import Keys
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload, store_payload
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import BlobRef

from redflare_workers.server.shared.job_registration import JobRegistration

logger = logging.getLogger(__name__)


class Payloads:
    """Thread-safe.

    Args:
        server: holds them.
        journal: where they are noted.
        life: of the job in Redis.
        settings: limits, and how long they stand.
        stop: asked while the server is away; True ends the attempts.
    """

    def __init__(
        self,
        server: Server,
        journal: JobTaskStore,
        life: JobRegistration,
        settings: LinkSettings,
        stop: Callable[[], bool],
    ) -> None:
        self._server = server
        self._journal = journal
        self._life = life
        self._settings = settings
        self._stop = stop
        self._federation = Keys(settings.namespace)
        self._renewed = time.monotonic()

    def store(self, data: object) -> EncodedPayload:
        """Encode a tree and store it, if it is large; what is stored already comes back as it is.

        Raises:
            EncodeError: it cannot be sent; says where and why.
            ServerError: the server refused (no memory, no permission).
            Fenced, JobEnded: another server has taken over, or the job is over.
            Unavailable: ``stop`` ended the attempts.
        """
        limits = self._settings.limits
        sealed = encode_payload(data, limits)
        if sealed.fits_entry(limits):
            return sealed
        prefix = self._federation.task_blob(token_hex(16))
        self._life.surely(lambda: self._journal.own(prefix, 1 + sealed.nbytes // limits.chunk_bytes))
        ttl_ms = self._settings.policy.retention_ms
        return store_payload(self._server, sealed, prefix, limits, ttl_ms=ttl_ms, stop=self._stop)

    def release(self, payloads: Iterable[EncodedPayload | BlobRef | None]) -> None:
        """Delete payloads that nobody needs any more; those that cannot be reached now expire."""
        refs = [each.blob if isinstance(each, EncodedPayload) else each for each in payloads]
        self.discard([ref for ref in refs if ref is not None])

    def discard(self, payloads: Sequence[OwnedBlob | BlobRef]) -> None:
        """``release``, of payloads as the journal names them."""
        if not payloads:
            return
        try:
            self._journal.discard(payloads)
        except JobLost:
            # with what was noted of them
            pass
        except RedflareError as error:
            logger.warning("payloads %s are left to expire: %s", [each.prefix for each in payloads], error)

    def release_all(self) -> None:
        """The job is over: nobody needs any of them."""
        try:
            self._journal.discard(self._journal.owned())
        except RedflareError as error:
            logger.warning("the payloads of %s are left to expire: %s", self._journal.keys.fqcn, error)

    def discard_orphans(self) -> None:
        """Delete what runs before this one have left and nobody needs."""
        try:
            orphans = self._journal.orphans()
            self._journal.discard(orphans)
        except RedflareError as error:
            logger.warning("payloads of previous runs are left to expire: %s", error)
        else:
            if orphans:
                logger.info("deleted %d payloads that previous runs have left", len(orphans))

    def renew(self) -> None:
        """Let them live on, a few times in each retention time; called with each heartbeat."""
        now = time.monotonic()
        if now - self._renewed >= self._settings.policy.retention / 4:
            self._renewed = now
            try:
                self._journal.renew()
            except RedflareError as error:
                logger.warning("payloads are not renewed: %s", error)

    def __repr__(self) -> str:
        return f"<Payloads of {self._journal.keys.fqcn}>"
