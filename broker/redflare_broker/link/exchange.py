"""One exchange of a CJ with its agent: the task that goes out, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from redflare_broker.errors import EncodeError, MessageTooLarge
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.wire.codec import Encoded, encode
from redflare_broker.wire.limits import CodecLimits
from redflare_broker.wire.task_entry import BlobRef, Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeOutcome:
    """How an exchange ended."""

    #: ACCEPTED: a result is here. REJECTED: the agent could not read the task, or its result could not be read.
    #: ABORTED: no answer will come.
    status: str
    rc: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    #: A tree, or the result as an ``EncodedPayload``.
    data: Any = None
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class OutgoingTask:
    """A task that is being sent to the agent."""

    task_id: str
    name: str
    encoded: Encoded
    blob_prefix: str
    #: Chunks that others made and delete: those of an ``EncodedPayload`` that is passed on.
    foreign: BlobRef | None = None
    #: The result is wanted as an ``EncodedPayload``.
    encoded_result: bool = False
    #: Chunks that were made for this task.
    blob: BlobRef | None = None
    #: Chunks that a predecessor made for it.
    inherited: BlobRef | None = None
    entry: Entry | None = None
    #: The open task that this one replaces, as Redis reported it.
    expected: str = ""
    #: The entry in results that has, or that reports, a missing payload: why the task is sent once more.
    lost: str = ""
    #: How often it was sent once more.
    repeated: int = 0

    @classmethod
    def make(
        cls, task_id: str, name: str, meta: dict[str, Any], data: object, blob_prefix: str, limits: CodecLimits
    ) -> Self:
        """Encode a task; an ``EncodedPayload`` is taken as it is.

        Raises:
            EncodeError: the task cannot be sent.
        """
        foreign = None
        if isinstance(data, EncodedPayload):
            foreign = data.blob
            encoded = _encode_beside(meta, data, limits)
        else:
            encoded = encode(meta, data, limits)
        return cls(task_id=task_id, name=name, encoded=encoded, blob_prefix=blob_prefix, foreign=foreign)

    def send_again(self, lost: str) -> None:
        """Forget what was written; the next assign writes it once more, in place of the entry ``lost``."""
        self.entry = None
        self.lost = lost
        self.repeated += 1

    @property
    def is_hopeless(self) -> bool:
        """Whether missing chunks are not this side's to write anew.

        The first refusal may be that of an entry which a predecessor wrote, naming other chunks.
        """
        return self.foreign is not None and self.repeated > 0


def _encode_beside(meta: dict[str, Any], payload: EncodedPayload, limits: CodecLimits) -> Encoded:
    encoded = encode(meta, None, limits)
    if encoded.buffers:
        raise EncodeError("meta: arrays, tensors and bytes cannot go beside an encoded payload; put them into the data")
    nbytes = len(encoded.meta) + payload.nbytes
    if nbytes > limits.max_bytes:
        raise MessageTooLarge(f"data: the message has {nbytes} bytes, over max_bytes = {limits.max_bytes}")
    return Encoded(encoded.meta, payload.data, [memoryview(buffer) for buffer in payload.buffers], nbytes)
