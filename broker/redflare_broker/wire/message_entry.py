"""Entries of an inbox: flat, readable fields in, flat fields out.

Anybody may write into an inbox, so ``Envelope.parse`` checks every field before it is used, as ``entry.py`` does for
the streams of a link. Fields it does not know are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from redflare_broker.constants import PROTOCOL_VERSION
from redflare_broker.errors import ConfigError, DecodeError, EncodeError
from redflare_broker.fqcn import SEGMENT

from .codec import decode, encode
from .task_entry import ID, BlobRef, read_blob, read_buffers

REQUEST: Final = "request"
REPLY: Final = "reply"
EVENT: Final = "event"

_VERSION: Final = b"%d" % PROTOCOL_VERSION
_KINDS: Final = {b"request": REQUEST, b"reply": REPLY, b"event": EVENT}
_WORD: Final = re.compile(r"[!-~]{1,200}")
_FQCN: Final = re.compile(rf"{SEGMENT}(?:\.{SEGMENT})*")
_NEEDED: Final = (b"id", b"attempt", b"channel", b"topic", b"origin", b"meta", b"data")
_LONGEST_FQCN: Final = 500
_LONGEST_RC: Final = 200
_NO_META: Final = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One message in an inbox: its header, the JSON of meta and data, and its buffers or a reference to them."""

    kind: str
    id: str
    #: Of a request: grows each time it is posted anew; a reply repeats its request's.
    attempt: int
    channel: str
    topic: str
    #: FQCN of the cell that sent it.
    origin: str
    #: Return code of a reply.
    rc: str = ""
    meta: bytes = _NO_META
    data: bytes = b"null"
    buffers: tuple[bytes | memoryview, ...] = ()
    blob: BlobRef | None = None
    #: The sender deletes the chunks; else the receiver does.
    keep: bool = False

    @property
    def is_reply(self) -> bool:
        return self.kind == REPLY

    @property
    def nbytes(self) -> int:
        """Bytes of its content, without chunks."""
        return len(self.meta) + len(self.data) + sum(map(len, self.buffers))

    def fields(self) -> list[str | bytes | int | memoryview]:
        """List field, value, field, value ... for XADD, in the order people want to read them."""
        flat: list[str | bytes | int | memoryview] = [
            *("v", PROTOCOL_VERSION, "kind", self.kind, "id", self.id, "attempt", self.attempt),
            *("channel", self.channel, "topic", self.topic, "origin", self.origin),
        ]
        if self.rc:
            flat += ("rc", self.rc)
        flat += ("meta", self.meta, "data", self.data)
        if self.blob is not None:
            flat += ("blobs", self.blob.to_json(), "keep", int(self.keep))
        for index, buffer in enumerate(self.buffers):
            flat += (f"b{index}", buffer)
        return flat

    @staticmethod
    def parse(key: str, entry_id: str, flat: Sequence[bytes], namespace: str) -> Envelope:
        """Read the fields of an entry.

        Args:
            key, entry_id: the inbox and the entry's id, for messages.
            flat: field, value, field, value ... as Redis returns them.
            namespace: what it may point to are payloads under this.

        Raises:
            DecodeError: it is not a message between cells; the text names inbox, entry id and field.
        """
        try:
            return _parse(flat, namespace)
        except ValueError as error:
            raise DecodeError(f"{key} entry {entry_id}: {error}") from None


def is_reply(flat: Sequence[bytes]) -> bool:
    """Whether an entry says that it is a reply; cheap."""
    return dict(zip(flat[::2], flat[1::2], strict=False)).get(b"kind") == b"reply"


def pack_meta(meta: dict[str, Any] | bytes | None) -> bytes:
    """Encode a message's meta as JSON; one that is packed already is returned as it is.

    Raises:
        EncodeError: it is no dict, or holds arrays or bytes, which only data may.
    """
    if isinstance(meta, bytes):
        return meta
    if meta is None or meta == {}:
        return _NO_META
    encoded = encode(meta, None)
    if encoded.buffers:
        raise EncodeError("meta: arrays, tensors and bytes belong in the data of a message, not in its meta")
    return encoded.meta


def unpack_meta(text: bytes) -> dict[str, Any]:
    """Meta as it was packed.

    Raises:
        DecodeError: it is no JSON object.
    """
    return {} if text == _NO_META else decode(text, b"null", ())[0]


def check_word(word: object, what: str) -> str:
    """Return a channel, topic or id unchanged when it is legal; ConfigError otherwise."""
    if not isinstance(word, str) or not _WORD.fullmatch(word):
        raise ConfigError(f"{what} must be 1 to 200 printable ASCII characters without blanks, but is {word!r:.300}")
    return word


def _parse(flat: Sequence[bytes], namespace: str) -> Envelope:
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    if len(fields) * 2 != len(flat):
        raise ValueError(f"has an odd number of fields and values, or one twice: {flat!r:.200}")
    if fields.get(b"v") != _VERSION:
        raise ValueError(f"field v: must be {PROTOCOL_VERSION}, but is {fields.get(b'v', b'')[:40]!r}")
    kind = _KINDS.get(fields.get(b"kind", b""))
    if kind is None:
        raise ValueError(f"field kind: must be request, reply or event, but is {fields.get(b'kind', b'')[:80]!r}")
    for name in _NEEDED:
        if name not in fields:
            raise ValueError(f"field {name.decode()} is missing")
    attempt = fields[b"attempt"]
    if not attempt.isdigit() or len(attempt) > 15:
        raise ValueError(f"field attempt: must be an integer, but is {attempt[:80]!r}")
    origin = _text(fields, b"origin", _FQCN)
    if len(origin) > _LONGEST_FQCN:
        raise ValueError(f"field origin: {len(origin)} bytes, at most {_LONGEST_FQCN} are read")
    plain = b"b0" not in fields and b"blobs" not in fields
    return Envelope(
        kind=kind,
        id=_text(fields, b"id", ID),
        attempt=int(attempt),
        channel=_text(fields, b"channel", _WORD),
        topic=_text(fields, b"topic", _WORD),
        origin=origin,
        rc=_rc(fields) if kind is REPLY else "",
        meta=fields[b"meta"],
        data=fields[b"data"],
        buffers=() if plain else read_buffers(fields),
        blob=None if plain else _blob(fields, namespace),
        keep=fields.get(b"keep") == b"1",
    )


def _text(fields: dict[bytes, bytes], name: bytes, pattern: re.Pattern[str]) -> str:
    try:
        text = fields[name].decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if not pattern.fullmatch(text):
        raise ValueError(f"field {name.decode()}: {fields[name][:80]!r} is not legal")
    return text


def _rc(fields: dict[bytes, bytes]) -> str:
    rc = fields.get(b"rc", b"")
    if not rc or len(rc) > _LONGEST_RC:
        raise ValueError(f"field rc: must have 1 to {_LONGEST_RC} bytes, but is {rc[:80]!r}")
    try:
        return rc.decode()
    except UnicodeDecodeError:
        raise ValueError(f"field rc: {rc!r} is not UTF-8") from None


def _blob(fields: dict[bytes, bytes], namespace: str) -> BlobRef | None:
    blob = read_blob(fields, (f"{namespace}:",))
    if blob is not None and not _payload_prefix(namespace).fullmatch(blob.prefix):
        raise ValueError(f"field blobs: prefix {blob.prefix!r} is not that of a payload")
    return blob


@lru_cache
def _payload_prefix(namespace: str) -> re.Pattern[str]:
    """Return what payloads are called: nothing else may be named for deletion."""
    ns = re.escape(namespace)
    return re.compile(rf"{ns}:\{{[^{{}}:]+\}}:blob:[^{{}}:]+")
