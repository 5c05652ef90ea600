"""Messages on the wire: JSON for the tree, flat buffers for arrays, tensors and bytes inside it.

A value that JSON cannot express becomes a dict of one key, a mark::

    {"$nd": [index, dtype, shape]}      numpy array         {"$float": "nan" | "inf" | "-inf"}
    {"$torch": [index, dtype, shape]}   torch tensor        {"$int": "<digits>"}   beyond 64 bits
    {"$bytes": [index, length]}         bytes               {"$np": [dtype, value]}   numpy scalar
    {"$tuple": [...]}

``index`` numbers the message's buffers, first those of meta, then those of data, each used exactly once. A user's key
that starts with ``$`` gets one more. Nothing is pickled, and decoding runs no code of the sender. Subclasses of dict,
list, tuple, str, int and float come back as what they are derived from; bytearray and memoryview as bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import orjson

from redflare_broker.errors import DecodeError, EncodeError, MessageTooLarge

from .limits import CodecLimits
from .tree_path import TreeError

if TYPE_CHECKING:
    from .tree_reader import TreeReader
    from .tree_writer import TreeWriter

__all__ = ["CodecLimits", "Encoded", "ReceivePlan", "decode", "encode", "meta_beside", "plan"]

DEFAULT_LIMITS: Final = CodecLimits()
_STRINGS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


@dataclass(slots=True)
class Encoded:
    """A message ready to be written; ``buffers`` are the values' own memory, so do not change them before it is."""

    meta: bytes
    data: bytes
    #: Flat views of format "B", read-only or not, in the order of their index.
    buffers: list[memoryview]
    #: All of it: meta, data and buffers.
    nbytes: int


@dataclass(slots=True)
class ReceivePlan:
    """Memory for a message whose buffers are still to be received."""

    #: One flat writable view per buffer: fill each, then call ``finish``.
    targets: list[memoryview]
    _roots: dict[str, Any] = field(repr=False)
    _reader: TreeReader | None = field(repr=False)

    def finish(self) -> tuple[dict[str, Any], Any]:
        """Meta and data, once every target is filled. Arrays are writable and own the memory the targets showed."""
        if self._reader is not None:
            self._reader.finish()
        return self._roots["meta"], self._roots["data"]


def encode(meta: dict[str, Any], data: object, limits: CodecLimits = DEFAULT_LIMITS) -> Encoded:
    """Turn a message into bytes; contiguous arrays are not copied.

    Raises:
        EncodeError: a value in it cannot be sent; the text names its place, and what is accepted.
        MessageTooLarge: the message is over a limit.
    """
    writer = _tree_writer()(limits)
    root = "meta"
    try:
        if not isinstance(meta, dict):
            raise TreeError(f"must be a dict, but is a {type(meta).__name__}")
        # most messages have one of the two only
        meta_text = orjson.dumps(writer.value(meta)) if meta else b"{}"
        root = "data"
        data_text = b"null" if data is None else orjson.dumps(writer.value(data))
        root = "message"
        nbytes = writer.nbytes + len(meta_text) + len(data_text)
        _check_text(meta_text, data_text, nbytes, limits)
    except TreeError as error:
        raise (MessageTooLarge if error.too_large else EncodeError)(error.under(root)) from error.__cause__
    except RuntimeError as error:  # the caller is at the end of its stack, or another thread changes the tree
        raise EncodeError(f"{root}: cannot be walked: {error}") from error
    return Encoded(meta_text, data_text, writer.buffers, nbytes)


def plan(meta: bytes, data: bytes, sizes: Sequence[int], limits: CodecLimits = DEFAULT_LIMITS) -> ReceivePlan:
    """Check a message against the ``sizes`` of its buffers, and only then allocate memory for them.

    Raises:
        DecodeError: it is not a message of this protocol, is over a limit, or does not fit into memory.
    """
    roots, reader, _ = _visit(meta, data, sizes, limits)
    if reader is None:
        return ReceivePlan([], roots, None)
    try:
        return ReceivePlan(reader.allocate(), roots, reader)
    except (MemoryError, RuntimeError) as error:
        raise DecodeError(f"message: cannot be held: {error}") from error


def meta_beside(
    meta: bytes, data: bytes, sizes: Sequence[int], limits: CodecLimits = DEFAULT_LIMITS
) -> dict[str, Any] | None:
    """Check a message as ``plan`` does, and allocate nothing: its meta, for a reader who passes the data on as it is.

    Returns:
        None when meta has buffers too, for then data's are not numbered from 0.

    Raises:
        DecodeError: it is not a message of this protocol, or is over a limit.
    """
    roots, reader, own = _visit(meta, data, sizes, limits)
    if own:
        return None
    if reader is not None:
        reader.finish()
    checked: dict[str, Any] = roots["meta"]
    return checked


def _visit(
    meta: bytes, data: bytes, sizes: Sequence[int], limits: CodecLimits
) -> tuple[dict[str, Any], TreeReader | None, int]:
    """Both trees, checked; who fills them, None for plain JSON; and how many of the buffers are meta's."""
    root = "message"
    try:
        for index, size in enumerate(sizes):
            if type(size) is not int or size < 0:
                raise TreeError(f"size of buffer {index} must be an int of at least 0, but is {size!r:.80}")
        _check_text(meta, data, len(meta) + len(data) + sum(sizes), limits)
        roots = {}
        for root, text in (("meta", meta), ("data", data)):
            roots[root] = orjson.loads(text)
        root = "meta"
        if type(roots[root]) is not dict:
            raise TreeError(f"must be an object, but is {meta[:80]!r}")
        if not sizes and _is_plain(meta, limits) and _is_plain(data, limits):
            return roots, None, 0
        reader = _tree_reader()(sizes, limits)
        reader.visit_dict(roots, "meta")
        own = reader.used
        root = "data"
        reader.visit(roots, "data")
        root = "message"
        reader.check_complete()
    except TreeError as error:
        raise DecodeError(error.under(root)) from error.__cause__
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"{root}: not JSON: {error}") from None
    except (MemoryError, RuntimeError) as error:  # no memory for what was announced, or the caller's stack is full
        raise DecodeError(f"{root}: cannot be held: {error}") from error
    return roots, reader, own


def decode(
    meta: bytes, data: bytes, buffers: Sequence[bytes | memoryview], limits: CodecLimits = DEFAULT_LIMITS
) -> tuple[dict[str, Any], Any]:
    """Read a message whose buffers are here already; arrays are copies of them, and writable.

    Raises:
        DecodeError: as ``plan``.
    """
    planned = plan(meta, data, [len(buffer) for buffer in buffers], limits)
    for target, buffer in zip(planned.targets, buffers, strict=True):
        target[:] = buffer
    return planned.finish()


def _check_text(meta: bytes, data: bytes, nbytes: int, limits: CodecLimits) -> None:
    """Check what shows without parsing; parsed, JSON may take 20 times its size, so its values are counted before."""
    if nbytes > limits.max_bytes:
        raise TreeError(f"the message has {nbytes} bytes, over max_bytes = {limits.max_bytes}", too_large=True)
    most = limits.max_items
    if len(meta) + len(data) <= most:
        return
    if _count_items(meta) + _count_items(data) <= most:
        return
    items = _count_items(_STRINGS.sub(b"", meta)) + _count_items(_STRINGS.sub(b"", data))
    if items > most:
        raise TreeError(f"the message has {items} values, over max_items = {most}", too_large=True)


def _count_items(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{") + 1


def _is_plain(text: bytes, limits: CodecLimits) -> bool:
    """Whether JSON holds no mark and cannot be too deep, so that it is read already; most small messages are so."""
    if b'"$' in text or b"\\u0024" in text:
        return False
    return len(text) <= limits.max_depth or text.count(b"[") + text.count(b"{") <= limits.max_depth


# These import numpy, which takes longer than a command takes that shows texts.
@cache
def _tree_writer() -> type[TreeWriter]:
    from .tree_writer import TreeWriter

    return TreeWriter


@cache
def _tree_reader() -> type[TreeReader]:
    from .tree_reader import TreeReader

    return TreeReader
