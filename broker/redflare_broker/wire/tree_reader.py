"""From JSON values with marks back to a tree of user data.

Reading goes in two steps. ``visit`` walks the tree, checks every mark, and notes what goes where; nothing is
allocated. Once the buffers' sizes are known to be true, ``allocate`` makes the arrays, and when their bytes have
arrived ``finish`` puts in what had to wait for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np

from . import dtypes, tensors
from .limits import CodecLimits
from .tree_path import TreeError

Parent = dict[str, Any] | list[Any]
_FLOATS: Final = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
_INTEGER: Final = re.compile(r"-?[0-9]{1,4300}")


@dataclass(slots=True)
class _Slot:
    """A place in the tree that waits for a buffer."""

    parent: Any
    key: str | int
    kind: str
    nbytes: int
    dtype: str = ""
    shape: tuple[int, ...] = ()


class TreeReader:
    """Checks and fills the trees of one message, whose buffers share one numbering."""

    def __init__(self, sizes: Sequence[int], limits: CodecLimits) -> None:
        self._sizes = sizes
        self._limits = limits
        self._slots: list[_Slot | None] = [None] * len(sizes)
        self._tuples: list[tuple[Any, str | int, list[Any]]] = []
        self._bytes: list[tuple[Any, str | int, bytearray]] = []

    def visit(self, parent: Any, key: str | int, depth: int = 0) -> None:
        """Check the value at ``parent[key]``, and replace marks and escaped keys in place.

        Raises:
            TreeError: something in it is not of this protocol.
        """
        node = parent[key]
        kind = type(node)
        if kind is dict:
            name = next(iter(node), "") if len(node) == 1 else ""
            if name[:1] == "$" and name[:2] != "$$":
                self._mark(parent, key, name, node[name], depth)
            else:
                self.visit_dict(parent, key, depth)
        elif kind is list:
            self._children(node, range(len(node)), depth + 1)

    def visit_dict(self, parent: Any, key: str | int, depth: int = 0) -> None:
        """``visit`` for a dict that must stay one: a mark in its place is refused."""
        node = parent[key]
        if any(name[:1] == "$" for name in node):
            node = parent[key] = {_unescape(name): item for name, item in node.items()}
        self._children(node, list(node), depth + 1)

    def _children(self, node: Any, keys: Sequence[str | int], depth: int) -> None:
        if depth > self._limits.max_depth:
            raise TreeError(f"nested deeper than {self._limits.max_depth} levels")
        for key in keys:
            if type(node[key]) in (dict, list):
                try:
                    self.visit(node, key, depth)
                except TreeError as error:
                    raise error.at(key) from error.__cause__

    @property
    def used(self) -> int:
        """Buffers that the marks so far speak of."""
        return len(self._slots) - self._slots.count(None)

    def check_complete(self) -> None:
        """Raise TreeError when a buffer came that no mark speaks of."""
        if None in self._slots:
            raise TreeError(f"buffer {self._slots.index(None)} of {len(self._slots)} is not used by any value")

    def allocate(self) -> list[memoryview]:
        """Put new arrays in their places; the memory to be filled, one flat writable view per buffer."""
        return [self._place(slot) for slot in self._slots if slot is not None]

    def finish(self) -> None:
        """Put in the values that cannot be changed once they are made: bytes, then tuples from the innermost on."""
        for parent, key, memory in self._bytes:
            parent[key] = bytes(memory)
        for parent, key, items in self._tuples:
            parent[key] = tuple(items)

    def _place(self, slot: _Slot) -> memoryview:
        if slot.kind == "bytes":
            memory = bytearray(slot.nbytes)
            self._bytes.append((slot.parent, slot.key, memory))
            return memoryview(memory)
        if slot.kind == "nd":
            array = np.empty(slot.shape, dtypes.by_name(slot.dtype))
            value, target = array, dtypes.flat(array)
        else:
            value, target = tensors.allocate(slot.dtype, slot.shape)
        slot.parent[slot.key] = value
        return target

    def _mark(self, parent: Any, key: str | int, mark: str, body: Any, depth: int) -> None:
        handler = _MARKS.get(mark)
        if handler is None:
            raise TreeError(f"unknown mark {mark!r:.80}")
        handler(self, parent, key, body, depth)

    def _array(self, parent: Any, key: str | int, body: Any, depth: int) -> None:
        index, name, shape = _three(body, "$nd")
        try:
            nbytes = _volume(shape, dtypes.by_name(name).itemsize)
        except LookupError as error:
            raise TreeError(str(error)) from None
        self._take(index, _Slot(parent, key, "nd", nbytes, name, tuple(shape)))

    def _tensor(self, parent: Any, key: str | int, body: Any, depth: int) -> None:
        index, name, shape = _three(body, "$torch")
        try:
            nbytes = _volume(shape, tensors.item_size(name))
            tensors.check_representable(name)
        except LookupError as error:
            raise TreeError(str(error)) from None
        self._take(index, _Slot(parent, key, "torch", nbytes, name, tuple(shape)))

    def _bytes_value(self, parent: Any, key: str | int, body: Any, depth: int) -> None:
        if type(body) is not list or len(body) != 2 or not _is_size(body[1]):
            raise TreeError(f"$bytes needs [index, length], but has {body!r:.80}")
        self._take(body[0], _Slot(parent, key, "bytes", body[1]))

    def _tuple(self, parent: Any, key: str | int, body: Any, depth: int) -> None:
        if type(body) is not list:
            raise TreeError(f"$tuple needs a list, but has {body!r:.80}")
        self._children(body, range(len(body)), depth + 1)
        self._tuples.append((parent, key, body))

    def _take(self, index: Any, slot: _Slot) -> None:
        """Give buffer ``index`` to ``slot``: it must be there, free, and of exactly the size the mark speaks of."""
        if not _is_size(index) or index >= len(self._slots):
            raise TreeError(f"there is no buffer {index!r:.80}: the message has {len(self._slots)}")
        if self._slots[index] is not None:
            raise TreeError(f"buffer {index} is used twice")
        if slot.nbytes != self._sizes[index]:
            raise TreeError(f"buffer {index} should have {slot.nbytes} bytes, but has {self._sizes[index]}")
        self._slots[index] = slot


_Handler = Callable[[TreeReader, Any, str | int, Any, int], None]


def _put(read: Callable[[Any], Any]) -> _Handler:
    def handler(_reader: TreeReader, parent: Any, key: str | int, body: Any, _depth: int) -> None:
        parent[key] = read(body)

    return handler


def _unescape(name: str) -> str:
    if name[:1] != "$":
        return name
    if name[:2] != "$$":
        raise TreeError(f"mark {name!r:.80} is not legal here: it must be the only key of a value in the tree")
    return name[1:]


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _three(body: Any, mark: str) -> tuple[Any, str, list[int]]:
    if type(body) is not list or len(body) != 3:
        raise TreeError(f"{mark} needs [index, dtype, shape], but has {body!r:.80}")
    return body[0], body[1], body[2]


def _volume(shape: Any, item_size: int) -> int:
    if type(shape) is not list or not all(map(_is_size, shape)):
        raise TreeError(f"shape must be a list of sizes, but is {shape!r:.80}")
    if len(shape) > dtypes.MAX_RANK:
        raise TreeError(f"{len(shape)} dimensions are too many: at most {dtypes.MAX_RANK} are read")
    # numpy cannot address more, even where a dimension of zero makes the array empty
    if prod(filter(None, shape)) * item_size >= 1 << 63:
        raise TreeError(f"shape {shape!r:.80} is beyond what can be addressed")
    return prod(shape) * item_size


def _float(body: Any) -> float:
    if not isinstance(body, str) or body not in _FLOATS:
        raise TreeError(f"$float must be one of {', '.join(_FLOATS)}, but is {body!r:.80}")
    return _FLOATS[body]


def _integer(body: Any) -> int:
    if not isinstance(body, str) or not _INTEGER.fullmatch(body):
        raise TreeError(f"$int must be decimal digits, at most 4300, but is {body!r:.80}")
    try:
        return int(body)
    except ValueError as error:  # the interpreter is set to allow fewer
        raise TreeError(f"$int cannot be read: {error}") from None


def _scalar(body: Any) -> Any:
    if type(body) is not list or len(body) != 2:
        raise TreeError(f"$np needs [dtype, value], but has {body!r:.80}")
    name, value = body
    try:
        dtype = dtypes.by_name(name)
        if isinstance(value, str):
            if len(value) != 2 * dtype.itemsize:
                raise ValueError(f"{value!r:.80} is not the hex of a {name}")
            return np.frombuffer(bytes.fromhex(value), dtype)[0]
        if type(value) not in (bool, int, float):
            raise ValueError(f"value {value!r:.80} is not a number")
        with np.errstate(all="ignore"):
            scalar = dtype.type(value)
        if scalar.item() != value:
            raise ValueError(f"{value!r:.80} is not a value of {name}")
    except (LookupError, ValueError, TypeError, OverflowError) as error:
        raise TreeError(f"$np cannot be read: {error}") from None
    return scalar


#: How each mark is read. Plain functions: a reader that held its own methods would be a cycle, and keep a message's
#: arrays in memory until the garbage collector comes by.
_MARKS: Final[dict[str, _Handler]] = {
    "$nd": TreeReader._array,
    "$torch": TreeReader._tensor,
    "$bytes": TreeReader._bytes_value,
    "$np": _put(_scalar),
    "$float": _put(_float),
    "$int": _put(_integer),
    "$tuple": TreeReader._tuple,
}
