"""``EncodedPayload``: a payload that is passed on without being decoded.

It is one tree of user data as it is on the wire: JSON with marks, and its buffers, or a reference to them. A process
that only carries it neither decodes it nor fetches its chunks: the server writes a model once, and each client job
hands its agent the reference. The buffers are numbered from 0, so meta beside an encoded payload can have none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from redflare_broker.errors import DecodeError
from redflare_broker.transport.server import Server
from redflare_broker.wire.codec import CodecLimits, decode, encode, plan
from redflare_broker.wire.task_entry import BlobRef

from .payload_store import payloads_of
from .redis_store import check_ref

#: Buffers that may be in one entry; Lua passes at most some thousand arguments on.
INLINE_BUFFERS: Final = 256
_LIMITS: Final = CodecLimits()
_NO_META: Final = b"{}"


@dataclass(frozen=True, slots=True)
class EncodedPayload:
    """A tree of user data, encoded; ``decode`` may be called any number of times."""

    #: JSON with marks, whose buffers are numbered from 0.
    data: bytes = field(repr=False)
    #: The buffers of a small payload, or of one that was not stored yet: then the values' own memory.
    buffers: tuple[bytes | memoryview, ...] = field(default=(), repr=False)
    #: Where the buffers of a large one are stored. The process that made the chunks, or was handed them, deletes them.
    blob: BlobRef | None = None

    def __post_init__(self) -> None:
        if self.blob is not None and self.buffers:
            raise ValueError(f"a payload has its buffers in one place, but has {len(self.buffers)} beside {self.blob}")

    @property
    def nbytes(self) -> int:
        """Bytes of JSON and buffers."""
        return len(self.data) + (self.blob.nbytes if self.blob else sum(map(len, self.buffers)))

    def decode(
        self,
        server: Server | None = None,
        limits: CodecLimits = _LIMITS,
        *,
        stop: Callable[[], bool] | None = None,
        deadline: float | None = None,
    ) -> Any:
        """Decode the tree, which is new and the caller's to change.

        Args:
            server: holds the chunks; not needed when there are none.
            stop: as in ``Server.run``.
            deadline: as in ``Server.run``.

        Raises:
            DecodeError: it is not a payload of this protocol, is over a limit, or does not fit into memory.
            BlobMissing: its chunks are gone.
            Unavailable: ``stop`` or ``deadline`` ended the attempts.
        """
        if self.blob is None:
            return decode(_NO_META, self.data, self.buffers, limits)[1]
        if server is None:
            raise DecodeError(f"blob {self.blob.prefix!r} cannot be read without the Redis that holds it")
        check_ref(self.blob, limits)
        received = plan(_NO_META, self.data, self.blob.sizes, limits)
        payloads_of(server).fetch(self.blob, received.targets, stop=stop, deadline=deadline)
        return received.finish()[1]

    def fits_entry(self, limits: CodecLimits) -> bool:
        """Whether it may go into a stream entry as it is."""
        return not self.buffers or (self.nbytes <= limits.inline_bytes and len(self.buffers) <= INLINE_BUFFERS)

    def __copy__(self) -> EncodedPayload:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> EncodedPayload:
        """Return itself, unless its buffers are memory of values that may still change."""
        if all(type(buffer) is bytes for buffer in self.buffers):
            return self
        return EncodedPayload(self.data, tuple(map(bytes, self.buffers)))


def encode_payload(data: object, limits: CodecLimits = _LIMITS) -> EncodedPayload:
    """Encode a tree without copying its arrays: do not change them before it is sent or stored.

    Raises:
        EncodeError: a value in it cannot be sent; the text names where it is, and what is accepted.
        MessageTooLarge: it is over a limit.
    """
    if isinstance(data, EncodedPayload):
        return data
    encoded = encode({}, data, limits)
    return EncodedPayload(encoded.data, tuple(encoded.buffers))


def store_payload(
    server: Server,
    payload: EncodedPayload,
    prefix: str,
    limits: CodecLimits = _LIMITS,
    *,
    ttl_ms: int,
    stop: Callable[[], bool] | None = None,
    deadline: float | None = None,
) -> EncodedPayload:
    """Write the buffers of a large payload to chunks under ``prefix``; return a small or stored one as it is.

    The caller owns the chunks: renew and remove them, in ``payloads_of(server)``, by the ``blob`` of what is returned.

    Raises:
        Unavailable: ``stop`` or ``deadline`` ended the attempts; nothing is left behind.
        ServerError: Redis refused (no permission).
    """
    if payload.fits_entry(limits):
        return payload
    views = [memoryview(buffer) for buffer in payload.buffers]
    ref = payloads_of(server).put(prefix, views, chunk=limits.chunk_bytes, ttl_ms=ttl_ms, stop=stop, deadline=deadline)
    return EncodedPayload(payload.data, blob=ref)
