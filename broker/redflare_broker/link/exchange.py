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
    #: ABORTED: nobody will answer any more.
    status: str
    rc: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    #: A tree, or the result as a ``EncodedPayload``.
    data: Any = None
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Outgoing:
    """A task on its way to the agent."""

    task_id: str
    name: str
    encoded: Encoded
    blob_prefix: str
    #: Chunks that others made and delete: a sealed payload that is passed on.
    foreign: BlobRef | None = None
    #: The result is wanted sealed.
    seal_result: bool = False
    #: Chunks that were made for this task.
    blob: BlobRef | None = None
    entry: Entry | None = None
    #: The open task that this one replaces, as Redis told.
    expected: str = ""
    #: The entry in results that has, or that reports, a missing payload: why the task is sent once more.
    lost: str = ""
    #: How often it was sent once more.
    repeated: int = 0

    @classmethod
    def make(
        cls, task_id: str, name: str, meta: dict[str, Any], data: object, blob_prefix: str, limits: CodecLimits
    ) -> Self:
        """Encode a task; a ``EncodedPayload`` is taken as it is.

        Raises:
            EncodeError: the task cannot be sent.
        """
        foreign = None
        if isinstance(data, EncodedPayload):
            foreign = data.blob
            encoded = _beside(meta, data, limits)
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
        """Chunks that are missing are not this side's to write anew.

        The first refusal may be that of an entry which a predecessor wrote, naming other chunks.
        """
        return self.foreign is not None and self.repeated > 0


def _beside(meta: dict[str, Any], sealed: EncodedPayload, limits: CodecLimits) -> Encoded:
    encoded = encode(meta, None, limits)
    if encoded.buffers:
        raise EncodeError(
            "meta: arrays, tensors and bytes cannot stand beside a sealed payload; put them into the data"
        )
    nbytes = len(encoded.meta) + sealed.nbytes
    if nbytes > limits.max_bytes:
        raise MessageTooLarge(f"data: the message has {nbytes} bytes, over max_bytes = {limits.max_bytes}")
    return Encoded(encoded.meta, sealed.data, [memoryview(buffer) for buffer in sealed.buffers], nbytes)
