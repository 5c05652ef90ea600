"""Entries of the task and result streams: flat, readable fields in, flat fields out.

Anybody may have put an entry into a stream, so ``Entry.parse`` checks every field before it is used:
no size, name or blob key of a sender is trusted. Fields it does not know are ignored, so that a later release of the
same protocol version can add some.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from redflare_broker.constants import PROTOCOL_VERSION, TOPIC_GET_TASK, TOPIC_SUBMIT_RESULT
from redflare_broker.errors import ConfigError, DecodeError

_VERSION: Final = b"%d" % PROTOCOL_VERSION
ID: Final = re.compile(r"[A-Za-z0-9_.~:-]{1,200}")
_TOPIC: Final = re.compile(r"[a-z_]{1,64}")
_BLOB_PREFIX: Final = re.compile(r"[A-Za-z0-9_.~:{}-]{1,600}")
_BUFFER: Final = re.compile(rb"b[0-9]+")
#: Text fields and the most bytes each may have.
_TEXTS: Final = {
    b"topic": 64,
    b"task_id": 200,
    b"task_name": 1000,
    b"rc": 200,
    b"session": 500,
    b"sender": 500,
    b"reason": 10_000,
}
_MOST_CHUNKS: Final = 1_000_000
_GREATEST_SIZE: Final = 1 << 53


def check_id(value: object, what: str = "task_id") -> str:
    """Return the id of a task or a request unchanged when it may be part of a key.

    Raises:
        ConfigError: it is not 1 to 200 characters of A-Z a-z 0-9 _ . ~ : -.
    """
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise ConfigError(f"{what} must be a str of 1 to 200 of A-Z a-z 0-9 _ . ~ : -, but is {value!r:.300}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef:
    """A reference to the buffers of a message: one stream of bytes, cut every ``chunk`` bytes into ``<prefix>:<n>``."""

    prefix: str
    chunk: int
    #: Bytes of each buffer, in order.
    sizes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(self.sizes)

    @property
    def chunks(self) -> int:
        """Number of keys."""
        return -(-self.nbytes // self.chunk)

    def to_json(self) -> bytes:
        """Encode it for the field ``blobs``."""
        return orjson.dumps({"prefix": self.prefix, "chunk": self.chunk, "sizes": self.sizes})

    @staticmethod
    def from_json(text: bytes, allowed_prefixes: tuple[str, ...]) -> BlobRef:
        """Read the field ``blobs`` of a sender who may name keys under ``allowed_prefixes`` only.

        Raises:
            ValueError: it is not JSON of this shape, or its numbers or its prefix are not legal.
        """
        ref = orjson.loads(text)
        if type(ref) is not dict or ref.keys() != {"prefix", "chunk", "sizes"}:
            raise ValueError(f"must have prefix, chunk and sizes, but is {text[:200]!r}")
        prefix, chunk, sizes = ref["prefix"], ref["chunk"], ref["sizes"]
        if not isinstance(prefix, str) or not _BLOB_PREFIX.fullmatch(prefix):
            raise ValueError(f"prefix {prefix!r:.200} is not a legal key")
        if not prefix.startswith(allowed_prefixes):
            raise ValueError(f"prefix {prefix!r} is not under {' or '.join(allowed_prefixes) or 'any that is allowed'}")
        if not _is_size(chunk) or chunk == 0:
            raise ValueError(f"chunk must be a positive int, but is {chunk!r:.200}")
        if type(sizes) is not list or not all(map(_is_size, sizes)):
            raise ValueError(f"sizes must be a list of sizes, but is {sizes!r:.200}")
        blob = BlobRef(prefix=prefix, chunk=chunk, sizes=tuple(sizes))
        if blob.chunks > _MOST_CHUNKS:
            raise ValueError(f"{blob.chunks} chunks are too many: at most {_MOST_CHUNKS}")
        return blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One message in a stream: its header, the JSON of its meta and data, and its buffers or a reference to them."""

    topic: str
    task_id: str = ""
    task_name: str = ""
    rc: str = ""
    #: Epoch of the agent for results, of the CJ for tasks.
    epoch: int = 0
    #: Instance of the CJ.
    session: str = ""
    #: Instance that wrote the entry.
    sender: str = ""
    #: Why an agent could not read a task.
    reason: str = ""
    meta: bytes = b"{}"
    data: bytes = b"{}"
    buffers: tuple[bytes | memoryview, ...] = ()
    blob: BlobRef | None = None

    def fields(self) -> list[str | bytes | int | memoryview]:
        """List field, value, field, value ... for XADD, in the order people want to read them."""
        flat: list[str | bytes | int | memoryview] = [
            *("v", PROTOCOL_VERSION, "topic", self.topic, "task_id", self.task_id, "task_name", self.task_name),
            *("rc", self.rc, "epoch", self.epoch, "session", self.session, "sender", self.sender),
        ]
        if self.reason:
            flat += ("reason", self.reason)
        flat += ("meta", self.meta, "data", self.data)
        if self.blob is not None:
            flat += ("blobs", self.blob.to_json())
        for index, buffer in enumerate(self.buffers):
            flat += (f"b{index}", buffer)
        return flat

    @staticmethod
    def parse(key: str, entry_id: str, flat: Sequence[bytes], allowed_prefixes: tuple[str, ...] = ()) -> Entry:
        """Read the fields of an entry.

        Args:
            key, entry_id: the stream and the entry's id, for messages.
            flat: field, value, field, value ... as Redis returns them.
            allowed_prefixes: beginnings of the blob keys that a sender may point to; without any, blobs are refused.

        Raises:
            DecodeError: it is not an entry of this protocol; the text names key, entry id and field.
        """
        try:
            return _parse(flat, allowed_prefixes)
        except ValueError as error:
            raise DecodeError(f"{key} entry {entry_id}: {error}") from None


def _parse(flat: Sequence[bytes], allowed_prefixes: tuple[str, ...]) -> Entry:
    if type(flat) is not list or len(flat) % 2:
        raise ValueError(f"has an odd number of fields and values: {flat!r:.200}")
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if len(fields) * 2 != len(flat):
        raise ValueError("it has a field twice")
    version = fields.get(b"v")
    if version != _VERSION:
        raise ValueError(_wrong_version(version))
    topic, task_id, task_name, rc, session, sender, reason = _texts(fields)
    if not _TOPIC.fullmatch(topic):
        raise ValueError(f"field topic: {topic!r} is not legal")
    _check_complete(fields, topic)
    if task_id and not ID.fullmatch(task_id):
        raise ValueError(f"field task_id: {task_id!r} is not made of A-Z a-z 0-9 _ . ~ : -")
    epoch = fields[b"epoch"]
    if not epoch.isdigit() or len(epoch) > 15:
        raise ValueError(f"field epoch: must be an integer, but is {epoch[:80]!r}")
    buffers = read_buffers(fields)
    # a message with a payload has ten fields besides; one without has no use for buffers
    if len(fields) > len(buffers) + 10 and sum(map(bool, map(_BUFFER.fullmatch, fields))) > len(buffers):
        raise ValueError(f"field b{len(buffers)} is missing: buffers are numbered from 0 without a gap")
    return Entry(
        topic=topic,
        task_id=task_id,
        task_name=task_name,
        rc=rc,
        epoch=int(epoch),
        session=session,
        sender=sender,
        reason=reason,
        meta=fields.get(b"meta", b"{}"),
        data=fields.get(b"data", b"{}"),
        buffers=buffers,
        blob=read_blob(fields, allowed_prefixes),
    )


def _wrong_version(version: bytes | None) -> str:
    if version is None:
        return "field v is missing: this is not a message of redflare"
    return f"field v: protocol version {version[:40]!r} is not known here, only {PROTOCOL_VERSION}; use one release"


def _check_complete(fields: dict[bytes, bytes], topic: str) -> None:
    """Every message names its sender and epoch; tasks and results have a payload, or the reason why there is none."""
    needed: tuple[bytes, ...] = (b"sender", b"epoch")
    if topic in (TOPIC_GET_TASK, TOPIC_SUBMIT_RESULT):
        needed += (b"task_id", b"rc") if b"reason" in fields else (b"task_id", b"task_name", b"rc", b"meta", b"data")
    for name in needed:
        if name not in fields:
            raise ValueError(f"field {name.decode()} is missing")


def _texts(fields: dict[bytes, bytes]) -> list[str]:
    texts = []
    for name, longest in _TEXTS.items():
        value = fields.get(name, b"")
        if len(value) > longest:
            raise ValueError(
                f"field {name.decode()}: {len(value)} bytes, at most {longest} are read: {value[:40]!r}..."
            )
        try:
            texts.append(value.decode())
        except UnicodeDecodeError:
            raise ValueError(f"field {name.decode()}: {value[:80]!r} is not UTF-8") from None
    return texts


def read_buffers(fields: dict[bytes, bytes]) -> tuple[bytes, ...]:
    """Read the buffers in an entry, up to the first gap in their numbers."""
    buffers: list[bytes] = []
    while (buffer := fields.get(b"b%d" % len(buffers))) is not None:
        buffers.append(buffer)
    return tuple(buffers)


def read_blob(fields: dict[bytes, bytes], allowed_prefixes: tuple[str, ...]) -> BlobRef | None:
    """Read what an entry says of its chunks; None without any.

    Raises:
        ValueError: as ``BlobRef.from_json``, or it has buffers as well.
    """
    text = fields.get(b"blobs")
    if text is None:
        return None
    if b"b0" in fields:
        raise ValueError("field blobs: is there beside b0; a message has its buffers in one place")
    try:
        return BlobRef.from_json(text, allowed_prefixes)
    except ValueError as error:
        raise ValueError(f"field blobs: {error}") from None


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _GREATEST_SIZE
