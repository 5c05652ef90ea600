"""``DXO``, the data exchange object: data with its kind and meta, inside a Shareable.

After NVFlare's ``dxo``. The format of ``to_bytes`` and ``to_file`` differs from NVFlare's: nothing is pickled.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import orjson
from redflare_broker.constants import DataKind
from redflare_broker.errors import DecodeError
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload
from redflare_broker.wire.collection import DATA, KIND, META, from_plain, to_plain
from redflare_broker.wire.limits import CodecLimits

from .fl_constant import FLMetaKey
from .shareable import ReservedHeaderKey, Shareable

__all__ = [
    "DXO",
    "DataKind",
    "MetaKey",
    "from_bytes",
    "from_dict",
    "from_file",
    "from_shareable",
    "get_leaf_dxos",
]

CONTENT_TYPE: Final = "DXO"
CONTENT: Final = "DXO"

#: Keys of a DXO's meta.
MetaKey = FLMetaKey
#: What ``to_bytes`` begins with: a line of JSON with sizes, then JSON with marks, then the arrays.
_MAGIC: Final = "redflare-tree-1"


class DXO:
    """Data with its kind and meta.

    Args:
        data_kind: one of ``DataKind``, or a word of the application's own.
        data: a dict, or anything when the kind is APP_DEFINED; None becomes ``{}``. Components that only forward it may
            get an ``EncodedPayload`` instead.
        meta: a dict of further properties; None becomes ``{}``.

    Raises:
        ValueError: data or meta is of the wrong type.
    """

    def __init__(self, data_kind: str, data: Any, meta: dict[str, Any] | None = None) -> None:
        self.data_kind = data_kind
        self.data = {} if data is None else data
        self.meta = {} if meta is None else meta
        error = self.validate()
        if error:
            raise ValueError(f"invalid DXO: {error}")

    def __repr__(self) -> str:
        content = sorted(map(str, self.data)) if isinstance(self.data, dict) else type(self.data).__name__
        return f"DXO(data_kind={self.data_kind!s}, data={content}, meta={self.meta})"

    def validate(self) -> str:
        """Return the error in this DXO, or ``""``."""
        if self.data is None:
            return "data is missing"
        if self.data_kind != DataKind.APP_DEFINED and not isinstance(self.data, dict | EncodedPayload):
            return f"data of kind {self.data_kind!s} must be a dict, but is {type(self.data).__name__}"
        if self.meta is not None and not isinstance(self.meta, dict):
            return f"meta must be a dict, but is {type(self.meta).__name__}"
        return ""

    def get_meta_prop(self, key: str, default: Any = None) -> Any:
        """One value of the meta, or ``default``."""
        return (self.meta or {}).get(key, default)

    def set_meta_prop(self, key: str, value: Any) -> None:
        """Set one value of the meta."""
        if self.meta is None:
            self.meta = {}
        self.meta[key] = value

    def remove_meta_props(self, keys: Iterable[str]) -> None:
        """Remove values of the meta; absent ones do no harm."""
        for key in keys or ():
            (self.meta or {}).pop(key, None)

    def get_meta_props(self) -> dict[str, Any]:
        """Return the whole meta, not a copy."""
        return self.meta

    def update_meta_props(self, meta: dict[str, Any]) -> None:
        """Merge a deep copy of ``meta`` into the meta."""
        for key, value in meta.items():
            self.set_meta_prop(key, copy.deepcopy(value))

    def add_filter_history(self, filter_name: str | list[str]) -> None:
        """Add the names of filters that have changed this DXO."""
        if not filter_name:
            return
        names = [filter_name] if isinstance(filter_name, str) else filter_name
        self.set_meta_prop(MetaKey.FILTER_HISTORY, [*(self.get_filter_history() or []), *names])

    def get_filter_history(self) -> Any:
        """Names of the filters that have changed this DXO, in order, or None."""
        return self.get_meta_prop(MetaKey.FILTER_HISTORY)

    def to_dict(self) -> dict[str, Any]:
        """Convert to a plain dict; data and meta are shared, not copied."""
        return {KIND: self.data_kind, DATA: self.data, META: self.meta}

    def update_shareable(self, s: Shareable) -> Shareable:
        """Make this DXO the content of ``s`` and return ``s``."""
        s.set_header(ReservedHeaderKey.CONTENT_TYPE, CONTENT_TYPE)
        s[CONTENT] = self.to_dict()
        return s

    def to_shareable(self) -> Shareable:
        """Return a new Shareable with this DXO as its content."""
        return self.update_shareable(Shareable())

    def to_bytes(self) -> bytes:
        """Encode as bytes, for ``from_bytes``.

        Raises:
            EncodeError: a ValueError; a value in it is neither plain nor an array.
        """
        tree = {**self.to_dict(), DATA: to_plain(self.data_kind, self.data, DXO)}
        encoded = encode_payload(tree, CodecLimits())
        parts = [encoded.data, *encoded.buffers]
        head = orjson.dumps({"format": _MAGIC, "sizes": [len(part) for part in parts]})
        return b"".join([head, b"\n", *parts])

    def to_file(self, file_path: str | os.PathLike[str]) -> None:
        """Write ``to_bytes`` to a file."""
        Path(file_path).write_bytes(self.to_bytes())


def from_shareable(s: Shareable) -> DXO:
    """Return the DXO inside a Shareable.

    Raises:
        ValueError: it has none, or an invalid one; the message says which.
    """
    content_type = s.get_header(ReservedHeaderKey.CONTENT_TYPE)
    if content_type != CONTENT_TYPE:
        raise ValueError(f"the Shareable holds no DXO: its content type is {content_type!r}; use DXO.to_shareable()")
    content = s.get(CONTENT)
    if not content:
        raise ValueError(f"the Shareable says it holds a DXO, but {CONTENT!r} is {content!r}")
    return from_dict(content)


def from_dict(encoded: dict[str, Any]) -> DXO:
    """Make the DXO that ``to_dict`` described.

    Raises:
        ValueError: not a dict, or its data or meta is of the wrong type.
    """
    if not isinstance(encoded, dict):
        raise ValueError(f"an encoded DXO must be a dict, but is {type(encoded).__name__}")
    kind: Any = encoded.get(KIND)
    return DXO(kind, encoded.get(DATA), encoded.get(META))


def from_bytes(data: bytes) -> DXO:
    """Decode the bytes of ``DXO.to_bytes``.

    Raises:
        ValueError: they are of another format, truncated, or not a DXO.
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
    tree, *buffers = (body[start:end] for start, end in pairwise(accumulate(sizes, initial=0)))
    encoded = EncodedPayload(tree, tuple(buffers)).decode()
    if isinstance(encoded, dict):
        encoded[DATA] = from_plain(encoded.get(KIND), encoded.get(DATA), DXO)
    return from_dict(encoded)


def from_file(file_path: str | os.PathLike[str]) -> DXO:
    """Read the file of ``DXO.to_file``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not hold a DXO.
    """
    return from_bytes(Path(file_path).read_bytes())


def get_leaf_dxos(dxo: DXO, root_name: str = "") -> tuple[dict[str, DXO], list[str]]:
    """Flatten a COLLECTION, also nested ones, to DXOs by names joined with dots; return any other DXO itself.

    Returns:
        The DXOs by name, and errors about entries that are not DXOs.
    """
    if not isinstance(dxo, DXO):
        return {}, [f"{root_name!r} must be a DXO, but is a {type(dxo).__name__}"]
    if dxo.data_kind != DataKind.COLLECTION:
        return {root_name: dxo}, []
    leaves: dict[str, DXO] = {}
    errors: list[str] = []
    for name, each in dxo.data.items():
        found, wrong = get_leaf_dxos(each, f"{root_name}.{name}")
        leaves |= found
        errors += wrong
    return leaves, errors
