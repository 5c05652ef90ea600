"""One tree of values and arrays as bytes: a line of JSON with sizes, then JSON with marks, then the arrays."""

from __future__ import annotations

from typing import Any, Final

import orjson
from redflare_broker.errors import DecodeError
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload
from redflare_broker.wire.limits import CodecLimits

_MAGIC: Final = "redflare-tree-1"


def pack(tree: object) -> bytes:
    """Encode a tree as bytes.

    Raises:
        EncodeError: a ValueError; a value in it is neither plain nor an array.
    """
    sealed = encode_payload(tree, CodecLimits())
    parts = [sealed.data, *sealed.buffers]
    head = orjson.dumps({"format": _MAGIC, "sizes": [len(part) for part in parts]})
    return b"".join([head, b"\n", *parts])


def unpack(data: bytes) -> Any:
    """Decode the bytes of ``pack``.

    Raises:
        DecodeError: a ValueError; the bytes are of another format, or truncated.
    """
    head, _, body = bytes(data).partition(b"\n")
    try:
        meta = orjson.loads(head)
        sizes = meta["sizes"]
        if meta["format"] != _MAGIC or not all(type(size) is int and size >= 0 for size in sizes) or not sizes:
            raise ValueError(f"it begins with {head[:80]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"these bytes were not written by to_bytes or to_file: {error}") from error
    if sum(sizes) != len(body):
        raise DecodeError(
            f"these bytes are truncated: {sum(sizes)} were written after the head, but {len(body)} are left"
        )
    parts, start = [], 0
    for size in sizes:
        parts.append(body[start : start + size])
        start += size
    return EncodedPayload(parts[0], tuple(parts[1:])).decode()
