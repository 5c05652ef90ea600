"""``Payloads``: those that a job's server stores for its clients; ``RetainedResults``: those that a successor needs.

Each is noted in the job's task store before its chunks are written, so none is left behind when this process dies: a
successor finds the note, and without a successor the chunks expire.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any

import orjson
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import EncodeError, JobLost, RedflareError, Unavailable
from redflare_broker.job_state.task_store import ClientTaskRecord, JobTaskStore, OwnedBlob
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload, store_payload
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import BlobRef

from redflare_workers.apis.task import ClientTask
from redflare_workers.server.shared.job_registration import JobRegistration

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Payloads:
    """What a job's server stores for its clients. Thread-safe."""

    #: stores them
    server: Server
    #: notes them
    task_store: JobTaskStore
    registration: JobRegistration
    #: limits, and how long they live
    settings: LinkSettings
    #: asked while Redis is away; True ends the attempts
    stop: Callable[[], bool]
    _renewed: float = field(default_factory=time.monotonic, init=False)

    def store(self, data: object) -> EncodedPayload:
        """Encode a tree, and store it if it is large; a payload that is stored already is returned as it is.

        Raises:
            EncodeError: it cannot be sent; says where and why.
            ServerError: Redis refused (no permission).
            Fenced, JobEnded: another server has taken over, or the job is over.
            Unavailable: ``stop`` ended the attempts.
        """
        limits = self.settings.limits
        encoded = encode_payload(data, limits)
        if encoded.fits_entry(limits):
            return encoded
        prefix = self.task_store.keys.blob(token_hex(16))
        chunks = 1 + encoded.nbytes // limits.chunk_bytes
        self.registration.retry_after_loss(lambda: self.task_store.own(prefix, chunks))
        ttl_ms = self.settings.policy.retention_ms
        return store_payload(self.server, encoded, prefix, limits, ttl_ms=ttl_ms, stop=self.stop)

    def release(self, payloads: Iterable[EncodedPayload | BlobRef | None]) -> None:
        """Delete payloads; those that cannot be reached now go with a later heartbeat."""
        refs = [each.blob if isinstance(each, EncodedPayload) else each for each in payloads]
        self.discard([ref for ref in refs if ref is not None])

    def discard(self, payloads: Sequence[OwnedBlob | BlobRef]) -> None:
        """``release``, of payloads as the task store names them."""
        if not payloads:
            return
        names = [each.prefix for each in payloads]
        try:
            self.task_store.discard(payloads)
        except JobLost:
            # Redis lost them, too
            pass
        except Unavailable as error:
            logger.warning("payloads %s are deleted later: %s", names, error)
            self.server.owed.add(f"deleting payloads {names}", lambda: self.task_store.discard(payloads))
        except RedflareError as error:
            logger.warning("payloads %s cannot be deleted and expire: %s", names, error)

    def release_all(self) -> None:
        """Delete all of them, because the job is over."""
        try:
            self.discard(self.task_store.owned())
        except RedflareError as error:
            logger.warning("the payloads of %s cannot be deleted and expire: %s", self.task_store.keys.fqcn, error)

    def discard_orphans(self) -> None:
        """Delete payloads of earlier runs that are not needed any more."""
        try:
            orphans = self.task_store.orphans()
            self.discard(orphans)
        except RedflareError as error:
            logger.warning("payloads of previous runs cannot be deleted and expire: %s", error)
        else:
            if orphans:
                logger.info("deleted %d payloads of previous runs", len(orphans))

    def renew(self) -> None:
        """Put off their expiry, a few times in each retention time; called with each heartbeat."""
        now = time.monotonic()
        if now - self._renewed >= self.settings.policy.retention / 4:
            self._renewed = now
            try:
                self.task_store.renew()
            except RedflareError as error:
                logger.warning("cannot renew the payloads' TTL; the next heartbeat tries again: %s", error)

    def __repr__(self) -> str:
        return f"<Payloads of {self.task_store.keys.fqcn}>"


@dataclass(slots=True, eq=False)
class RetainedResults:
    """Results that were accepted after the last checkpoint: a successor would need their payloads. Thread-safe."""

    #: notes them
    task_store: JobTaskStore
    registration: JobRegistration
    #: deletes those that a checkpoint has freed
    payloads: Payloads
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _retained: dict[str, BlobRef] = field(default_factory=dict, init=False)
    #: Serializes notes of results and checkpoints: a checkpoint contains a result or it does not.
    _writing: threading.Lock = field(default_factory=threading.Lock, init=False)
    #: When the last checkpoint was begun, and results that its thread was handling.
    _kept: float = field(default=0.0, init=False)
    _contained: set[str] = field(default_factory=set, init=False)
    _handling: threading.local = field(default_factory=threading.local, init=False)
    _released: bool = field(default=False, init=False)
    #: How many entries of the history are in Redis, in this generation of the job.
    _appended: int = field(default=0, init=False)
    _generation: int = field(default=0, init=False)

    def resume_history(self, length: int) -> None:
        """Note how many entries of the history a predecessor has left."""
        self._appended = length

    @contextmanager
    def handling(self, client_task_id: str) -> Iterator[None]:
        """Mark a result as being given to the controller: a checkpoint that this thread writes contains it."""
        ids = self._handling.ids = [*getattr(self._handling, "ids", ()), client_task_id]
        try:
            yield
        finally:
            self._handling.ids = ids[:-1]

    def checkpoint(self, state: object, history: Callable[[int], list[Any]], began: float) -> None:
        """Store a controller's state, append what is new in its history, and free the results that it contains.

        Raises:
            EncodeError: the state cannot be sent; says where and why.
            Fenced, Unavailable, ServerError: it is not stored.
        """
        with self._writing:
            freed = self.registration.retry_after_loss(lambda: self._store(state, history))
            self._kept = began
            self._contained.update(getattr(self._handling, "ids", ()))
        self.payloads.discard(freed)
        with self._guard:
            for blob in freed:
                self._retained.pop(blob.prefix, None)

    def _store(self, state: object, history: Callable[[int], list[Any]]) -> list[OwnedBlob]:
        stored = self.payloads.store(state)
        if self._generation != self.registration.generation:
            self._generation, self._appended = self.registration.generation, 0
        if not self._append(history):
            # Redis has lost entries
            self._appended = 0
            self._append(history)
        return self.task_store.checkpoint({}, stored, self._appended)

    def _append(self, history: Callable[[int], list[Any]]) -> bool:
        new = [_entry(each) for each in history(self._appended)]
        if not self.task_store.append(self._appended, new):
            return False
        self._appended += len(new)
        return True

    def note(self, client_task: ClientTask, record: ClientTaskRecord) -> None:
        """Note a result for a successor; its payload is kept until a checkpoint contains it."""
        with self._writing:
            handled = client_task.result_received_time
            if record.id in self._contained or (handled is not None and handled < self._kept):
                # a checkpoint that was stored since it was handled contains it
                self._contained.discard(record.id)
                record = replace(record, meta={}, result=None)
            else:
                self.retain([record])
            root_id = client_task.task.msg_root_id
            self.registration.retry_after_loss(lambda: self.task_store.note(root_id, [record]))

    def retain(self, records: Iterable[ClientTaskRecord]) -> None:
        """Keep the payloads of results."""
        with self._guard:
            for record in records:
                if not self._released and record.result is not None and (blob := record.result.blob) is not None:
                    self._retained[blob.prefix] = blob

    def __contains__(self, payload: EncodedPayload) -> bool:
        """Whether the payload of a result is kept."""
        with self._guard:
            return payload.blob is not None and payload.blob.prefix in self._retained

    def release_all(self) -> None:
        """Delete all payloads that were kept, because no successor will need them."""
        with self._guard:
            self._released = True
            retained, self._retained = list(self._retained.values()), {}
        self.payloads.release(retained)

    def __repr__(self) -> str:
        return f"<RetainedResults, {len(self._retained)} payloads>"


def _entry(value: object) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise EncodeError(f"an entry of the history must be a JSON value, but is {value!r:.200}: {error}") from None
